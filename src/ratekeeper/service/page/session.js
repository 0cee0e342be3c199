/*
 * The admin's token, and questions to the service. Knows no element.
 *
 * The token lives in this tab only: in memory, and in sessionStorage, so that a reload keeps it. It is sent as a header,
 * never as a cookie or in an address. A token that comes in the address's fragment is taken out of it at once.
 */

const KEPT = "ratekeeper-token";
const PATIENCE = 20_000; // longer than the service takes to read a policy
const PATIENCE_TO_COMPUTE = 65_000; // longer than it takes for a what-if

/** An answer that is not a success, in the service's words. `retryAfter` has the seconds after which it may be asked again, if it says so. */
export class Refused extends Error {
  constructor(status, message, retryAfter = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

async function problemOf(response) {
  const text = (await response.text()).slice(0, 4000);
  try {
    const problem = JSON.parse(text);
    return problem.detail ?? text;
  } catch {
    return text || `the service answered ${response.status}`;
  }
}

/** Has the event `change` when somebody has signed in or out, and `unknown` when the service has come to know the token no more. */
export class Session extends EventTarget {
  #token = null;
  #tried = null;

  /** Take the token of the address or of this tab, if there is one and the service knows it. */
  async begin() {
    const found = /^#(?:.*&)?token=([^&]+)/.exec(location.hash);
    if (found) history.replaceState(null, "", location.pathname + location.search);
    if (found) sessionStorage.setItem(KEPT, decodeURIComponent(found[1]));
    const token = sessionStorage.getItem(KEPT);
    if (!token || token === this.#tried || (this.signedIn && !found)) return;
    this.#tried = token; // until its answer: a second one would begin all views anew
    try {
      await this.signIn(token);
    } finally {
      if (this.#tried === token) this.#tried = null;
    }
  }

  get signedIn() {
    return this.#token !== null;
  }

  /** Keep a token that the service knows. Throw `Refused` for another. */
  async signIn(token) {
    try {
      await this.#ask("GET", "v1/admin/rules", undefined, { Authorization: `Bearer ${token}` });
    } catch (error) {
      if (error.status === 401) sessionStorage.removeItem(KEPT);
      throw error;
    }
    this.#token = token;
    sessionStorage.setItem(KEPT, token);
    this.dispatchEvent(new Event("change"));
  }

  signOut() {
    this.#token = null;
    sessionStorage.removeItem(KEPT);
    this.dispatchEvent(new Event("change"));
  }

  get(path) {
    return this.#asAdmin("GET", path);
  }

  /** Ask something that changes nothing. */
  ask(path, body) {
    return this.#asAdmin("POST", path, body);
  }

  /** Ask for something that takes long to compute. */
  compute(path, body) {
    return this.#asAdmin("POST", path, body, {}, PATIENCE_TO_COMPUTE);
  }

  /** Change something. The same key again changes nothing again. */
  change(path, body, key) {
    return this.#asAdmin("POST", path, body, { "Idempotency-Key": key });
  }

  async #asAdmin(method, path, body, headers = {}, patience = PATIENCE) {
    const token = this.#token;
    if (token === null) throw new Refused(401, "sign in first");
    try {
      return await this.#ask(method, path, body, { Authorization: `Bearer ${token}`, ...headers }, patience);
    } catch (error) {
      if (error.status === 401 && token === this.#token) {
        this.signOut();
        this.dispatchEvent(new Event("unknown"));
      }
      throw error;
    }
  }

  async #ask(method, path, body, headers, patience = PATIENCE) {
    const sent = body === undefined ? {} : { "Content-Type": "application/json" };
    let response;
    try {
      response = await fetch(path, {
        method,
        headers: { ...headers, ...sent },
        body: body === undefined ? undefined : JSON.stringify(body),
        cache: "no-store",
        credentials: "omit",
        redirect: "error",
        signal: AbortSignal.timeout(patience),
      });
    } catch {
      throw new Refused(0, "the service does not answer");
    }
    if (!response.ok) throw new Refused(response.status, await problemOf(response), response.headers.get("Retry-After"));
    return response.json();
  }
}
