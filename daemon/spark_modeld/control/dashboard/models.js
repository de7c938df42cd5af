// The catalog: each model's state, what it needs, whether that fits now, and the button that switches to it.

import { copyable } from './copy.js';
import { h } from './dom.js';
import { finding, problem } from './failure.js';
import { mark, stateMark } from './marks.js';
import { press } from './press.js';
import { count, size, span } from './text.js';

const BASES = { declared: 'declared', measured: 'measured', estimated: 'estimated', unknown: 'not known' };

export function modelsPanel(store, actions, logs) {
  return h('section', { class: 'panel models', 'aria-labelledby': 'models-title' },
    h('div', { class: 'panel-head' },
      h('h2', { id: 'models-title', class: 'eyebrow' }, 'Models'),
      press(store, 'quiet', () => actions.reload(), 'Reload the configuration')),
    store.models.length
      ? h('ul', { class: 'catalog' }, store.models.map((model) => entry(model, store, actions, logs)))
      : h('p', { class: 'reason' }, 'The catalog is empty. Put a file into models.d/, then reload.'));
}

function entry(model, store, actions, logs) {
  const serious = model.findings.filter((each) => each.level !== 'info');
  return h('li', { key: model.id, class: model.id === store.status.slot.model ? 'here' : null },
    h('div', { class: 'model' },
      h('div', { class: 'who' },
        h('h3', {}, `${model.id} `, model.default && h('span', { class: 'tag' }, 'default'), ' ', model.role === 'side' && h('span', { class: 'tag' }, 'side')),
        h('p', { class: 'aside' }, [model.engine, ...model.aliases].join(' · '))),
      h('div', { class: 'state-cell' }, stateMark(model.state), h('span', { class: 'aside' }, doing(model))),
      need(model, store),
      fit(model, store),
      h('div', { class: 'act' }, button(model, store, actions))),
    h('details', { class: 'more', ontoggle: (event) => store.open(model.id, event.target.open) },
      h('summary', {}, 'Details', h('span', { class: 'unseen' }, ` of ${model.id}`), ' ', serious.length > 0 && h('span', { class: 'tag warn' }, count(serious.length, 'finding'))),
      about(model, store, logs)));
}

function doing({ step, progress, in_flight: inFlight }) {
  if (step) return progress === null ? step : `${step}, ${Math.round(progress * 100)} %`;
  return inFlight > 0 && count(inFlight, 'request');
}

function need(model, store) {
  const { bytes, basis } = model.footprint;
  const total = (store.memory ?? store.status.memory)?.total;
  if (basis === 'unknown') return h('div', { class: 'need' }, h('span', {}, 'need not known'));
  return h('div', { class: 'need' },
    h('span', { class: 'number' }, size(bytes)), h('span', { class: 'aside' }, BASES[basis]),
    total && h('span', { class: 'gauge', 'aria-hidden': 'true' }, h('span', { 'width%': Math.min(100, (100 * bytes) / total) })));
}

function fit(model, store) {
  if (model.id === store.status.slot.model && model.state !== 'failed') return h('div', { class: 'fit' }, h('span', {}, 'in the slot'));
  if (model.fits === null) return h('div', { class: 'fit' }, mark('dark'), h('span', {}, 'fit not known'));
  return h('div', { class: `fit ${model.fits ? '' : 'not'}` },
    mark(model.fits ? 'good' : 'bad', model.fits ? 'small' : ''), h('span', {}, model.fits ? 'fits' : 'does not fit'));
}

function button(model, store, actions) {
  const { slot, switch: current } = store.status;
  const whom = (word) => h('span', { class: 'unseen' }, ` ${word} ${model.id}`);
  if (model.role === 'side') return sideButton(model, store, actions);
  if (current?.model === model.id && !current.rollback) return press(store, 'settled', null, 'On its way');
  if (slot.model === model.id && slot.phase === 'serving' && !current) return press(store, 'settled', null, 'Serving');
  return press(store, model.fits === false ? 'plain' : 'plain wanted', () => actions.switchTo(model.id), 'Switch', whom('to'));
}

function sideButton(model, store, actions) {
  const down = ['stopped', 'failed', 'unknown'].includes(model.state);
  const act = () => (down ? actions.start(model.id) : actions.stop(model.id, model.in_flight));
  return press(store, 'plain', act, down ? 'Start' : 'Stop', h('span', { class: 'unseen' }, ` ${model.id}`));
}

function about(model, store, logs) {
  const check = store.checks.get(model.id);
  const found = check?.findings ?? model.findings;
  return h('div', { class: 'about' },
    model.fit_reason && h('p', {}, model.fit_reason),
    model.error && h('div', { class: 'reading' }, problem(model.error)),
    found.length > 0 && h('ul', { class: 'plain-list' }, found.map(finding)),
    check === null && h('p', { class: 'aside' }, 'Looking at it …'),
    check && parts(check),
    h('dl', { class: 'numbers wide' },
      row('unit', model.unit), row('answers at', model.url), row('served name', model.served_model_name),
      model.path && row('checkpoint', model.path), model.gateway_port && row('gateway port', String(model.gateway_port)),
      model.load && row('ready in', `about ${span(model.load.seconds)}, as the last ${model.load.times === 1 ? 'time' : `${model.load.times} times`}`, false),
      check?.quantization && row('quantization', check.quantization),
      model.footprint.note && row('footprint', model.footprint.note, false)),
    h('button', { type: 'button', class: 'plain', onclick: () => logs.choose(model.id, true) }, 'Show its log', h('span', { class: 'unseen' }, ` (${model.id})`)));
}

function row(word, value, code = true) {
  return h('div', { key: word }, h('dt', {}, word), h('dd', {}, code ? copyable(value) : value));
}

function parts(check) {
  const named = { weights: check.weights, 'KV cache': check.kv_cache, overhead: check.overhead, estimate: check.estimate };
  const known = Object.entries(named).filter(([, bytes]) => typeof bytes === 'number');
  if (!known.length) return null;
  return h('dl', { class: 'numbers' }, known.map(([word, bytes]) => h('div', { key: word }, h('dt', {}, word), h('dd', {}, size(bytes)))));
}
