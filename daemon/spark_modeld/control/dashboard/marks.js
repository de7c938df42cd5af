// States as a shape, a colour and a word: none of the three stands alone.

import { h } from './dom.js';

const SHAPES = {
  good: () => [h('circle', { cx: 8, cy: 8, r: 6, class: 'fill' })],
  busy: () => [h('circle', { cx: 8, cy: 8, r: 5.5, class: 'ring' }), h('path', { d: 'M8 2.5a5.5 5.5 0 0 1 0 11z', class: 'fill' })],
  ending: () => [h('path', { d: 'M8 1.8 14.2 8 8 14.2 1.8 8z', class: 'ring' })],
  bad: () => [h('path', { d: 'M8 1.5 15 14H1z', class: 'fill' }), h('path', { d: 'M8 6v4M8 11.6v.9', class: 'cut' })],
  rest: () => [h('circle', { cx: 8, cy: 8, r: 5.5, class: 'ring' })],
  dark: () => [h('circle', { cx: 8, cy: 8, r: 5.5, class: 'ring dashed' })],
};

const KINDS = {
  serving: 'good', ready: 'good', ok: 'good',
  reclaiming: 'busy', starting: 'busy', warming: 'busy', queued: 'busy', admitting: 'busy',
  draining: 'ending', stopping: 'ending', superseded: 'rest', cancelled: 'rest',
  failed: 'bad', stuck: 'bad', 'rolled-back': 'bad',
  empty: 'rest', stopped: 'rest', unknown: 'dark',
};

const WORDS = {
  starting: 'starting', warming: 'loading', reclaiming: 'waiting for memory', 'rolled-back': 'rolled back',
};

/** good, busy, ending, bad, rest or dark. */
export function kindOf(state) {
  return KINDS[state] ?? 'dark';
}

/** A state in plain words. */
export function wordOf(state) {
  return WORDS[state] ?? state;
}

/** The shape alone; whoever uses it says the word beside it. */
export function mark(kind, extra = '') {
  return h('svg', { class: `mark ${kind} ${extra}`, viewBox: '0 0 16 16', 'aria-hidden': 'true', focusable: 'false' }, SHAPES[kind]());
}

/** Shape and word. */
export function stateMark(state, word = wordOf(state)) {
  const kind = kindOf(state);
  return h('span', { class: `state ${kind}` }, mark(kind), h('span', {}, word));
}
