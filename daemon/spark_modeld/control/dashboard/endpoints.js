// Where clients connect, each address with a button that copies it.

import { copyable } from './copy.js';
import { h } from './dom.js';

export function endpointsPanel(store) {
  const here = location.origin;
  const own = store.models.map((model) => ({ name: model.id, url: model.url, note: `${model.engine}, its own port` }));
  const ports = store.models.filter((model) => model.gateway_port)
    .map((model) => ({ name: `${model.id}, through the gateway`, url: `http://127.0.0.1:${model.gateway_port}/v1`, note: 'always means this model' }));
  const listed = [{ name: 'Control API', url: here, note: 'this page; wants a token' }, ...ports, ...own];
  return h('section', { class: 'panel endpoints', 'aria-labelledby': 'endpoints-title' },
    h('h2', { id: 'endpoints-title', class: 'eyebrow' }, 'Endpoints'),
    h('ul', { class: 'addresses' }, listed.map((each) => h('li', { key: `${each.name} ${each.url}` },
      h('span', { class: 'name' }, each.name), copyable(each.url), h('span', { class: 'aside' }, each.note)))));
}
