/*
 * The rules, one row each: its last minutes, its decisions now and since the start, and pausing it.
 *
 * Rows are made once and then only written to. At most 50 are in the document; a search finds others.
 */

import { Chart } from "./chart.js";
import { confirmed } from "./dialogs.js";
import { announce, byId, el, fill, name, setText, shown } from "./dom.js";
import { History, decisions } from "./history.js";
import { count, limitWords, rate, when } from "./numbers.js";

const KINDS = ["admitted", "delayed", "rejected"];
const MOST = 50;
const MANY = 12;

export class RulesView {
  #rows = new Map();
  #search = "";

  constructor(session, history, overview) {
    this.session = session;
    this.history = history;
    this.overview = overview;
    byId("rules-filter").querySelector("input").addEventListener("input", (event) => {
      this.#search = event.target.value.toLowerCase();
      if (this.status) this.update(this.status);
    });
  }

  update(status) {
    this.status = status;
    byId("rules-filter").hidden = status.rules.length <= MANY;
    const all = status.rules.filter((rule) => rule.name.toLowerCase().includes(this.#search));
    const found = all.slice(0, MOST);
    const left = status.rules_left_out;
    setText(byId("rules-note"), [
      all.length > MOST ? `the first ${MOST} of ${count(all.length)}` : "", left ? `${count(left)} with fewer decisions are left out` : "",
    ].filter(Boolean).join("; "));
    const names = found.map((rule) => rule.name);
    for (const [one, row] of this.#rows) {
      if (!names.includes(one)) {
        row.spark.destroy();
        row.node.remove();
        this.#rows.delete(one);
      }
    }
    found.forEach((rule, place) => {
      const row = this.#rows.get(rule.name) ?? this.#make(rule);
      if (byId("rules").children[place] !== row.node) byId("rules").insertBefore(row.node, byId("rules").children[place] ?? null);
      this.#write(row, rule);
    });
    byId("rules-empty").hidden = found.length > 0;
    setText(byId("rules-empty"), this.#search ? "No rule has this in its name." : "The policy has no rules: nothing is limited.");
  }

  #make(rule) {
    const title = el("span", { class: "rule-name" }, rule.name === "" ? "An attribute is missing" : el("button", {
      type: "button", title: "Show this rule in the chart", on: { click: () => this.overview.choose(rule.name) },
    }, name(rule.name)));
    const tags = el("span", { class: "tags" });
    title.append(tags);
    const limit = el("span", { class: "rule-limit" });
    const spark = el("span", { class: "spark" });
    const numbers = KINDS.map((kind) => ({ now: el("span", { class: "now" }), total: el("span", { class: "total", "data-total": kind }) }));
    const labels = ["Admitted", "Delayed", "Rejected"];
    const cells = numbers.map(({ now, total }, place) =>
      el("td", { role: "cell" }, el("span", { class: "cell-name", "aria-hidden": "true" }, labels[place]), now, total));
    const turn = () => (row.paused ? this.#resume(rule.name) : this.#pause(rule.name));
    const button = el("button", { type: "button", class: "quiet", on: { click: turn } });
    const act = el("td", { class: "act", role: "cell" });
    const node = el("tr", { role: "row" }, el("th", { scope: "row", role: "rowheader" }, title, limit), el("td", { role: "cell" }, spark), ...cells, act);
    byId("rules").append(node);
    const chart = new Chart(spark, KINDS, { stacked: true, bare: true, least: 1 });
    const row = { node, tags, limit, spark: chart, numbers, act, button, paused: false };
    this.#rows.set(rule.name, row);
    return row;
  }

  #write(row, rule) {
    const columns = this.history.rules.get(rule.name);
    if (columns) row.spark.update(this.history.times, columns);
    const totals = decisions(rule.counts);
    KINDS.forEach((kind, place) => {
      const now = columns ? History.now(columns[kind]) : 0;
      setText(row.numbers[place].now, `${rate(now)}/s`);
      row.numbers[place].now.classList.toggle("zero", now === 0);
      setText(row.numbers[place].total, count(totals[kind]));
    });
    const near = rule.near_limit ? `; ${count(rule.near_limit)} near the limit` : "";
    setText(row.limit, `${shown(limitWords(rule), 120)}${near}`);
    this.#tag(row, rule);
    this.#action(row, rule);
  }

  #tag(row, rule) {
    const paused = rule.paused_until === null ? "" : `paused until ${when(rule.paused_until, this.status.at)}`;
    const text = paused || (rule.shadow ? `shadow: ${count(rule.counts.shadow_refused)} would be rejected` : "");
    if (row.tags.textContent !== text) fill(row.tags, text ? el("span", { class: "tag" }, text) : null);
  }

  #action(row, rule) {
    row.paused = rule.paused_until !== null;
    const offered = this.session.signedIn && rule.limit !== null;
    if (offered !== row.act.contains(row.button)) fill(row.act, offered ? row.button : null);
    setText(row.button, row.paused ? "Resume…" : "Pause…"); // one button for both: another one would lose the focus
  }

  async #pause(rule) {
    const done = await confirmed({
      title: "Pause a rule",
      about: ["Until then the rule ", name(rule), " rejects and delays nothing. It goes on counting, as in shadow."],
      fields: [{ name: "minutes", label: "For how many minutes", type: "number", value: 10, min: 1, max: 10080 }],
      verb: "Pause the rule",
      act: (values, key) => this.session.change("v1/admin/pause", { rule, seconds: values.minutes * 60 }, key),
    });
    if (done) announce("The rule is paused.");
  }

  async #resume(rule) {
    const done = await confirmed({
      title: "Resume a rule",
      about: ["The rule ", name(rule), " is enforced again from now on."],
      verb: "Resume the rule",
      act: (_, key) => this.session.change("v1/admin/resume", { rule }, key),
    });
    if (done) announce("The rule is enforced again.");
  }
}
