/*
 * The last five minutes as one point a second, made of what the service sends. Knows no element and no connection.
 *
 * Memory is bounded: each series has exactly 300 points, and a rule that the service no longer names is forgotten.
 */

export const POINTS = 300;
const OUTCOMES = ["admitted", "delayed", "rejected"];

const series = (names, value) => Object.fromEntries(names.map((name) => [name, new Array(POINTS).fill(value)]));

/** A rule's decisions as the page names them. A decision in shadow refuses nothing, so its request was admitted. */
export function decisions(counts) {
  return {
    admitted: counts.allowed + counts.shadow_refused,
    delayed: counts.delayed,
    rejected: counts.refused,
  };
}

/** All requests, of all protocols. */
export function requests(status) {
  const sum = { admitted: 0, rejected: 0, failed: 0 };
  for (const one of Object.values(status.requests)) {
    sum.admitted += one.allowed;
    sum.rejected += one.refused;
    sum.failed += one.failed;
  }
  return sum;
}

export class History {
  #before = null;

  constructor() {
    this.#clear(Date.now() / 1000);
  }

  /** Let the last point be at this time. Times only grow from point to point, also if a clock was set back. */
  #end(at) {
    this.times = Array.from({ length: POINTS }, (_, place) => Math.floor(at) - POINTS + 1 + place);
  }

  #clear(now) {
    this.#end(now);
    this.all = series(["admitted", "rejected", "failed"], 0);
    this.latency = series(["p50", "p99"], null);
    this.rules = new Map();
  }

  /** Take the service's own history, in place of all that was known. */
  load(event) {
    this.#before = null;
    this.#clear(event.times.at(-1) ?? Date.now() / 1000);
    for (const [name, known] of Object.entries(event.rules)) this.#take(this.#rule(name), known);
    this.#take(this.latency, event.latency);
    const { allowed, refused, failed } = event.requests;
    this.#take(this.all, { admitted: allowed, rejected: refused, failed });
  }

  #take(into, known) {
    for (const [name, points] of Object.entries(into)) {
      const last = known[name].slice(-POINTS);
      last.forEach((value, place) => (points[POINTS - last.length + place] = value));
    }
  }

  /** Add the seconds between the status before and this one. The first status after a history adds nothing. */
  add(status) {
    const before = this.#before;
    this.#before = status;
    for (const name of [...this.rules.keys()]) {
      if (!status.rules.some((rule) => rule.name === name)) this.rules.delete(name);
    }
    if (before === null) return;
    const counts = new Map(before.rules.map((rule) => [rule.name, decisions(rule.counts)]));
    const steps = Math.max(1, Math.min(POINTS, Math.round(status.at - before.at)));
    this.#end(status.at);
    for (const rule of status.rules) {
      this.#grow(this.#rule(rule.name), decisions(rule.counts), counts.get(rule.name), steps);
    }
    this.#grow(this.all, requests(status), requests(before), steps);
    this.#push(this.latency.p50, steps, status.latency.p50);
    this.#push(this.latency.p99, steps, status.latency.p99);
  }

  #rule(name) {
    if (!this.rules.has(name)) this.rules.set(name, series(OUTCOMES, 0));
    return this.rules.get(name);
  }

  #grow(into, totals, earlier, steps) {
    for (const [name, points] of Object.entries(into)) {
      const grown = earlier ? Math.max(0, totals[name] - earlier[name]) : 0;
      this.#push(points, steps, grown / steps);
    }
  }

  #push(points, steps, value) {
    points.copyWithin(0, steps);
    points.fill(value, POINTS - steps);
  }

  /** The mean of the last seconds of a series: steadier to read than the last one alone. */
  static now(points, seconds = 5) {
    return points.slice(-seconds).reduce((sum, value) => sum + value, 0) / seconds;
  }
}
