// The top of the page: whose it is, whether it is true at this moment, and what a person should know.

import { h } from './dom.js';
import { problem } from './failure.js';
import { mark } from './marks.js';
import { clean } from './text.js';

const LINES = {
  connecting: ['busy', 'connecting'],
  live: ['good', 'live'],
  away: ['bad', 'daemon away'],
  token: ['rest', 'token wanted'],
};

export function head(store) {
  const [kind, word] = LINES[store.connection];
  return [
    h('p', { class: 'wordmark' }, h('span', { class: 'spark', 'aria-hidden': 'true' }), h('h1', {}, 'spark-modeld')),
    h('p', { class: `line ${store.connection}` }, mark(kind), h('span', {}, word)),
  ];
}

/** Everything that stands above the slot: the daemon away, no bus, its warnings, the last refusal. */
export function notices(store) {
  const { status, connection } = store;
  return [
    connection === 'away' && notice('away', 'bad', 'The daemon is away.', 'What is shown was true when it last answered. This page goes on looking for it.'),
    status?.bus === 'lost' && notice('bus', 'bad', 'systemd cannot be reached.', 'Nothing is started or stopped until the connection is back.'),
    status?.stopping && notice('stopping', 'busy', 'The daemon is stopping.', 'Models keep serving.'),
    store.notice && h('div', { key: 'notice', class: 'notice bad', role: 'alert' },
      mark('bad'), h('div', {}, h('strong', {}, store.notice.title ?? 'That did not work'), problem(store.notice)),
      h('button', { type: 'button', class: 'quiet', onclick: () => store.set({ notice: null }) }, 'Dismiss')),
    (status?.warnings ?? []).map((each) => notice(`${each.code} ${each.message}`, 'warn', null, clean(each.message))),
  ];
}

function notice(key, kind, title, text) {
  return h('div', { key, class: `notice ${kind}` }, mark(kind === 'busy' ? 'busy' : 'bad'), h('div', {}, title && h('strong', {}, `${title} `), h('span', {}, text)));
}
