/*
 * What-if: the last minutes of traffic against other limits. Asks the service to compute; nothing is enforced by it.
 */

import { Chart, Legend, highest } from "./chart.js";
import { announce, byId, el, fill, icon, name, setText, shown } from "./dom.js";
import { Knob } from "./knob.js";
import { clock, count, duration, rate } from "./numbers.js";

const OUTCOMES = [["admitted", "Admitted"], ["delayed", "Delayed"], ["rejected", "Rejected"]];
const KINDS = OUTCOMES.map(([kind]) => kind);
const CALM = 250;
const ROWS = 50;

export class WhatIfView {
  #timer = 0;
  #running = false;
  #wanted = null;
  #edited = false;

  constructor(session) {
    this.session = session;
    this.legend = new Legend(byId("what-if-legend"), OUTCOMES, icon, rate);
    const chart = (id, label) => new Chart(byId(id), KINDS, { label, format: rate, stacked: true, least: 5, onMove: (at) => this.#move(id, at) });
    this.charts = { before: chart("before-chart", "Requests a second, by the limits in use"), after: chart("after-chart", "Requests a second, by the limits to try") };
    byId("what-if-name").addEventListener("change", () => this.#knobs());
    byId("what-if-reset").addEventListener("click", () => this.#asItIs());
    byId("what-if-try").addEventListener("click", () => this.#want({ policy: byId("what-if-policy").value }, 0));
    byId("what-if-policy").addEventListener("input", () => (this.#edited = true));
    byId("by-rule").addEventListener("click", () => this.#mode(false));
    byId("by-text").addEventListener("click", () => this.#mode(true));
    byId("copy").addEventListener("click", () => this.#copy());
  }

  show() {
    const signed = this.session.signedIn;
    byId("what-if-locked").hidden = signed;
    byId("what-if-open").hidden = !signed;
    if (signed) return;
    this.#edited = false;
    this.#asItIs();
    byId("what-if-policy").value = "";
  }

  update({ policy: { version, reloads } }) {
    const seen = JSON.stringify([version, reloads]);
    if (!this.session.signedIn || this.seen === seen) return;
    this.seen = seen;
    this.#read();
  }

  /** Read all rules: a status has only the busiest. If none has changed, what an admin tries stays as it is. */
  async #read() {
    let all;
    try {
      ({ rules: all } = await this.session.get("v1/admin/rules"));
    } catch (error) {
      this.seen = null; // the next status asks again
      this.unread = error.message;
      setText(byId("what-if-error"), error.message);
      return;
    }
    if (this.unread && byId("what-if-error").textContent === this.unread) setText(byId("what-if-error"), "");
    this.unread = null;
    const rules = all.filter((rule) => rule.capacity > 0 && rule.per_second > 0);
    const told = JSON.stringify(rules.map(({ name: one, capacity, per_second: perSecond }) => [one, capacity, perSecond]));
    if (!this.session.signedIn || this.told === told) return;
    this.told = told;
    this.rules = rules;
    const chosen = byId("what-if-name").value;
    fill(byId("what-if-name"), ...rules.slice(0, 1024).map((rule) => el("option", { value: rule.name }, shown(rule.name))));
    if (rules.some((rule) => rule.name === chosen)) byId("what-if-name").value = chosen;
    this.#knobs();
    this.#text();
  }

  get #rule() {
    return this.rules?.find((rule) => rule.name === byId("what-if-name").value);
  }

  #mode(text) {
    byId("by-rule").setAttribute("aria-pressed", String(!text));
    byId("by-text").setAttribute("aria-pressed", String(text));
    byId("what-if-rule").hidden = text;
    byId("what-if-text").hidden = !text;
  }

  #knobs() {
    const rule = this.#rule;
    fill(byId("what-if-knobs"));
    if (!rule) return;
    const turned = () => this.#want({ rules: { [rule.name]: this.#turned(rule) } });
    this.capacity = new Knob("Capacity", rule.capacity, { whole: true, turned });
    this.rate = new Knob(rule.algorithm === "leaky bucket" ? "Leak rate" : "Refill rate", rule.per_second, { perUnit: true, turned });
    byId("what-if-knobs").append(this.capacity.node, this.rate.node);
    this.#want({ rules: { [rule.name]: {} } }, 0);
  }

  #turned(rule) {
    const changed = {};
    if (this.capacity.value !== rule.capacity) changed.capacity = this.capacity.value;
    if (this.rate.value !== rule.per_second) changed.per_second = this.rate.value;
    return changed;
  }

  async #text() {
    if (this.#edited) return;
    try {
      const policy = await this.session.get("v1/admin/policy");
      if (this.session.signedIn && !this.#edited) byId("what-if-policy").value = policy.now.text;
    } catch (error) {
      setText(byId("what-if-error"), error.message);
    }
  }

  #asItIs() {
    this.#edited = false;
    setText(byId("what-if-error"), "");
    if (!this.session.signedIn) {
      this.seen = this.told = null;
      this.#wanted = null;
      fill(byId("what-if-knobs"));
      fill(byId("what-if-figures"));
      byId("toml-card").hidden = true;
      return;
    }
    this.#text();
    this.#knobs();
  }

  /** Ask for this after a moment of calm. While one answer is computed, only the latest wish waits. */
  #want(body, calm = CALM) {
    this.#wanted = body;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#run(), calm);
  }

  async #run() {
    if (this.#running || this.#wanted === null) return;
    const body = this.#wanted;
    this.#wanted = null;
    this.#running = true;
    let again = null;
    byId("compare").classList.add("busy");
    try {
      const answer = await this.session.compute("v1/admin/what-if", body);
      setText(byId("what-if-error"), "");
      if (this.session.signedIn) this.#write(answer);
    } catch (error) {
      setText(byId("what-if-error"), error.message);
      again = error.retryAfter; // another tab or another admin asks too
    }
    byId("compare").classList.remove("busy");
    this.#running = false;
    if (this.#wanted !== null) this.#run();
    else if (again && this.session.signedIn) this.#want(body, 1000 * again);
  }

  #write({ span, requests, recorded, rules, series, toml }) {
    setText(byId("what-if-span"), requests ? `${count(requests)} requests in ${duration(span)}: in truth ${count(recorded.admitted)} admitted, ${count(recorded.delayed)} delayed, ${count(recorded.rejected)} rejected` : "No traffic was recorded yet.");
    const second = ([kind, counts]) => [kind, counts.map((value) => value / series.step)];
    const [was, is] = [series.before, series.after].map((one) => Object.fromEntries(Object.entries(one).map(second)));
    const total = ({ admitted, delayed, rejected }) => admitted.map((value, place) => value + delayed[place] + rejected[place]);
    const top = highest([total(was), total(is)]);
    this.charts.before.update(series.times, was, top);
    this.charts.after.update(series.times, is, top);
    this.#move("after-chart", null);
    const ordered = byImportance(rules, byId("what-if-rule").hidden ? null : byId("what-if-name").value);
    const more = ordered.slice(ROWS);
    fill(byId("what-if-figures"), ...ordered.slice(0, ROWS).map(figures));
    byId("what-if-empty").hidden = rules.length > 0 && more.length === 0;
    const stay = more.some(changes) ? "" : ", whose numbers stay as they are";
    setText(byId("what-if-empty"), more.length ? `And ${count(more.length)} rules more${stay}.` : "Change a limit to see what it would do.");
    byId("toml-card").hidden = !toml;
    setText(byId("toml"), toml);
  }

  #move(id, at) {
    const chart = id === "before-chart" ? this.charts.before : this.charts.after;
    if (!chart?.columns || !chart.times.length) return;
    const sum = (points) => points.reduce((total, value) => total + value, 0) / points.length;
    const values = Object.fromEntries(KINDS.map((kind) => [kind, at === null ? sum(chart.columns[kind]) : chart.columns[kind][at]]));
    const which = id === "before-chart" ? "by the limits in use" : "by the limits to try";
    this.legend.show(at === null ? `mean, ${which}` : `${clock(chart.times[at])}, ${which}`, values);
  }

  async #copy() {
    try {
      await navigator.clipboard.writeText(byId("toml").textContent);
      announce("The rule is copied as TOML.");
    } catch {
      getSelection().selectAllChildren(byId("toml")); // without a clipboard, the user copies the selection
      announce("The text is selected: copy it with Ctrl+C.");
    }
  }
}

function changes(rule) {
  return KINDS.some((kind) => rule.before[kind] !== rule.after[kind]);
}

/** The rules in the policy's order; if they are too many to show, the one that is tried and those that change come first. */
function byImportance(rules, tried) {
  if (rules.length <= ROWS) return rules;
  const rank = (rule) => (rule.name === tried ? 0 : changes(rule) ? 1 : 2);
  return rules.toSorted((one, other) => rank(one) - rank(other));
}

/** One rule's row: its numbers before and after, and the difference. */
function figures(rule) {
  if (!rule.known && !KINDS.some((kind) => rule.before[kind] || rule.after[kind])) {
    return el("tr", {}, el("th", { scope: "row" }, name(rule.name)), el("td", { colspan: 3 }, `not known: ${shown(rule.why, 200)}`));
  }
  const cells = KINDS.map((kind) => {
    const change = rule.after[kind] - rule.before[kind];
    const difference = change ? `${change > 0 ? "+" : "−"}${count(Math.abs(change))}` : "as before";
    return el("td", {}, el("span", { class: "was" }, count(rule.before[kind])), " → ", el("b", {}, count(rule.after[kind])), el("small", {}, difference));
  });
  const why = rule.known ? null : el("small", {}, shown(rule.why, 200));
  return el("tr", {}, el("th", { scope: "row" }, name(rule.name), why), ...cells);
}
