// Numbers, times and foreign text as people read them.

const GIB = 2 ** 30;
const ESCAPES = /\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])/g;
const CONTROLS = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/g;

/** Without colours, control characters and changes of direction. */
export function clean(text) {
  return String(text ?? '').replace(ESCAPES, '').replace(CONTROLS, '');
}

/** Bytes as `38.0 GiB`, or MiB below one. */
export function size(bytes) {
  if (bytes === null || bytes === undefined) return 'unknown';
  return Math.abs(bytes) < GIB ? `${Math.round(bytes / 2 ** 20)} MiB` : `${(bytes / GIB).toFixed(1)} GiB`;
}

/** Bytes as a number of GiB, for where the unit is said once. */
export function gib(bytes) {
  return (bytes / GIB).toFixed(1);
}

/** Seconds as `0.4 s`, `12 s`, `2 min 10 s`, `3 h 5 min`, `2 d 4 h`. */
export function span(seconds) {
  if (seconds < 0.0995) return `${Math.max(0, Math.round(seconds * 1000))} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  return coarse(whole, [['min', 60, 's', 1], ['h', 3600, 'min', 60], ['d', 86400, 'h', 3600]]);
}

function coarse(whole, steps) {
  let at = 0;
  while (at + 1 < steps.length && whole >= steps[at + 1][1]) at += 1;
  const [large, many, small, few] = steps[at];
  const rest = Math.floor((whole % many) / few);
  return `${Math.floor(whole / many)} ${large}${rest ? ` ${rest} ${small}` : ''}`;
}

/** How long something has gone on, in whole seconds. */
export function lasting(seconds) {
  return seconds < 1 ? '0 s' : span(Math.floor(seconds)).replace('.0', '');
}

/** Milliseconds of the page's clock as `12 s ago`, or the date for what is older than a day. */
export function ago(then, now) {
  const seconds = (now - then) / 1000;
  if (seconds < 2) return 'just now';
  if (seconds < 86400) return `${lasting(seconds)} ago`;
  return new Date(then).toLocaleString([], { dateStyle: 'medium', timeStyle: 'short' });
}

/** The time of day. */
export function clock(then) {
  return new Date(then).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit', second: '2-digit', hour12: false });
}

/** `1 request`, `3 requests`. */
export function count(number, one, many = `${one}s`) {
  return `${number} ${number === 1 ? one : many}`;
}
