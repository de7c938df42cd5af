// Memory: how much is left, as a number; who holds it, over time and as a list.

import { chart, reach } from './chart.js';
import { h } from './dom.js';
import { mark } from './marks.js';
import { gib, lasting, size } from './text.js';

const TONES = 5;

export function memoryPanel(store) {
  const summary = store.memory ?? store.status.memory;
  return h('section', { class: 'panel memory', 'aria-labelledby': 'memory-title' },
    h('h2', { id: 'memory-title', class: 'eyebrow' }, 'Memory'),
    summary ? [
      h('p', { class: 'left' }, h('span', { class: 'figure' }, gib(summary.available)), h('span', { class: 'unit' }, ` GiB available of ${gib(summary.total)}`)),
      level(summary),
      store.samples.length > 0 && [drawing(store), holdersList(store)],
      h('p', { class: 'aside' }, source(summary)),
      summary.notes.map((note, index) => h('p', { key: index, class: 'aside' }, note)),
    ] : h('p', { class: 'reason' }, 'There is no reading yet.'));
}

function level({ available, reserve, floor, stale }) {
  if (stale) return h('p', { class: 'alarm' }, mark('bad'), ' The driver does not answer: who holds memory is as it was before.');
  if (available < floor) return h('p', { class: 'alarm' }, mark('bad'), ` Under the floor of ${size(floor)}.`);
  if (available < reserve) return h('p', { class: 'alarm' }, mark('bad'), ` Under the reserve of ${size(reserve)}.`);
  return null;
}

function toneOf(store) {
  // The default first, so that what is mostly seen has the page's own colour.
  const order = [...store.models].sort((a, b) => b.default - a.default).map((each) => each.id);
  return (holder) => (holder.kind === 'model' ? `tone-${Math.max(0, order.indexOf(holder.label)) % TONES}` : 'tone-other');
}

function drawing(store) {
  const { samples, now } = store;
  const latest = samples.at(-1);
  const label = `Memory in use over the last ${lasting(reach(samples, now) / 1000)}: now ${size(latest.total - latest.available)} of ${size(latest.total)}. The list below has the numbers.`;
  return h('figure', {},
    chart({ samples, now, order: store.models.map((each) => each.id), tone: toneOf(store), label }),
    h('figcaption', { class: 'axis', 'aria-hidden': 'true' }, h('span', {}, `${lasting(reach(samples, now) / 1000)} ago`), h('span', {}, 'now')));
}

function holdersList(store) {
  const latest = store.samples.at(-1);
  const tone = toneOf(store);
  const used = latest.total - latest.available;
  const seen = latest.holders.reduce((sum, each) => sum + each.share, 0);
  const free = Math.max(0, latest.available - latest.reserve);
  return h('ul', { class: 'holders' },
    latest.holders.slice(0, 8).map((each) => row(each.key, tone(each), each.label, each.bytes)),
    row('rest', 'rest', latest.holders.length ? 'everything else' : 'in use', used - seen),
    row('free', 'free', 'free for models', free),
    row('reserve', 'reserve', 'reserve, never given to a model', latest.reserve),
    row('floor', 'floor', 'floor, where a load is ended', latest.floor));
}

function row(key, swatch, label, bytes) {
  return h('li', { key }, h('span', { class: `swatch ${swatch}`, 'aria-hidden': 'true' }), h('span', {}, label), h('span', { class: 'number' }, size(bytes)));
}

function source({ source: kind, gpu }) {
  const shapes = { unified: 'shared by CPU and GPU', discrete: 'of the GPU', host: 'of the machine; no GPU was found' };
  return `${gpu ? `${gpu}, memory ` : 'Memory '}${shapes[kind] ?? kind}`;
}
