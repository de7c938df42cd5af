// What a person can have done, and what is asked of them before it is.

import { Away, Refused } from './api.js';
import { confirm } from './dialog.js';
import { count } from './text.js';

export class Actions {
  #api;
  #store;

  constructor(api, store, say) {
    this.#api = api;
    this.#store = store;
    this.say = say;
  }

  /** Switches to this model, null empties the slot; asks first where somebody would be cut off. */
  async switchTo(model, force = false) {
    await this.#store.want('status').catch(() => {});
    const doubts = this.#doubts(model, force);
    const title = force ? `Switch to ${model} all the same?` : model === null ? 'Empty the slot?' : `Switch to ${model}?`;
    const yes = force ? 'Switch all the same' : model === null ? 'Empty the slot' : `Switch to ${model}`;
    if (doubts.length && !(await confirm(title, doubts, yes))) return;
    await this.#ask(async () => {
      const asked = await this.#api.post('api/switch', { model, force });
      this.say(asked.noop ? `${model ?? 'Nothing'} is in the slot already.` : `Switch to ${model ?? 'an empty slot'} requested.`);
    });
  }

  #doubts(model, force) {
    const { slot, switch: current, queue } = this.#store.status;
    const doubts = [];
    if (force) doubts.push('What its check found does not stand in the way then; memory under the floor still does.');
    if (slot.in_flight) {
      const those = slot.in_flight === 1 ? 'It' : 'They';
      doubts.push(`${slot.model} is answering ${count(slot.in_flight, 'request')}. ${those} may finish until the drain deadline; what is left then is cut off.`);
    }
    if (current && current.model !== model) {
      doubts.push(`A switch to ${current.model ?? 'an empty slot'} is under way; this one takes its place.`);
    }
    const waiting = queue.filter((each) => each.model !== model).reduce((sum, each) => sum + each.waiters, 0);
    if (waiting) doubts.push(`${count(waiting, 'request')} ${waiting === 1 ? 'waits' : 'wait'} for ${queue.map((each) => each.model).join(', ')}.`);
    if (model === null && !doubts.length) doubts.push(`Nothing will answer until somebody switches again, or a request starts a model.`);
    return doubts;
  }

  /** Cancels the switch under way. */
  cancel(id) {
    return this.#ask(async () => {
      await this.#api.delete(`api/switches/${id}`);
      this.say('The switch is being cancelled.');
    });
  }

  /** Starts a side model. */
  start(model) {
    return this.#ask(() => this.#api.post(`api/models/${model}/start`));
  }

  /** Stops a side model; asks first while it answers somebody. */
  async stop(model, inFlight) {
    const doubts = [`${model} is answering ${count(inFlight, 'request')}.`];
    if (inFlight && !(await confirm(`Stop ${model}?`, doubts, `Stop ${model}`))) return;
    await this.#ask(() => this.#api.post(`api/models/${model}/stop`));
  }

  /** Has the configuration read again. */
  reload() {
    return this.#ask(async () => {
      await this.#api.post('api/reload');
      this.say('The configuration is in force.');
    });
  }

  async #ask(call) {
    this.#store.set({ notice: null });
    try {
      await call();
      await this.#store.want('status', 'models');
    } catch (error) {
      this.#tell(error);
    }
  }

  #tell(error) {
    if (error instanceof Refused) this.#store.set({ notice: error.body });
    else if (error instanceof Away) this.#store.set({ notice: { title: 'The daemon did not answer', detail: 'Whether it has heard of this shows when it is back.' } });
    else throw error;
  }
}
