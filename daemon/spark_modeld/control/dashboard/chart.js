// Memory over time: who holds it, stacked from below; reserve and floor hang from the top, where it runs out.

import { h } from './dom.js';
import { WINDOW } from './store.js';

const WIDTH = 1000;
const HEIGHT = 220;
const SHORTEST = 20_000;
const LAYERS = 6;

/** The span that is shown: as long as there is something to show, at most ten minutes. */
export function reach(samples, now) {
  const first = samples[0]?.at ?? now;
  return Math.min(WINDOW, Math.max(SHORTEST, now - first));
}

/** The layers from below: models in the catalog's order, then others, then what nobody is seen to hold. */
export function layers(samples, order) {
  const most = new Map();
  for (const each of samples) {
    for (const one of each.holders) {
      const known = most.get(one.key);
      if (!known || known.bytes < one.bytes) most.set(one.key, one);
    }
  }
  const kept = [...most.values()].sort((a, b) => b.bytes - a.bytes).slice(0, LAYERS);
  const place = (one) => (one.kind === 'model' ? order.indexOf(one.label) : order.length);
  return kept.sort((a, b) => place(a) - place(b) || (a.key < b.key ? -1 : 1));
}

export function chart({ samples, now, order, tone, label }) {
  const total = samples.at(-1).total;
  const long = reach(samples, now);
  const x = (at) => Math.max(0, Math.min(WIDTH, WIDTH * (1 - (now - at) / long)));
  const y = (bytes) => HEIGHT * (1 - Math.min(1, Math.max(0, bytes / total)));
  const { reserve, floor } = samples.at(-1);
  let below = samples.map(() => 0);
  const drawn = layers(samples, order).map((layer) => {
    const above = samples.map((each, index) => below[index] + (each.holders.find((one) => one.key === layer.key)?.share ?? 0));
    const path = h('path', { key: layer.key, class: `layer ${tone(layer)}`, d: area(samples, below, above, x, y) });
    below = above;
    return path;
  });
  const used = samples.map((each) => each.total - each.available);
  return h('svg', { class: 'chart', viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': label },
    h('rect', { x: 0, y: 0, width: WIDTH, height: y(total - reserve), class: 'reserve' }),
    [0.25, 0.5, 0.75].map((share) => h('line', { key: share, x1: 0, x2: WIDTH, y1: HEIGHT * share, y2: HEIGHT * share, class: 'grid' })),
    h('path', { class: 'layer rest', d: area(samples, below, used.map((each, index) => Math.max(each, below[index])), x, y) }),
    drawn,
    h('path', { class: 'used', d: edge(samples, used, x, y) }),
    h('line', { x1: 0, x2: WIDTH, y1: y(total - reserve), y2: y(total - reserve), class: 'reserve-line' }),
    h('line', { x1: 0, x2: WIDTH, y1: y(total - floor), y2: y(total - floor), class: 'floor-line' }));
}

// A reading holds until the next one; the last one until now.
function edge(samples, values, x, y) {
  const points = samples.map((each, index) => `${x(each.at).toFixed(1)} ${y(values[index]).toFixed(1)}`);
  const steps = points.map((point, index) => (index ? `H${point.split(' ')[0]}V${point.split(' ')[1]}` : `M${point}`));
  return `${steps.join('')}H${WIDTH}`;
}

function area(samples, below, above, x, y) {
  let back = '';
  for (let index = samples.length - 1; index >= 0; index -= 1) {
    const right = index + 1 < samples.length ? x(samples[index + 1].at) : WIDTH;
    back += `L${right.toFixed(1)} ${y(below[index]).toFixed(1)}H${x(samples[index].at).toFixed(1)}`;
  }
  return `${edge(samples, above, x, y)}${back}Z`;
}
