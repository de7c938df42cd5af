// What went wrong: the sentence, the numbers, the unit's last words, and what they mean.

import { h } from './dom.js';
import { mark, wordOf } from './marks.js';
import { press } from './press.js';
import { ago, clean, size, span } from './text.js';

const NUMBERS = { needed: 'needed', available: 'available', returned: 'comes back', reserve: 'reserve', floor: 'floor', large: 'large from' };

/** The newest switch that failed; open while nothing has gone well since. */
export function failurePanel(store, actions) {
  const failure = store.status.last_failure;
  if (!failure?.error) return null;
  const latest = store.switches.find((each) => each.outcome !== null);
  // It is told before the history is there again that has it.
  const newest = !latest || latest.id === failure.id || !store.switches.some((each) => each.id === failure.id);
  const when = ago(Date.parse(failure.finished_at ?? failure.started_at), store.now);
  return h('section', { key: `failure ${failure.id}`, class: `panel failure ${newest ? 'fresh' : ''}`, 'aria-labelledby': 'failure-title' },
    h('details', { open: newest },
      h('summary', {},
        mark('bad'),
        h('h2', { id: 'failure-title' }, `${failure.error.title}: ${failure.model ?? 'empty slot'}`),
        h('span', { class: 'aside' }, when)),
      h('p', { class: 'became' }, became(failure)),
      problem(failure.error),
      retry(failure, store, actions)));
}

function became(failure) {
  const tried = `The switch to ${failure.model ?? 'an empty slot'} ${failure.outcome === 'rolled-back' ? 'was rolled back' : wordOf(failure.outcome)}`;
  const left = failure.outcome === 'rolled-back' && failure.from ? `; ${failure.from} was started again` : '';
  const after = failure.finished_at ? ` after ${span((Date.parse(failure.finished_at) - Date.parse(failure.started_at)) / 1000)}` : '';
  return `${tried}${after}${left}.`;
}

function retry(failure, store, actions) {
  if (failure.error.code !== 'check-failed' || failure.model === null) return null;
  return h('p', {}, press(store, 'plain', store.status.switch === null ? () => actions.switchTo(failure.model, true) : null, 'Try it all the same'));
}

/** A problem's members that people can use. */
export function problem(found) {
  const numbers = Object.entries(NUMBERS).filter(([name]) => typeof found[name] === 'number');
  const { reading } = found;
  return [
    found.detail && h('p', { class: 'detail' }, clean(found.detail)),
    numbers.length > 0 && h('dl', { class: 'numbers' }, numbers.map(([name, word]) => h('div', { key: name }, h('dt', {}, word), h('dd', {}, size(found[name]))))),
    reading && h('div', { class: 'reading' },
      h('p', {}, h('strong', {}, 'What its log says: '), clean(reading.message)),
      reading.hint && h('p', {}, h('strong', {}, 'What to do: '), clean(reading.hint))),
    list(found.holders, holder, 'Held by'),
    list(found.findings, finding, 'What was found'),
    words(found),
  ];
}

function list(entries, entry, title) {
  if (!Array.isArray(entries) || !entries.length) return null;
  return h('div', { key: title }, h('h3', {}, title), h('ul', { class: 'plain-list' }, entries.map(entry)));
}

function holder(held, index) {
  const name = held.model ?? `${held.command || 'a process'}, PID ${held.pid}${held.user ? ` of ${held.user}` : ''}`;
  return h('li', { key: index }, `${clean(name)}: ${size(held.bytes)}${held.memory === 'host' ? ' of host memory' : ''}`);
}

/** One finding of a check or of the configuration. */
export function finding(found, index) {
  const place = [found.file, found.key].filter(Boolean).join(': ');
  return h('li', { key: index, class: `finding ${found.level ?? 'error'}` },
    found.level && h('span', { class: 'level' }, found.level),
    h('span', {}, place && h('code', {}, clean(place)), ' ', clean(found.message), found.hint && h('span', { class: 'hint' }, ` ${clean(found.hint)}`)));
}

function words({ log, unit, result, reading }) {
  const said = Array.isArray(log) ? log.map(clean) : [];
  if (reading?.line && !said.includes(clean(reading.line))) said.unshift(clean(reading.line));
  if (!said.length) return null;
  const title = `Last words of ${unit ?? 'its unit'}${result && result !== 'success' ? ` (${result})` : ''}`;
  const telling = clean(reading?.line ?? '');
  return h('div', {}, h('h3', {}, title),
    h('pre', { class: 'words', tabindex: 0, 'aria-label': title },
      said.map((line, index) => h('span', { key: index, class: line === telling ? 'telling' : null }, `${line}\n`))));
}
