// What is to be seen, as values, and the least change that makes the page show it: so focus, open details and
// scroll positions stay. Text becomes text nodes and nothing else: a model may be named, and may log, what it likes.

const SVG = 'http://www.w3.org/2000/svg';
const DRAWN = new Set(['svg', 'path', 'rect', 'line', 'circle', 'g', 'polygon', 'defs', 'pattern', 'text']);
const shown = new WeakMap();

/** An element to be: attributes are attributes, `on…` are handlers, `key` tells it from its neighbours. */
export function h(name, attributes, ...children) {
  const { key, ...rest } = attributes ?? {};
  return { name, key, attributes: rest, children: children.flat(Infinity).filter(isSomething).map(asNode) };
}

/** Makes the element's content what the nodes say. */
export function render(element, ...nodes) {
  patch(element, nodes.flat(Infinity).filter(isSomething).map(asNode));
}

function isSomething(node) {
  return node !== null && node !== undefined && node !== false && node !== '';
}

function asNode(node) {
  return typeof node === 'object' ? node : { text: String(node) };
}

function patch(parent, wanted) {
  const keyed = new Map();
  const keys = new Set(wanted.map((node) => node.key).filter((key) => key !== undefined));
  for (const child of [...parent.childNodes]) {
    const key = shown.get(child)?.key;
    if (key === undefined) continue;
    if (keys.has(key)) keyed.set(key, child);
    else child.remove();
  }
  let next = parent.firstChild;
  for (const node of wanted) {
    let place = node.key === undefined ? next : keyed.get(node.key);
    if (!place || !isAlike(shown.get(place), node)) {
      place = create(node);
      parent.insertBefore(place, next);
    } else if (place !== next) {
      parent.insertBefore(place, next);
    }
    update(place, node);
    next = place.nextSibling;
  }
  while (next) {
    const gone = next;
    next = next.nextSibling;
    gone.remove();
  }
}

function isAlike(before, node) {
  return before !== undefined && before.name === node.name && before.key === node.key;
}

function create(node) {
  if (node.name === undefined) return document.createTextNode('');
  return DRAWN.has(node.name) ? document.createElementNS(SVG, node.name) : document.createElement(node.name);
}

function update(place, node) {
  const before = shown.get(place);
  shown.set(place, node);
  if (node.name === undefined) {
    if (place.data !== node.text) place.data = node.text;
    return;
  }
  const old = before?.attributes ?? {};
  for (const name of Object.keys(old)) if (!(name in node.attributes)) set(place, name, null);
  for (const [name, value] of Object.entries(node.attributes)) if (old[name] !== value) set(place, name, value);
  patch(place, node.children);
}

function set(place, name, value) {
  if (name.startsWith('on')) place[name] = value;
  else if (name === 'width%') place.style.width = value === null ? '' : `${value}%`;
  else if (value === null || value === undefined || value === false) place.removeAttribute(name);
  else place.setAttribute(name, value === true ? '' : String(value));
}
