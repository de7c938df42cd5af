// The last switches: from, to, how it ended, and where the time went.

import { h } from './dom.js';
import { problem } from './failure.js';
import { stateMark } from './marks.js';
import { ago, clock, span } from './text.js';

const PHASES = ['queued', 'admitting', 'draining', 'stopping', 'reclaiming', 'starting', 'warming'];
const SHOWN = 12;

export function historyPanel(store) {
  const ended = store.switches.filter((each) => each.outcome !== null && !each.noop).slice(0, SHOWN);
  const longest = Math.max(...ended.map(lasted), 0.001);
  return h('section', { class: 'panel history', 'aria-labelledby': 'history-title' },
    h('div', { class: 'panel-head' },
      h('h2', { id: 'history-title', class: 'eyebrow' }, 'History'),
      ended.length > 0 && h('ul', { class: 'legend', 'aria-hidden': 'true' }, PHASES.slice(1).map((phase) => h('li', { key: phase }, h('span', { class: `swatch phase-${phase}` }), phase)))),
    ended.length
      ? h('ol', { class: 'past' }, ended.map((each) => entry(each, longest, store.now)))
      : h('p', { class: 'reason' }, 'No switch yet.'));
}

function lasted(each) {
  return (Date.parse(each.finished_at) - Date.parse(each.started_at)) / 1000;
}

function entry(each, longest, now) {
  const times = PHASES.filter((phase) => each.timings[phase] !== undefined).map((phase) => [phase, each.timings[phase]]);
  return h('li', { key: each.id },
    h('details', {},
      h('summary', {},
        h('span', { class: 'way' }, h('span', { class: 'from' }, each.from ?? 'empty'), h('span', { class: 'arrow' }, ' → '), h('span', { class: 'to' }, each.model ?? 'empty')),
        stateMark(each.outcome),
        h('span', { class: 'bar', 'aria-hidden': 'true' }, times.map(([phase, seconds]) => h('span', { key: phase, class: `phase-${phase}`, 'width%': (100 * seconds) / longest }))),
        h('span', { class: 'number total' }, span(lasted(each))),
        h('time', { class: 'aside', datetime: each.started_at, title: clock(Date.parse(each.started_at)) }, ago(Date.parse(each.started_at), now))),
      h('div', { class: 'about' },
        h('p', { class: 'aside' }, `${each.id}, asked for by ${each.actor ?? each.requested_by} at ${clock(Date.parse(each.started_at))}${each.reason ? `: ${each.reason}` : ''}`),
        times.length > 0 && h('dl', { class: 'numbers' }, times.map(([phase, seconds]) => h('div', { key: phase }, h('dt', {}, phase), h('dd', {}, span(seconds))))),
        each.error && problem(each.error))));
}
