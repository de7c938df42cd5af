// Where clients connect, each address with a button that copies it and calls to try.

import { copyable } from './copy.js';
import { h } from './dom.js';

const NAMES = { control: 'Control API', gateway: 'Gateway, every model' };
const REACH = { machine: 'this machine', network: 'the network', tailnet: 'the tailnet', internet: 'the internet' };
const NOTES = { 'gateway-port': 'through the gateway', engine: 'the engine itself' };

export function endpointsPanel(store) {
  const known = store.endpoints;
  return h('section', { class: 'panel endpoints', 'aria-labelledby': 'endpoints-title' },
    h('h2', { id: 'endpoints-title', class: 'eyebrow' }, known ? `Endpoints of ${known.tailscale?.name ?? known.host}` : 'Endpoints'),
    known ? h('ul', { class: 'addresses' }, known.endpoints.map(entry)) : h('p', { class: 'reason' }, 'They are not known yet.'));
}

function entry({ kind, url, reach, token, model, examples }) {
  const notes = [NOTES[kind], `from ${REACH[reach] ?? reach}`, token ? `token with scope ${token}` : 'no token'];
  return h('li', { key: `${kind} ${url} ${model}` },
    h('span', { class: 'name' }, NAMES[kind] ?? model),
    copyable(url),
    h('span', { class: 'aside' }, notes.filter(Boolean).join(' · ')),
    examples.length > 0 && h('details', { class: 'more' },
      h('summary', {}, 'Calls to try', h('span', { class: 'unseen' }, ` at ${url}`)),
      h('ul', { class: 'plain-list' }, examples.map((each) => h('li', { key: each }, copyable(each, 'this call'))))));
}
