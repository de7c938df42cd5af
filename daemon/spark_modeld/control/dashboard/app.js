// Puts the page together: the store hears from the daemon, the panels show what it knows.

import { Actions } from './actions.js';
import { Api } from './api.js';
import { tellWith } from './copy.js';
import { h, render } from './dom.js';
import { endpointsPanel } from './endpoints.js';
import { failurePanel, problem } from './failure.js';
import { head, notices } from './head.js';
import { historyPanel } from './history.js';
import { Live } from './live.js';
import { logPanel, Logs } from './log.js';
import { memoryPanel } from './memory.js';
import { modelsPanel } from './models.js';
import { press } from './press.js';
import { slotPanel } from './slot.js';
import { Store } from './store.js';
import { tokenPanel } from './token.js';
import { News } from './news.js';

const api = new Api();
const store = new Store(api);
const logs = new Logs(api, store);
const news = new News(store);
const actions = new Actions(api, store, news.say);
let refusal = null;
tellWith(news.say);

const live = new Live(api, {
  async connected() {
    await store.everything();
    refusal = null;
    store.set({ connection: 'live' });
  },
  event: (event) => store.heard(event),
  away() {
    logs.pause();
    store.set({ connection: 'away' });
  },
  token(error) {
    logs.pause();
    refusal = error;
    store.set({ connection: 'token', status: null, notice: null });
    show();
    document.getElementById('token')?.focus();
  },
  refused: (error) => store.set({ connection: 'away', notice: error.body }),
});

function give(token) {
  api.use(token);
  store.set({ connection: 'connecting' });
  live.again();
}

function page() {
  if (store.connection === 'token' || (store.connection === 'connecting' && !store.status)) {
    return store.connection === 'token' || refusal ? tokenPanel(refusal, give) : h('p', { class: 'waiting' }, 'Asking the daemon …');
  }
  if (store.problem) {
    return [notices(store), h('section', { class: 'panel failure fresh' }, h('h2', {}, store.problem.title), problem(store.problem),
      press(store, 'strong', () => actions.reload(), 'Read the configuration again'))];
  }
  if (!store.status) return [notices(store), h('p', { class: 'waiting' }, 'The daemon has not answered yet.')];
  return [
    h('div', { key: 'notices', class: 'notices' }, notices(store)),
    h('div', { key: 'top', class: 'top' }, slotPanel(store, actions), memoryPanel(store)),
    failurePanel(store, actions),
    modelsPanel(store, actions, logs),
    logPanel(store, logs),
    h('div', { key: 'bottom', class: 'bottom' }, historyPanel(store), endpointsPanel(store)),
  ];
}

/** How long a page that nobody sees goes on following, so that the title of its tab stays true for a while. */
const LEFT = 60_000;
let leaving;
let planned = false;

function show() {
  planned = false;
  const focused = document.activeElement;
  const list = document.getElementById('log-lines');
  const atEnd = !list || list.scrollHeight - list.scrollTop - list.clientHeight < 24;
  if (store.connection === 'live' && document.visibilityState === 'visible') {
    logs.look();
    store.lookCloser();
  }
  render(document.getElementById('head'), ...head(store));
  document.body.classList.toggle('stale', store.connection === 'away');
  render(document.getElementById('main'), page());
  render(document.getElementById('foot'), [foot()]);
  if (!focused?.isConnected) document.getElementById('main').focus({ preventScroll: true });
  news.look();
  const after = document.getElementById('log-lines');
  if (after && atEnd) after.scrollTop = after.scrollHeight;
}

function foot() {
  return store.status && [h('span', {}, `spark-modeld ${store.status.version}`), h('span', {}, 'the same in a terminal: ', h('code', {}, 'spark-modelctl status'))];
}

store.changed = () => {
  if (planned) return;
  planned = true;
  setTimeout(show);
};

setInterval(() => {
  if (document.visibilityState !== 'visible' || store.connection === 'token') return;
  if (store.connection === 'live') store.look();
  store.changed();
}, 1000);

document.addEventListener('visibilitychange', () => {
  clearTimeout(leaving);
  if (document.visibilityState === 'hidden') {
    logs.pause();
    leaving = setTimeout(() => live.hide(true), LEFT);
  } else {
    live.hide(false);
    store.changed();
  }
});
window.addEventListener('online', () => live.again());

show();
live.run();
