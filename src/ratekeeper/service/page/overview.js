/*
 * The overview's tiles, its two charts, and the state of the service. Shows the status and the history; asks nothing.
 */

import { Chart, Legend } from "./chart.js";
import { byId, el, fill, icon, setText, shown } from "./dom.js";
import { History, requests } from "./history.js";
import { ago, bytes, clock, count, duration, rate, share } from "./numbers.js";

const OUTCOMES = [["admitted", "Admitted"], ["delayed", "Delayed"], ["rejected", "Rejected"]];
const LATENCY = [["p50", "Median"], ["p99", "p99"]];
const KINDS = OUTCOMES.map(([kind]) => kind);
const CHOICES = 200;

export class Overview {
  constructor(history) {
    this.history = history;
    this.tiles = new Map();
    for (const [kind, label] of [...OUTCOMES, ["p99", "Time to answer"]]) this.#tile(kind, label);
    const legend = (id, kinds, format) => new Legend(byId(id), kinds, icon, format);
    this.trafficLegend = legend("traffic-legend", OUTCOMES, rate);
    this.latencyLegend = legend("latency-legend", LATENCY, duration);
    this.traffic = new Chart(byId("traffic-chart"), KINDS, {
      label: "Requests a second, over five minutes", format: rate, stacked: true, least: 5, onMove: (at) => this.#move(at),
    });
    this.latency = new Chart(byId("latency-chart"), ["p50", "p99"], {
      label: "Time to answer, over five minutes", format: duration, log: true, onMove: (at) => this.#move(at),
    });
    this.choice = byId("traffic-rule");
    this.choice.addEventListener("change", () => this.#draw());
    this.place = null;
    this.facts = new Map();
  }

  #tile(kind, label) {
    const big = el("dd", { class: "big" }, "–");
    const more = el("dd", { class: "more" });
    const term = el("dt", {}, kind === "p99" ? null : icon(kind), label);
    byId("tiles").append(el("div", { "data-tile": kind }, term, big, more));
    this.tiles.set(kind, { big, more });
  }

  /** Show one rule in the large chart; all requests for an empty name. */
  choose(rule) {
    this.choice.value = rule;
    this.#draw();
    byId("traffic-title").scrollIntoView({ block: "nearest" });
  }

  update(status) {
    this.#choices(status.rules);
    this.#numbers(status);
    this.#draw();
    this.#health(status, requests(status).failed);
  }

  #choices(rules) {
    const names = rules.slice(0, CHOICES).map((rule) => rule.name).filter(Boolean);
    if (this.names?.length === names.length && names.every((one, place) => one === this.names[place])) return;
    this.names = names;
    const chosen = this.choice.value;
    fill(this.choice, el("option", { value: "" }, "All requests"), ...names.map((one) => el("option", { value: one }, shown(one))));
    this.choice.value = names.includes(chosen) ? chosen : "";
  }

  /** All requests, with those that some rule delayed taken out of the admitted ones. */
  #all() {
    const rules = [...this.history.rules.values()];
    const delayed = this.history.times.map((_, place) => rules.reduce((most, rule) => Math.max(most, rule.delayed[place]), 0));
    const { admitted, rejected } = this.history.all;
    return { admitted: admitted.map((value, place) => Math.max(0, value - delayed[place])), delayed, rejected };
  }

  #numbers(status) {
    const all = this.#all();
    const now = Object.fromEntries(KINDS.map((kind) => [kind, History.now(all[kind])]));
    const sum = now.admitted + now.delayed + now.rejected;
    const totals = requests(status);
    const more = {
      admitted: `${count(totals.admitted)} since the start`,
      delayed: `${count(status.waiting)} waiting now`,
      rejected: `${share(now.rejected, sum)} of requests`,
    };
    for (const kind of KINDS) {
      this.#big(kind, rate(now[kind]), "/s");
      setText(this.tiles.get(kind).more, more[kind]);
    }
    const { p50, p99 } = status.latency;
    const [number, unit] = duration(p99).split(" ");
    this.#big("p99", number, unit ?? "");
    setText(this.tiles.get("p99").more, p50 === null ? "no decision lately" : `p99; median ${duration(p50)}`);
  }

  #big(kind, number, unit) {
    const { big } = this.tiles.get(kind);
    if (big.dataset.shown === `${number} ${unit}`) return;
    big.dataset.shown = `${number} ${unit}`;
    fill(big, number, unit ? el("small", {}, unit) : null);
  }

  #draw() {
    const { times, latency, rules } = this.history;
    this.columns = rules.get(this.choice.value) ?? this.#all();
    this.traffic.update(times, this.columns);
    this.latency.update(times, latency);
    this.#legends();
  }

  #move(place) {
    this.place = place;
    if (this.columns) this.#legends();
  }

  #legends() {
    const { times, latency } = this.history;
    const at = this.place;
    const time = at === null ? "now" : clock(times[at]);
    const pick = (points) => (at === null ? History.now(points) : points[at]);
    const of = (columns, choose) => Object.fromEntries(Object.entries(columns).map(([kind, points]) => [kind, choose(points)]));
    this.trafficLegend.show(time, of(this.columns, pick));
    this.latencyLegend.show(time, of(latency, (points) => points[at ?? points.length - 1]));
  }

  #health({ store, connections, policy, recording, at }, failed) {
    const circuits = store.circuits_open ? `, ${count(store.circuits_open)} circuits open` : "";
    const full = store.slots ? ` of ${count(store.slots)}` : "";
    const protocols = Object.entries(connections).map(([protocol, n]) => `${shown(protocol)} ${count(n)}`);
    this.#fact("Store", store.ok ? `answers: ${shown(store.where || store.kind)}` : `does not answer${circuits}`, store.ok);
    this.#fact("Buckets", store.buckets === null ? `kept by ${shown(store.kind)}` : `${count(store.buckets)}${full}`);
    this.#fact("Store failures", `${count(store.failures)}, of which ${count(store.fallbacks)} decided by on_error`);
    const failing = History.now(this.history.all.failed);
    const failures = `${rate(failing)}/s; ${count(failed)} since the start`;
    this.#fact("Not decided", failures, failing > 0 ? false : null);
    this.#fact("Connections", protocols.join(" · "));
    this.#fact(
      "Policy",
      policy.last_reload_ok ? `taken ${ago(policy.loaded_at, at)}` : "the changed file has mistakes; the policy before is in use",
      policy.last_reload_ok,
    );
    this.#fact("Reloads", `${count(policy.reloads.success)} taken, ${count(policy.reloads.failure)} with mistakes`);
    const since = recording.since === null ? "" : ` over ${duration(at - recording.since)}`;
    const none = recording.capacity_bytes ? "nothing yet" : "off";
    const size = `${bytes(recording.bytes)} of ${bytes(recording.capacity_bytes)}`;
    const kept = recording.requests ? `${count(recording.requests)} requests${since}, ${size}` : none;
    const lost = recording.left_out;
    this.#fact("Recording", lost ? `${kept}; ${count(lost)} left out` : kept, lost ? false : null);
  }

  #fact(term, text, good = null) {
    if (!this.facts.has(term)) {
      const mark = el("span");
      const value = el("span");
      byId("health").append(el("div", { "data-fact": term }, el("dt", {}, term), el("dd", {}, mark, value)));
      this.facts.set(term, { mark, value });
    }
    const { mark, value } = this.facts.get(term);
    setText(value, text);
    if (mark.dataset.good === String(good)) return;
    mark.dataset.good = good;
    value.classList.toggle("bad", good === false);
    fill(mark, good === null ? null : icon(good ? "admitted" : "rejected"));
  }
}
