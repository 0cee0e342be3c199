/*
 * A chart of series over time: uPlot, with our colours, a stack, and a place that the keyboard moves too.
 * Knows no event and no rule.
 *
 * The chart is a slider for assistive technology: arrow keys move through time, and its value is read as a text.
 */

import { el, setText } from "./dom.js";
import { clock } from "./numbers.js";

const DASHES = { delayed: [2, 3], p99: [5, 3] };
const MOST_MARKS = 100;
const dark = matchMedia("(prefers-color-scheme: dark)");
const charts = new Set();
dark.addEventListener("change", () => charts.forEach((chart) => chart.redraw()));

const colour = (kind) => getComputedStyle(document.documentElement).getPropertyValue(`--${kind}`).trim();

const patterns = new Map();

/** A pattern of lines for what was refused: told apart without seeing colours. Each is made once. */
function hatched(context, kind) {
  const wanted = `${kind} ${dark.matches} ${devicePixelRatio}`;
  if (!patterns.has(wanted)) {
    if (patterns.size > 8) patterns.clear(); // somebody zooms
    patterns.set(wanted, context.createPattern(tileOf(kind), "repeat"));
  }
  return patterns.get(wanted);
}

function tileOf(kind) {
  const tile = document.createElement("canvas");
  const size = Math.round(6 * devicePixelRatio);
  tile.width = tile.height = size;
  const pen = tile.getContext("2d");
  pen.fillStyle = colour(`${kind}-fill`);
  pen.fillRect(0, 0, size, size);
  pen.strokeStyle = colour(kind);
  pen.lineWidth = devicePixelRatio;
  pen.beginPath();
  for (const shift of [-size, 0, size]) {
    pen.moveTo(shift - 1, size + 1);
    pen.lineTo(shift + size + 1, -1);
  }
  pen.stroke();
  return tile;
}

/** The least round number that is not less: an axis that stays where it is. */
export function roundUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 3, 4, 5, 6, 8, 10].find((step) => step * power >= value * 0.9999);
}

export class Chart {
  #plot;
  #at = null;
  #frame = 0;

