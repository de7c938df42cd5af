// A button for something that is asked of the daemon.

import { h } from './dom.js';

/**
 * While it cannot be asked for it says so and stays where it is: a button that was disabled or taken away under a
 * keyboard user's hands would take the focus with it.
 */
export function press(store, kind, act, ...label) {
  const can = act !== null && store.connection === 'live';
  return h('button', { type: 'button', class: kind, 'aria-disabled': can ? null : 'true', onclick: () => can && act() }, label);
}
