// Keeps the page true: follows the daemon's events, and finds the daemon again when it was away.

import { Away, Refused } from './api.js';
import { events } from './stream.js';

const FIRST_WAIT = 400;
const LONGEST_WAIT = 8000;
/** The daemon says something at least every 15 s. A laptop that slept has a stream that nobody writes to any more. */
const SILENCE = 40_000;
const HIDDEN = new Error('nobody looks');

export class Live {
  #api;
  #wake = () => {};
  #ending = new AbortController();
  #hidden = false;

  /** `on.connected()` fetches what there is, `on.event(event)`, `on.away()`, `on.token(refusal)`, `on.refused(refusal)`. */
  constructor(api, on) {
    this.#api = api;
    this.on = on;
  }

  /** Tries again at once: there is a token, or somebody asked for it. */
  again() {
    this.#wake();
  }

  /** A page that nobody sees holds no connection: browsers have six for all pages of a daemon together. */
  hide(is) {
    const was = this.#hidden;
    this.#hidden = is;
    if (is) this.#ending.abort(HIDDEN);
    else if (was) this.again();
  }

  /** Goes on for as long as the page does. */
  async run() {
    let wait = FIRST_WAIT;
    for (;;) {
      if (this.#hidden) await this.#pause(null);
      try {
        await this.#follow(() => (wait = FIRST_WAIT));
        this.on.away();
      } catch (error) {
        if (this.#ending.signal.reason === HIDDEN) continue;
        if (error instanceof Refused && error.status === 401) {
          this.on.token(this.#api.hasToken ? error : null);
          await this.#pause(null);
          continue;
        }
        if (error instanceof Refused) this.on.refused(error);
        else if (error instanceof Away || error.name === 'AbortError' || error instanceof TypeError) this.on.away();
        else throw error;
      }
      await this.#pause(wait);
      wait = Math.min(LONGEST_WAIT, wait * 1.7);
    }
  }

  async #follow(connected) {
    const ending = (this.#ending = new AbortController());
    let silence;
    const beat = () => {
      clearTimeout(silence);
      silence = setTimeout(() => ending.abort(), SILENCE);
    };
    try {
      beat();
      const response = await this.#api.open('api/events', ending.signal);
      await this.on.connected();
      connected();
      for await (const event of events(response, beat)) this.on.event(event);
    } finally {
      clearTimeout(silence);
      ending.abort();
    }
  }

  #pause(milliseconds) {
    return new Promise((resolve) => {
      const timer = milliseconds === null ? null : setTimeout(resolve, milliseconds * (0.8 + Math.random() * 0.4));
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
