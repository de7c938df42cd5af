// The control API as this page calls it. The token is in this object and nowhere else; it goes when the page goes.

const PATIENCE = 20_000;

/** The daemon refused; `body` is its problem. */
export class Refused extends Error {
  constructor(status, body) {
    super(body.detail ?? body.title ?? `The daemon answered ${status}.`);
    this.status = status;
    this.body = body;
  }
}

/** Nobody answered. */
export class Away extends Error {}

export class Api {
  #token = null;
  /** How far the daemon's clock is ahead of this one, in milliseconds; small differences are none. */
  ahead = 0;

  /** Uses this token from now on; null forgets it. */
  use(token) {
    this.#token = token;
  }

  get hasToken() {
    return this.#token !== null;
  }

  get(path) {
    return this.#call('GET', path);
  }

  post(path, body) {
    return this.#call('POST', path, body);
  }

  delete(path) {
    return this.#call('DELETE', path);
  }

  /** An answer that goes on, until `signal`. */
  async open(path, signal) {
    const response = await this.#send('GET', path, undefined, signal);
    if (!response.ok) throw await refusal(response);
    return response;
  }

  async #call(method, path, body) {
    const response = await this.#send(method, path, body, AbortSignal.timeout(PATIENCE));
    if (!response.ok) throw await refusal(response);
    try {
      return response.status === 204 ? null : await response.json();
    } catch (error) {
      throw new Away('the answer broke off', { cause: error });
    }
  }

  async #send(method, path, body, signal) {
    const headers = this.#token === null ? {} : { Authorization: `Bearer ${this.#token}` };
    if (body !== undefined) headers['Content-Type'] = 'application/json';
    try {
      const response = await fetch(new URL(path, document.baseURI), {
        method, headers, signal, cache: 'no-store', credentials: 'omit', redirect: 'error',
        body: body === undefined ? undefined : JSON.stringify(body),
      });
      this.#notice(response.headers.get('Date'));
      return response;
    } catch (error) {
      throw new Away('nobody answered', { cause: error });
    }
  }

  #notice(date) {
    const difference = Date.parse(date) - Date.now();
    if (!Number.isNaN(difference)) this.ahead = Math.abs(difference) > 3000 ? difference : 0;
  }
}

async function refusal(response) {
  try {
    return new Refused(response.status, await response.json());
  } catch {
    return new Refused(response.status, {});
  }
}
