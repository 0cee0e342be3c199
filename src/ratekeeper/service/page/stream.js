/*
 * The stream of events from the service, and whether it is alive. Knows no element.
 *
 * EventSource connects again by itself after a broken connection, but gives up after an answer such as 503. And a host
 * that vanishes breaks no connection. So this file looks at the time of the last event, and opens a new stream.
 * A page in a hidden tab leaves its place to others after a minute: a service has few.
 */

const SILENCE = 5000;
const HIDDEN = 60_000;
const LONGEST = 10_000;

export class Stream {
  #source = null;
  #heard = 0;
  #tries = 0;
  #retryAt = 0;
  #hiddenSince = null;

  /** `handlers` has `history` and `status`, which take an event's data, and `state`, which takes "live" or "lost". */
  constructor(url, handlers) {
    this.url = url;
    this.handlers = handlers;
  }

  start() {
    this.#open();
    setInterval(() => this.#look(performance.now()), 1000);
    document.addEventListener("visibilitychange", () => this.#look(performance.now()));
  }

  #open() {
    this.#source?.close();
    this.#heard = performance.now();
    const source = new EventSource(this.url);
    source.addEventListener("history", (event) => this.#take("history", event));
    source.addEventListener("status", (event) => this.#take("status", event));
    source.addEventListener("error", () => this.#lost(source));
    this.#source = source;
  }

  #take(kind, event) {
    this.#heard = performance.now();
    this.#tries = 0;
    this.handlers[kind](JSON.parse(event.data));
    this.handlers.state("live");
  }

  #lost(source) {
    if (source !== this.#source) return;
    this.handlers.state("lost");
    if (source.readyState === EventSource.CLOSED) this.#again();
  }

  #again() {
    this.#source?.close();
    this.#source = null;
    this.#tries += 1;
    this.#retryAt = performance.now() + Math.min(LONGEST, 500 * 2 ** this.#tries) * (0.5 + Math.random() / 2);
  }

  #look(now) {
    this.#hiddenSince = document.hidden ? (this.#hiddenSince ?? now) : null;
    if (this.#hiddenSince !== null && now - this.#hiddenSince > HIDDEN) {
      this.#source?.close();
      this.#source = null;
      this.#retryAt = 0;
      return;
    }
    if (this.#source === null) {
      if (now >= this.#retryAt) this.#open();
    } else if (now - this.#heard > SILENCE) {
      this.handlers.state("lost");
      this.#again();
    }
  }
}
