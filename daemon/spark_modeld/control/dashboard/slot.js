// The slot: what serves, since when, and the switch under way with its phases.

import { copyable } from './copy.js';
import { h } from './dom.js';
import { stateMark } from './marks.js';
import { press } from './press.js';
import { ago, count, lasting, span } from './text.js';

const PHASES = ['queued', 'admitting', 'draining', 'stopping', 'reclaiming', 'starting', 'warming', 'ready'];
const DOING = {
  queued: 'Waiting for its turn',
  admitting: 'Checking that it fits',
  draining: 'Letting requests finish',
  stopping: 'Stopping what was there',
  reclaiming: 'Waiting for memory to come back',
  starting: 'Starting its unit',
  warming: 'Loading, until it answers',
  ready: 'Ready',
};

export function slotPanel(store, actions) {
  const { slot, switch: current, desired, queue } = store.status;
  return h('section', { class: 'panel slot', 'aria-labelledby': 'slot-title' },
    h('h2', { id: 'slot-title', class: 'eyebrow' }, 'Slot'),
    h('p', { class: `occupant ${slot.model ? '' : 'nobody'}` }, slot.model ?? 'Nothing is serving'),
    h('p', { class: 'facts' },
      stateMark(slot.phase),
      slot.since && h('span', {}, `for ${lasting((store.now - Date.parse(slot.since)) / 1000)}`),
      ['serving', 'draining'].includes(slot.phase) && h('span', {}, slot.in_flight ? `answering ${count(slot.in_flight, 'request')}` : 'no request in flight'),
      slot.model && !current && press(store, 'quiet', () => actions.switchTo(null), 'Empty the slot')),
    reason(store.status),
    desired !== slot.model && !current && h('p', { class: 'reason' }, desired ? ['It is meant to be ', h('strong', {}, desired), '.'] : `It is meant to be empty${slot.model ? '' : '. Switch to a model below; a request at the gateway may start one, too'}.`),
    queue.map((each) => h('p', { key: `queue ${each.model}`, class: 'reason' },
      `${count(each.waiters, 'request')} ${each.waiters === 1 ? 'waits' : 'wait'} for ${each.model}, the first for ${lasting((store.now - Date.parse(each.since)) / 1000)}.`)),
    current ? underWay(current, store, actions) : slot.model && about(slot, store));
}

/** Why the slot is as it is, unless the failure below tells it. */
function reason({ slot, last_failure: failure }) {
  if (!slot.reason || (failure?.error && slot.reason.startsWith(failure.error.detail))) return null;
  return h('p', { class: 'reason' }, slot.reason);
}

function about(slot, store) {
  const last = store.switches.find((each) => each.outcome === 'ready' && !each.noop);
  const came = last?.model === slot.model ? last : null;
  return h('dl', { key: 'about', class: 'numbers foot-of-it' },
    fact('answers at', copyable(slot.url, 'its address')),
    fact('unit', copyable(slot.unit, 'its unit')),
    came && fact('came', `from ${came.from ?? 'an empty slot'} in ${span((Date.parse(came.finished_at) - Date.parse(came.started_at)) / 1000)}, ${ago(Date.parse(came.finished_at), store.now)}`),
    came && fact('asked for by', came.actor ?? came.requested_by));
}

function fact(word, value) {
  return h('div', { key: word }, h('dt', {}, word), h('dd', {}, value));
}

function underWay(current, store, actions) {
  const elapsed = (store.now - Date.parse(current.started_at)) / 1000;
  const back = current.rollback;
  // It was said with the status, and has gone on since.
  const left = current.eta_s === null ? null : Math.max(0, current.eta_s - (store.now - store.heardAt) / 1000);
  const [doing, remaining] = outlook(current, left);
  return h('div', { key: 'switch', class: 'switch' },
    h('div', { class: 'switch-head' },
      h('h3', {}, back ? `Going back to ${back.model}` : current.model === null ? 'Emptying the slot' : `Switching to ${current.model}`),
      press(store, 'plain', () => actions.cancel(current.id), 'Cancel', h('span', { class: 'unseen' }, ' the switch'))),
    bar(share(current, elapsed, left), [doing, remaining].filter(Boolean).join(', ')),
    h('p', { class: 'doing' },
      h('span', {}, back ? `${DOING[back.phase]} (${current.model ?? 'the switch'} failed)` : (doing ?? DOING[current.phase])),
      h('span', { class: 'number' }, lasting(elapsed)),
      remaining && h('span', {}, remaining)),
    h('ol', { class: 'phases' }, steps(current, elapsed).map(step)));
}

/** How far it is, 0 to 1: by the time that is left where earlier switches tell it, else by what its engine says. */
function share(current, elapsed, left) {
  if (left > 0) return elapsed / (elapsed + left);
  return current.progress;
}

function bar(share, words) {
  const percent = share === null ? null : Math.round(share * 100);
  return h('div', { class: `progress ${share === null ? 'unknown' : ''}`, role: 'progressbar', 'aria-label': 'Progress of the switch', 'aria-valuemin': 0, 'aria-valuemax': 100, 'aria-valuenow': percent, 'aria-valuetext': words || null },
    h('div', { 'width%': percent }));
}

/** What its engine is doing, and how long it will take. */
function outlook({ step, progress, estimate }, left) {
  const doing = step && (progress === null ? upper(step) : `${upper(step)}, ${Math.round(progress * 100)} %`);
  if (left === null) return [doing, null];
  const times = estimate?.times > 1 ? `, as the last ${estimate.times} times` : ', as the last time';
  return [doing, left > 0 ? `about ${lasting(Math.max(1, left))} left${estimate ? times : ''}` : 'longer than it used to take'];
}

function upper(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** The phases that this switch goes through: those it skipped have no time and lie behind it. */
function steps(current, elapsed) {
  const at = PHASES.indexOf(current.phase);
  const spent = Object.values(current.timings).reduce((sum, each) => sum + each, 0);
  return PHASES.map((name, index) => {
    const seconds = current.timings[name];
    if (index < at) return { name, seconds, state: seconds === undefined ? 'skipped' : 'done' };
    if (index > at) return { name, state: 'ahead' };
    return { name, seconds: Math.max(0, elapsed - spent), state: 'now' };
  }).filter(({ name, state }) => state !== 'skipped' && !(current.model === null && ['starting', 'warming'].includes(name)));
}

function step({ name, seconds, state }) {
  return h('li', { key: name, class: state, 'aria-current': state === 'now' ? 'step' : null },
    h('span', { class: 'name' }, name),
    h('span', { class: 'number' }, seconds === undefined ? '' : state === 'now' ? lasting(seconds) : span(seconds)));
}

