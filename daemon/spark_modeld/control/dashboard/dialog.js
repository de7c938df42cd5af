// The one dialog: a question with its reasons. The focus goes to the harmless answer, and back to where it was.

import { h, render } from './dom.js';

/** Whether the answer was yes. */
export function confirm(title, reasons, yes) {
  const dialog = document.getElementById('dialog');
  const before = document.activeElement;
  return new Promise((resolve) => {
    const close = (answer) => () => dialog.close(answer);
    render(dialog,
      h('h2', { id: 'dialog-title' }, title),
      reasons.map((reason) => h('p', {}, reason)),
      h('div', { class: 'answers' },
        h('button', { type: 'button', class: 'plain', onclick: close('no') }, 'Leave it as it is'),
        h('button', { type: 'button', class: 'strong', onclick: close('yes') }, yes)));
    dialog.onclose = () => {
      render(dialog);
      if (before?.isConnected) before.focus();
      resolve(dialog.returnValue === 'yes');
    };
    dialog.returnValue = 'no';
    dialog.showModal();
    dialog.querySelector('button').focus();
  });
}
