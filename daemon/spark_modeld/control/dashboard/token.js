// Asks for the token. What is typed goes to the API object; the field goes with the question.

import { copyable } from './copy.js';
import { h } from './dom.js';

const COMMAND = 'sudo spark-modelctl token add --scope control dashboard';

export function tokenPanel(refusal, give) {
  const submit = (event) => {
    event.preventDefault();
    const field = event.target.elements.token;
    const token = field.value.trim();
    field.value = '';
    if (token) give(token);
    else field.focus();
  };
  return h('section', { key: 'token', class: 'panel gate', 'aria-labelledby': 'token-title' },
    h('h2', { id: 'token-title' }, 'This port wants a token'),
    h('p', {}, 'It stays in the memory of this page and is gone when you close or reload it. With scope ', h('code', {}, 'control'), ' you can switch models, with ', h('code', {}, 'observe'), ' you can look.'),
    h('form', { onsubmit: submit },
      h('label', { for: 'token' }, 'Token'),
      h('input', { id: 'token', name: 'token', type: 'text', class: 'secret', autocomplete: 'off', autocapitalize: 'off', spellcheck: 'false', placeholder: 'smd_…', required: true, 'aria-describedby': refusal ? 'token-refused' : null, 'aria-invalid': refusal ? 'true' : null }),
      h('button', { type: 'submit', class: 'strong' }, 'Look inside')),
    refusal && h('p', { id: 'token-refused', class: 'alarm', role: 'alert' }, refusal.status === 401 ? 'The daemon does not know this token, or it has expired.' : refusal.message),
    h('p', { class: 'aside' }, 'To make one, on the machine:'),
    copyable(COMMAND));
}
