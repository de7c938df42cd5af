// A text with a button that copies it.

import { h } from './dom.js';

let say = () => {};

/** Who tells that it was copied. */
export function tellWith(tell) {
  say = tell;
}

export function copyable(text, what = text) {
  return h('span', { class: 'copyable' },
    h('code', {}, text),
    h('button', { type: 'button', class: 'copy', title: 'Copy', 'aria-label': `Copy ${what}`, onclick: (event) => copy(text, event.currentTarget) },
      h('svg', { viewBox: '0 0 16 16', class: 'icon', 'aria-hidden': 'true', focusable: 'false' },
        h('rect', { x: 5.5, y: 5.5, width: 8, height: 8, rx: 1.5 }), h('path', { d: 'M10.5 3.2V3A1.5 1.5 0 0 0 9 1.5H3.5A1.5 1.5 0 0 0 2 3v5.5A1.5 1.5 0 0 0 3.5 10h.2' }))));
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    say('The browser does not let this page copy.');
    return;
  }
  say(`Copied: ${text}`);
  button.classList.add('done');
  setTimeout(() => button.classList.remove('done'), 1500);
}
