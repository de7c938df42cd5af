// Says aloud what a screen reader's user would otherwise miss, and keeps the title of the tab true.

import { wordOf } from './marks.js';

export class News {
  #store;
  #before = {};

  constructor(store) {
    this.#store = store;
    this.say = (text) => {
      document.getElementById('said').textContent = text;
    };
  }

  /** Compares what is with what was said last. */
  look() {
    const { connection, status } = this.#store;
    document.title = title(connection, status);
    if (!status) return;
    const now = { connection, phase: status.slot.phase, model: status.slot.model, failure: status.last_failure?.id ?? null };
    const before = this.#before;
    this.#before = now;
    if (before.phase === undefined) return;
    if (now.connection !== before.connection) {
      if (now.connection === 'away') this.say('The daemon is away.');
      if (now.connection === 'live' && before.connection === 'away') this.say('The daemon is back.');
    }
    if (now.failure && now.failure !== before.failure) this.say(`The switch to ${status.last_failure.model} failed: ${status.last_failure.error?.detail ?? ''}`);
    else if (now.model !== before.model || now.phase !== before.phase) this.say(now.model ? `${now.model}: ${wordOf(now.phase)}.` : 'The slot is empty.');
  }
}

function title(connection, status) {
  if (connection === 'away') return 'daemon away · spark-modeld';
  if (!status) return 'spark-modeld';
  const { slot, switch: current } = status;
  if (current) return `… ${current.model ?? 'emptying'} · spark-modeld`;
  return `${slot.model ? `${slot.model} ${wordOf(slot.phase)}` : 'empty'} · spark-modeld`;
}
