// What the page knows, and how it comes to know it. Events say that something changed; what it is now is asked for.

import { Refused } from './api.js';
import { sample } from './holders.js';

export const WINDOW = 10 * 60_000;
const HISTORY = 25;
const OFTEN = 1000;
const PATIENCE = 1500;
const OUR_TURN = 5000;

export class Store {
  #api;
  #fetching = new Map();
  #measured = 0;
  #left = null;
  #soon = null;

  constructor(api) {
    this.#api = api;
    this.changed = () => {};
    this.connection = 'connecting';
    this.status = null;
    /** When it was told, by the daemon's clock. */
    this.heardAt = 0;
    /** Why there is no status: the problem of an invalid configuration. */
    this.problem = null;
    this.models = [];
    this.switches = [];
    this.memory = null;
    this.samples = [];
    this.endpoints = null;
    /** What checks found, by model: null while one looks, undefined where it was refused. */
    this.checks = new Map();
    this.opened = new Set();
    /** What the last thing that somebody asked for came to: {kind: 'bad' | 'good', text, problem, retry}. */
    this.notice = null;
    this.log = { model: null, chosen: false, lines: [], state: 'none' };
  }

  /** Now, by the daemon's clock, in milliseconds; while the daemon is away, when it was last there. */
  get now() {
    return (this.#left ?? Date.now()) + this.#api.ahead;
  }

  set(changes) {
    Object.assign(this, changes);
    if (this.connection === 'live') this.#left = null;
    else if (this.connection === 'away') this.#left ??= Date.now();
    this.changed();
  }

  /**
   * Fetches everything; returns when the page can be shown in one piece. A driver or a `tailscale` that hangs does not
   * hold it up for long.
   */
  async everything() {
    this.checks = new Map();
    this.#ask('endpoints');
    const reading = this.want('memory').catch(() => {});
    await this.want('status', 'models', 'switches');
    await Promise.race([reading, new Promise((resolve) => setTimeout(resolve, PATIENCE))]);
  }

  /** Fetches these; what is asked for again meanwhile is fetched once more, and that is waited for too. */
  want(...names) {
    return Promise.all(names.map((name) => this.#fetch(name)));
  }

  #fetch(name) {
    const running = this.#fetching.get(name);
    if (running) {
      running.again = true;
      return running.done;
    }
    const fetching = { again: true };
    this.#fetching.set(name, fetching);
    fetching.done = this.#work(name, fetching).finally(() => this.#fetching.delete(name));
    return fetching.done;
  }

  async #work(name, fetching) {
    while (fetching.again) {
      fetching.again = false;
      await this[`_${name}`]();
      this.changed();
    }
  }

  async _status() {
    try {
      const status = await this.#api.get('api/status');
      Object.assign(this, { status, problem: null, heardAt: this.now });
    } catch (error) {
      if (!(error instanceof Refused) || error.status === 401) throw error;
      this.problem = error.body;
    }
  }

  async _models() {
    this.models = (await this.#unlessRefused(this.#api.get('api/models')))?.models ?? [];
  }

  async _switches() {
    this.switches = (await this.#unlessRefused(this.#api.get(`api/switches?limit=${HISTORY}`)))?.switches ?? [];
  }

  async _endpoints() {
    this.endpoints = await this.#unlessRefused(this.#api.get('api/endpoints'));
  }

  async _memory() {
    this.#measured = Date.now();
    const memory = await this.#unlessRefused(this.#api.get('api/memory'));
    if (!memory) return;
    this.memory = memory;
    const fresh = sample(memory);
    if (this.samples.at(-1)?.at === fresh.at) return;
    const old = this.samples.filter((each) => each.at < fresh.at - WINDOW).length;
    // One from before the window stays: the lines begin at its left edge.
    this.samples = [...this.samples.slice(Math.max(0, old - 1)), fresh];
  }

  /** Whether somebody looks at this model's details. */
  open(model, is) {
    if (is) this.opened.add(model);
    else this.opened.delete(model);
    this.lookCloser();
  }

  /** Has the models that somebody looks at checked, where nothing is known of them since something changed. */
  lookCloser() {
    for (const model of this.opened) if (!this.checks.has(model)) this.#check(model).catch(() => {});
  }

  async #check(model) {
    const { checks } = this;
    checks.set(model, null);
    this.changed();
    checks.set(model, (await this.#unlessRefused(this.#api.get(`api/models/${model}/check`))) ?? undefined);
    this.changed();
  }

  async #unlessRefused(answer) {
    try {
      return await answer;
    } catch (error) {
      if (!(error instanceof Refused) || error.status === 401) throw error;
      return null;
    }
  }

  /** One event of the stream. */
  heard({ kind, data }) {
    if (kind === 'memory') {
      // Several readings a second come while a model loads: some of them are drawn.
      const wait = data.alarm ? 0 : Math.max(0, this.#measured + OFTEN - Date.now());
      this.#soon ??= setTimeout(() => {
        this.#soon = null;
        this.#ask('memory', 'status');
      }, wait);
    } else if (kind === 'config') {
      this.checks = new Map();
      this.#ask('status', 'models', 'endpoints');
    } else if (kind === 'switch' && data.outcome) {
      this.checks = new Map();
      this.#ask('status', 'models', 'switches', 'memory');
    } else {
      this.#ask('status', 'models');
    }
  }

  /** Now and then, while somebody looks: a reading, and the requests in flight, which no event tells. */
  look() {
    if (Date.now() - this.#measured >= OUR_TURN) this.#ask('memory', 'status', 'models');
  }

  #ask(...names) {
    // Who follows the events hears of a daemon that is away, or of a token that is no longer good.
    this.want(...names).catch(() => {});
  }
}
