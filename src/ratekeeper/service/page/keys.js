/*
 * The most limited keys: hashes for everyone, and the real keys for an admin. An admin can open one in the view of one request.
 *
 * The list keeps its rows and writes to them. Real keys are asked for every five seconds, while they are seen.
 */

import { byId, el, fill, name, setText, svg } from "./dom.js";
import { count } from "./numbers.js";

const MOST = 10;
const EVERY = 5000;

export class KeysView {
  #rows = [];
  #real = null;
  #asked = -EVERY;

  constructor(session, request) {
    this.session = session;
    this.request = request;
  }

  show() {
    this.#real = null;
    this.#asked = -EVERY;
  }

  update(status) {
    if (this.session.signedIn) this.#ask();
    const known = this.session.signedIn && this.#real !== null;
    setText(byId("keys-note"), known ? "as they are" : this.session.signedIn ? "as hashes" : "as hashes; sign in to see them");
    const keys = (known ? this.#real : status.limited_keys).slice(0, MOST);
    const most = Math.max(1, ...keys.map((key) => key.rejected));
    byId("keys-empty").hidden = keys.length > 0;
    while (this.#rows.length > keys.length) this.#rows.pop().node.remove();
    keys.forEach((key, place) => this.#write(this.#rows[place] ?? this.#make(), key, most));
  }

  async #ask() {
    if (performance.now() - this.#asked < EVERY) return;
    this.#asked = performance.now();
    try {
      const answer = await this.session.get("v1/admin/limited-keys");
      if (this.session.signedIn) this.#real = answer.limited_keys;
    } catch {
      this.#real = null; // the hashes are shown again
    }
  }

  #make() {
    const who = el("span");
    const rule = el("span", { class: "rule" });
    const bar = svg("rect", { width: "0", height: "8" });
    const n = el("span");
    const error = el("small");
    const why = el("button", { type: "button", class: "quiet", on: { click: () => this.request.pick(row.key.rule, row.key.attributes) } }, "Why?");
    why.setAttribute("aria-label", "Why is this key limited?");
    const act = el("span", { class: "act" }, why);
    const meter = svg("svg", { class: "meter", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" }, bar);
    const node = el("li", {}, el("span", { class: "who" }, who, rule), meter, el("span", { class: "n" }, n, error), act);
    byId("keys").append(node);
    const row = { node, who, rule, bar, n, error, why, key: null, shown: null };
    this.#rows.push(row);
    return row;
  }

  #write(row, key, most) {
    row.key = key;
    row.why.hidden = !key.attributes;
    const same = `${key.rule}\n${key.key}`;
    if (row.shown !== same) {
      row.shown = same;
      fill(row.who, name(key.key, 48));
      fill(row.rule, name(key.rule, 48));
    }
    row.bar.setAttribute("width", (100 * key.rejected) / most);
    setText(row.n, count(key.rejected));
    setText(row.error, key.error ? `≤ ${count(key.error)} too many` : "rejected");
  }
}