  /**
   * `kinds` are the series' names, which are names of colours too. `options` has `label`, `format` (a number to a
   * string), `stacked`, `bare` (without axes, for a row of a table), `log` (an axis of powers of ten), `least` (the least top
   * of the axis), and `onMove`, which gets a place in the data, or null for the last.
   */
  constructor(box, kinds, options) {
    this.box = box;
    this.kinds = kinds;
    this.options = options;
    this.top = 0;
    this.times = [];
    this.#plot = new uPlot(this.#settings(), [[], ...kinds.map(() => [])], box);
    new ResizeObserver(() => this.#fit()).observe(box);
    charts.add(this);
    if (options.bare) {
      box.setAttribute("aria-hidden", "true");
    } else {
      this.#slides();
    }
  }

  #settings() {
    const { stacked, bare, log } = this.options;
    return {
      width: Math.max(40, this.box.clientWidth),
      height: Math.max(24, this.box.clientHeight),
      padding: bare ? [2, 0, 2, 0] : [10, 20, 0, 0], // to the right, half of a time of the axis
      legend: { show: false },
      select: { show: false, left: 0, top: 0, width: 0, height: 0 },
      cursor: bare
        ? { show: false }
        : { y: false, points: { show: false }, drag: { x: false, y: false, setScale: false } },
      scales: {
        x: { time: false, range: (_, low, high) => [low, high] },
        y: log ? { distr: 3, range: (_, low, high) => powers(low, high) } : { range: () => [0, this.#scale()] },
      },
      axes: bare ? [{ show: false }, { show: false }] : [this.#axis("x"), this.#axis("y")],
      series: [{}, ...this.kinds.map((kind) => this.#series(kind))],
      bands: stacked ? this.kinds.slice(1).map((_, place) => ({ series: [place + 2, place + 1] })) : undefined,
      hooks: { setCursor: [(plot) => this.#moved(plot.cursor.idx)] },
    };
  }

  #scale() {
    return Math.max(this.options.least ?? 1, roundUp(this.top * 1.02));
  }

  #series(kind) {
    const fill = (plot) => (kind === "rejected" ? hatched(plot.ctx, kind) : colour(`${kind}-fill`));
    return {
      stroke: () => colour(kind),
      width: this.options.bare ? 1 : 1.5,
      dash: this.options.bare ? undefined : DASHES[kind],
      fill: this.options.stacked ? fill : undefined,
      points: { show: false },
    };
  }

  #axis(which) {
    const shared = {
      stroke: () => colour("soft"),
      grid: { stroke: () => colour("line"), width: 1, show: which === "y" },
      ticks: { show: which === "x", stroke: () => colour("line"), width: 1, size: 4 },
      font: "12px system-ui, sans-serif",
    };
    if (which === "y") {
      const values = (_, marks) => marks.map(this.options.format);
      const splits = this.options.log ? (_plot, _axis, low, high) => powersBetween(low, high) : undefined;
      return { ...shared, size: 52, space: 36, gap: 6, values, splits, filter: (_, marks) => marks };
    }
    const splits = (plot, _, low, high) => {
      const step = plot.width < 420 ? 120 : 60;
      const first = Math.ceil(low / step) * step;
      if (high - first > MOST_MARKS * step) return [];
      return Array.from({ length: Math.floor((high - first) / step) + 1 }, (_, place) => first + place * step);
    };
    return { ...shared, size: 28, gap: 4, splits, values: (_, marks) => marks.map((at) => clock(at).slice(0, 5)) };
  }

  #fit() {
    cancelAnimationFrame(this.#frame);
    this.#frame = requestAnimationFrame(() => {
      const { clientWidth: width, clientHeight: height } = this.box;
      if (width && height) this.#plot.setSize({ width, height });
    });
  }

  /** Show these series: `columns` has the points of each kind. Keep `top` for two charts of one scale. */
  update(times, columns, top = null) {
    this.times = times;
    this.columns = columns;
    const rows = this.kinds.map((kind) => columns[kind]);
    const drawn = this.options.stacked ? stacked(rows) : rows;
    this.top = top ?? highest(drawn);
    if (this.box.clientWidth) this.#plot.setData(several([times, ...drawn]));
    if (this.#at !== null) this.#tell();
  }

  redraw() {
    this.#plot.redraw(false, true);
  }

  destroy() {
    charts.delete(this);
    this.#plot.destroy();
  }

  #moved(place) {
    this.#at = place ?? null;
    this.options.onMove?.(this.#at);
    if (!this.options.bare) this.#tell();
  }

  /** The values at a place, as a text. */
  textAt(place) {
    const values = this.kinds.map((kind) => `${kind} ${this.options.format(this.columns[kind][place])}`);
    return `${clock(this.times[place])}: ${values.join(", ")}`;
  }

  #tell() {
    const place = this.#at ?? this.times.length - 1;
    if (!this.times.length || !this.columns || document.activeElement !== this.box) return;
    this.box.setAttribute("aria-valuemax", this.times.length - 1);
    this.box.setAttribute("aria-valuenow", place);
    this.box.setAttribute("aria-valuetext", this.textAt(place));
  }

  #slides() {
    const states = { role: "slider", tabindex: "0", "aria-label": this.options.label, "aria-valuemin": "0" };
    const place = { "aria-valuemax": "299", "aria-valuenow": "299", "aria-valuetext": "now" };
    for (const [name, value] of Object.entries({ ...states, ...place })) this.box.setAttribute(name, value);
    this.box.addEventListener("keydown", (event) => {
      const last = this.times.length - 1;
      const from = this.#at ?? last;
      const steps = { ArrowLeft: from - 1, ArrowRight: from + 1, PageUp: from + 30, PageDown: from - 30, Home: 0, End: last };
      if (event.key === "Escape") this.#leave();
      if (!(event.key in steps) || last < 0) return;
      event.preventDefault();
      const to = Math.min(last, Math.max(0, steps[event.key]));
      this.#plot.setCursor({ left: this.#plot.valToPos(this.times[to], "x"), top: 1 });
    });
    this.box.addEventListener("blur", () => this.#leave());
  }

  #leave() {
    this.#plot.setCursor({ left: -10, top: -10 });
  }
}

/** The data as two points, if it is one: uPlot's axis for one point begins at 0, so at 1970. */
function several(data) {
  return data[0].length === 1 ? data.map((row, place) => [place ? row[0] : row[0] - 1, row[0]]) : data;
}

/** The powers of ten around what is shown, and at least from 10 µs to 1 ms. */
function powers(low, high) {
  const round = (turn, value, other) => 10 ** turn(Math.log10(value > 0 ? value : other) + (turn === Math.floor ? 1e-9 : -1e-9));
  return [Math.min(1e-5, round(Math.floor, low, 1e-5)), Math.max(1e-3, round(Math.ceil, high, 1e-3))];
}

function powersBetween(low, high) {
  const first = Math.round(Math.log10(low));
  return Array.from({ length: Math.round(Math.log10(high)) - first + 1 }, (_, place) => 10 ** (first + place));
}

/** Each row on top of those before it. Where a row has nothing for a while, it has no line. */
function stacked(rows) {
  const below = rows[0].slice();
  return rows.map((row, level) => {
    if (level === 0) return row;
    return row.map((value, place) => {
      below[place] += value;
      return value || row[place - 1] || row[place + 1] ? below[place] : null;
    });
  });
}

/** The highest value of these series. */
export function highest(rows) {
  return rows.reduce((top, row) => row.reduce((most, value) => Math.max(most, value ?? 0), top), 0);
}

/** A legend that shows the values where the pointer is, or the present ones. Values never change its layout. */
export class Legend {
  constructor(box, kinds, icons, format) {
    this.format = format;
    this.values = new Map();
    this.time = el("span", { class: "when" });
    const items = kinds.map(([kind, label]) => {
      const value = el("span", { class: "value" });
      this.values.set(kind, value);
      return el("span", { class: `key ${kind}` }, icons(kind), el("span", {}, label), value);
    });
    box.replaceChildren(...items, this.time);
  }

  show(time, values) {
    setText(this.time, time);
    for (const [kind, node] of this.values) setText(node, this.format(values[kind]));
  }
}
