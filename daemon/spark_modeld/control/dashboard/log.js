// The log of one model, as it is written: of what loads now, unless somebody chose another.

import { Away, Refused } from './api.js';
import { h } from './dom.js';
import { lines } from './stream.js';
import { clean, clock } from './text.js';

const KEPT = 500;
const BEFORE = 100;
const RETRY = 5000;

export class Logs {
  #api;
  #store;
  #ending = new AbortController();
  #ended = 0;

  constructor(api, store) {
    this.#api = api;
    this.#store = store;
  }

  /** Shows this model's log; `chosen` by a person, who is taken there. */
  choose(model, chosen = false) {
    const { log } = this.#store;
    if (chosen) {
      log.chosen = true;
      document.getElementById('log')?.scrollIntoView({ block: 'nearest' });
      document.getElementById('log-lines')?.focus({ preventScroll: true });
    }
    if (model !== log.model) this.#store.set({ log: { ...log, model, lines: [] } });
    this.follow();
  }

  /** What loads, else what is in the slot, else what was shown. */
  look() {
    const { log, status, models } = this.#store;
    const coming = status?.switch?.model;
    if (coming && coming !== log.model && status.switch.timings.admitting !== undefined) {
      this.#store.log.chosen = false;
      this.choose(coming);
    } else if (log.model === null || !models.some((each) => each.id === log.model)) {
      const first = coming ?? status?.slot.model ?? status?.last_failure?.model;
      if (first && first !== log.model) this.choose(first);
    } else if (log.state === 'none' || (log.state === 'ended' && Date.now() - this.#ended > RETRY)) {
      this.follow();
    }
  }

  /** Ends it; nobody looks, or nobody answers. */
  pause() {
    this.#ending.abort();
    this.#store.log.state = 'none';
  }

  async follow() {
    this.pause();
    const { signal } = (this.#ending = new AbortController());
    const { log } = this.#store;
    if (!log.model) return;
    log.state = 'following';
    const before = log.lines.at(-1)?.time;
    let problem = null;
    try {
      const response = await this.#api.open(`api/models/${log.model}/logs?follow=true&lines=${BEFORE}`, signal);
      for await (const line of lines(response)) if (line && !signal.aborted) this.#add(JSON.parse(line), before);
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof Refused || error instanceof Away || error instanceof TypeError)) throw error;
      problem = error instanceof Refused ? error.message : null;
    }
    if (signal.aborted) return;
    this.#ended = Date.now();
    this.#store.set({ log: { ...this.#store.log, state: 'ended', problem } });
  }

  #add(line, before) {
    const { log } = this.#store;
    if (before && line.time <= before) return;
    log.lines.push({ ...line, number: (log.lines.at(-1)?.number ?? 0) + 1 });
    if (log.lines.length > KEPT) log.lines.splice(0, log.lines.length - KEPT);
    this.#store.changed();
  }
}

export function logPanel(store, logs) {
  const { log, models } = store;
  if (!models.length) return null;
  return h('section', { class: 'panel log', id: 'log', 'aria-labelledby': 'log-title' },
    h('div', { class: 'panel-head' },
      h('h2', { id: 'log-title', class: 'eyebrow' }, 'Log'),
      h('label', {}, h('span', { class: 'unseen' }, 'Log of '),
        h('select', { id: 'log-model', onchange: (event) => logs.choose(event.target.value, true) },
          models.map((each) => h('option', { key: each.id, value: each.id, selected: each.id === log.model }, each.id))))),
    h('div', { id: 'log-lines', class: 'lines', tabindex: 0, role: 'log', 'aria-live': 'off', 'aria-label': `Log of ${log.model ?? 'no model'}` },
      log.lines.length
        ? log.lines.map((line) => h('p', { key: line.number }, h('time', { datetime: line.time }, clock(Date.parse(line.time))), h('span', {}, clean(line.text))))
        : h('p', { class: 'reason' }, clean(log.problem ?? 'It has not said anything yet.'))));
}
