/*
 * Pictures of buckets: a token bucket as a vessel that refills, a leaky bucket as its queue that drains.
 *
 * Between two answers of the service a level moves by the limit's own rate, as the bucket does. Who asked for less
 * motion sees the level of each answer only. Knows no request.
 */

import { svg } from "./dom.js";

const FEW = 12; // more tokens or places are not drawn one by one
const PLACES = 24;
const still = matchMedia("(prefers-reduced-motion: reduce)");

/** A drawing with `node`, `set(level)` of an answer, and `move(now)`, which an animation's frames call. */
class Moving {
  constructor(capacity, slope) {
    this.capacity = Math.max(capacity, 0);
    this.slope = slope;
    this.level = 0;
    this.since = performance.now();
  }

  set(level) {
    this.level = level;
    this.since = performance.now();
    this.draw(level);
  }

  move(now) {
    if (still.matches) return;
    const moved = this.level + (this.slope * (now - this.since)) / 1000;
    this.draw(this.slope > 0 ? Math.min(this.capacity, moved) : Math.max(0, moved));
  }
}

let clips = 0;

/** A token bucket: what is left as water, refilled from above; the dashed line is what the request needs. */
export class Vessel extends Moving {
  constructor(capacity, perSecond, cost) {
    super(capacity, perSecond);
    const clip = `clip-${(clips = (clips + 1) % 10_000)}`;
    const inside = "M14 26v86a14 14 0 0 0 14 14h56a14 14 0 0 0 14-14V26Z";
    this.water = svg("rect", { class: "water", x: 14, width: 84, y: 126, height: 0 });
    this.surface = svg("line", { class: "surface", x1: 14, x2: 98 });
    this.drop = svg("circle", { class: "drop", cx: 56, cy: 8, r: 3 });
    const marks = capacity <= FEW ? Array.from({ length: Math.max(0, Math.ceil(capacity) - 1) }, (_, place) => this.#line("mark", place + 1)) : [];
    const needed = cost > 0 && cost <= capacity ? this.#line("need", cost) : null;
    this.node = svg(
      "svg", { class: "drawing", viewBox: "0 0 112 136", "aria-hidden": "true" },
      svg("clipPath", { id: clip }, svg("path", { d: inside })),
      svg("path", { class: "inside", d: inside }),
      svg("g", { "clip-path": `url(#${clip})` }, this.water, this.surface, ...marks),
      svg("path", { class: "wall", d: "M14 20v92a14 14 0 0 0 14 14h56a14 14 0 0 0 14-14V20" }), needed, this.drop,
    );
  }

  #height(tokens) {
    return this.capacity > 0 ? (100 * Math.max(0, Math.min(tokens, this.capacity))) / this.capacity : 0;
  }

  #line(kind, tokens) {
    const y = 126 - this.#height(tokens);
    return svg("line", { class: kind, x1: kind === "need" ? 6 : 14, x2: kind === "need" ? 106 : 98, y1: y, y2: y });
  }

  draw(tokens) {
    const height = this.#height(tokens);
    const y = 126 - height;
    this.water.setAttribute("y", y);
    this.water.setAttribute("height", height);
    for (const end of ["y1", "y2"]) this.surface.setAttribute(end, y);
    const refills = this.slope > 0 && tokens >= 0 && tokens < this.capacity; // a bucket in debt shows nothing of it yet
    this.drop.classList.toggle("falls", refills);
    this.drop.setAttribute("visibility", refills ? "visible" : "hidden");
  }
}

/** A leaky bucket: its queue, which fills from the left end and drains to the right at a constant rate. */
export class Queue extends Moving {
  constructor(capacity, perSecond) {
    super(capacity, -perSecond);
    this.places = Math.min(PLACES, Math.max(1, Math.ceil(capacity)));
    const width = 256 / this.places;
    this.fills = Array.from({ length: this.places }, (_, place) => {
      const right = 270 - place * width;
      return svg("rect", { class: "queued", x: right - width + 1.5, y: 21, height: 38, width: 0, rx: 2, "data-right": right - 1.5 });
    });
    this.width = width - 3;
    this.drop = svg("circle", { class: "drop", cx: 288, cy: 40, r: 4 });
    const between = Array.from({ length: this.places - 1 }, (_, place) => {
      const x = 14 + (place + 1) * width;
      return svg("line", { class: "mark", x1: x, x2: x, y1: 18, y2: 62 });
    });
    this.node = svg(
      "svg", { class: "drawing", viewBox: "0 0 312 80", preserveAspectRatio: "xMinYMid", "aria-hidden": "true" },
      svg("rect", { class: "inside", x: 14, y: 18, width: 256, height: 44 }), ...between, ...this.fills,
      svg("path", { class: "wall", d: "M6 18H266a6 6 0 0 1 6 6V32M6 62H266a6 6 0 0 0 6-6V48" }), this.drop,
    );
  }

  draw(queued) {
    const full = (this.places * queued) / (this.capacity || 1);
    this.fills.forEach((rect, place) => {
      const part = Math.min(1, Math.max(0, full - place));
      rect.setAttribute("width", part * this.width);
      rect.setAttribute("x", Number(rect.dataset.right) - part * this.width);
    });
    this.drop.classList.toggle("leaks", queued > 0);
    this.drop.setAttribute("visibility", queued > 0 ? "visible" : "hidden");
  }
}

/** A limit that admits nothing: a vessel with a cross. */
export function closed() {
  const node = svg(
    "svg", { class: "drawing", viewBox: "0 0 112 136", "aria-hidden": "true" },
    svg("path", { class: "inside", d: "M14 26v86a14 14 0 0 0 14 14h56a14 14 0 0 0 14-14V26Z" }),
    svg("path", { class: "wall", d: "M14 20v92a14 14 0 0 0 14 14h56a14 14 0 0 0 14-14V20" }),
    svg("path", { class: "stop", d: "m40 58 32 32m0-32L40 90" }),
  );
  return { node, set() {}, move() {} };
}
