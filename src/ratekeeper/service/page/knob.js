/*
 * A number of a limit that is dragged, or typed exactly: from a tenth to ten times what it is. Knows no rule.
 */

import { el, setText } from "./dom.js";
import { fine, unitOf } from "./numbers.js";

const STEPS = 200;
const TIMES = 10;
const UNITS = { second: 1, minute: 60, hour: 3600, day: 86_400 };
let ids = 0;

/** `value` is the number now, per second if it is a rate. `turned` is called after each change by a person. */
export class Knob {
  constructor(label, value, { whole = false, perUnit = false, turned }) {
    this.start = this.value = value;
    this.whole = whole;
    this.turned = turned;
    this.unit = perUnit ? unitOf(value)[0] : null;
    this.changed = el("b");
    const id = `knob-${(ids += 1)}`;
    this.slider = el("input", { type: "range", id, min: -STEPS, max: STEPS, step: 1, value: 0, on: { input: () => this.#slid() } });
    this.exact = el("input", { type: "number", "aria-label": `${label}, exactly`, min: 0, step: "any", required: true, on: { input: () => this.#typed() } });
    this.units = perUnit
      ? el("select", { "aria-label": `${label}, a time`, on: { change: () => this.#unit() } }, ...Object.keys(UNITS).map((unit) => el("option", { value: unit }, `per ${unit}`)))
      : el("span");
    if (perUnit) this.units.value = this.unit;
    const head = el("div", { class: "label" }, el("label", { for: id }, label), this.changed);
    this.node = el("div", { class: "knob" }, head, this.slider, el("div", { class: "exact" }, this.exact, this.units));
    this.#show(true);
  }

  get #seconds() {
    return this.unit === null ? 1 : UNITS[this.unit];
  }

  #slid() {
    const wanted = this.start * TIMES ** (Number(this.slider.value) / STEPS);
    const rounded = Number((wanted * this.#seconds).toPrecision(2));
    this.value = this.slider.value === "0" ? this.start : this.whole ? Math.max(1, Math.round(wanted)) : rounded / this.#seconds;
    this.#show(true);
    this.turned();
  }

  #typed() {
    const typed = this.exact.valueAsNumber;
    const good = Number.isFinite(typed) && typed > 0 && (!this.whole || Number.isInteger(typed));
    this.exact.setAttribute("aria-invalid", String(!good));
    if (!good) return;
    this.value = typed / this.#seconds;
    this.slider.value = String(Math.round((STEPS * Math.log(this.value / this.start)) / Math.log(TIMES)));
    this.#show(false);
    this.turned();
  }

  #unit() {
    this.unit = this.units.value;
    this.#show(true);
  }

  #show(field) {
    const text = (value) => `${fine(value * this.#seconds)}${this.unit === null ? "" : `/${this.unit}`}`;
    if (field) this.exact.value = String(Number((this.value * this.#seconds).toPrecision(12)));
    this.exact.setAttribute("aria-invalid", "false");
    this.slider.setAttribute("aria-valuetext", text(this.value));
    setText(this.changed, this.value === this.start ? text(this.value) : `${text(this.start)} → ${text(this.value)}`);
  }
}
