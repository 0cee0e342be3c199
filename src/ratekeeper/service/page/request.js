/*
 * One request: its attributes, each rule's decision and reason, and its buckets. Asked again each second while seen.
 */

import { Vessel, Queue, closed } from "./buckets.js";
import { act } from "./request_actions.js";
import { byId, el, fill, icon, name, setText, shown } from "./dom.js";
import { count, duration, perUnit, when } from "./numbers.js";

const EVERY = 1000;
const ROWS = 32;
const LONGEST = 20_000;

export class RequestView {
  #asked = null;
  #timer = 0;
  #frame = 0;
  #cards = new Map();
  #charged = [];
  #visible = false;
  #now = 0;

  constructor(session) {
    this.session = session;
    byId("add-attribute").addEventListener("click", () => this.#row("", "")?.querySelector("input").focus());
    byId("request-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#begin(this.#typed(), byId("cost").valueAsNumber);
    });
    byId("request-actions").addEventListener("click", (event) => {
      const which = event.target.dataset.act;
      if (which) act(which, this.session, this.#asked.attributes, this.#charged).then(() => this.#ask());
    });
    document.addEventListener("visibilitychange", () => this.#ask());
    this.#row("", "");
  }

  /** Show the view with the attributes of a key, and with others that the key's rule asks for. */
  async pick(rule, key) {
    location.hash = "request";
    byId("main").focus(); // the button that was pressed is hidden now
    let match = {};
    try {
      const { rules } = await this.session.get("v1/admin/rules");
      match = rules.find((one) => one.name === rule)?.match ?? {};
    } catch {
      // the key alone tells enough to ask
    }
    fill(byId("attributes"));
    const examples = Object.entries(match).map(([attribute, [glob]]) => [attribute, glob.replaceAll("*", "")]);
    const stated = { ...Object.fromEntries(examples.filter(([attribute]) => attribute !== "tier")), ...key };
    for (const [attribute, value] of Object.entries(stated)) this.#row(attribute, shown(value, LONGEST), [attribute, value]);
    this.#begin(this.#typed(), byId("cost").valueAsNumber || 1);
  }

  show() {
    this.#visible = true;
    const signed = this.session.signedIn;
    byId("request-locked").hidden = signed;
    byId("request-open").hidden = !signed;
    if (!signed) this.#forget();
    else this.#names();
    this.#ask();
    cancelAnimationFrame(this.#frame);
    this.#move();
  }

  update(status) {
    this.#now = status.at;
  }

  hide() {
    this.#visible = false;
    clearTimeout(this.#timer);
    cancelAnimationFrame(this.#frame);
  }

  #move() {
    const now = performance.now();
    for (const { picture } of this.#cards.values()) picture?.move(now);
    if (this.#visible) this.#frame = requestAnimationFrame(() => this.#move());
  }

  async #names() {
    try {
      const { rules } = await this.session.get("v1/admin/rules");
      const attributes = attributesOf(rules);
      fill(byId("attribute-names"), ...attributes.slice(0, ROWS).map((one) => el("option", { value: one })));
      const rows = [...byId("attributes").children];
      if (this.#asked || rows.some((row) => row.querySelector("input").value)) return;
      const free = rows.filter(isFree);
      attributes.slice(0, 8).forEach((one, place) => ((free[place] ?? this.#row("", "")).querySelector("input").value = one));
    } catch {
      // names are only a help: anything can be typed in
    }
  }

  /** Add a row. A field holds no line break, so `exact` is asked about until a person edits the row. */
  #row(attribute, value, exact = null) {
    const rows = byId("attributes");
    if (rows.children.length >= ROWS) return null;
    const leave = () => {
      (node.nextSibling?.lastChild ?? byId("add-attribute")).focus();
      node.remove();
    };
    const remove = el("button", { type: "button", class: "quiet", "aria-label": "Remove this attribute", on: { click: leave } }, "×");
    const shared = { autocomplete: "off", spellcheck: "false", autocapitalize: "off" };
    const named = el("input", { ...shared, "aria-label": "Attribute", placeholder: "attribute", list: "attribute-names", value: attribute, maxlength: 200 });
    const valued = el("input", { ...shared, "aria-label": "Value", placeholder: "value", value, maxlength: LONGEST, dir: "auto" });
    const edited = () => {
      node.exact = null;
      named.required = valued.value !== "";
    };
    const node = el("div", { class: "row", on: { input: edited } }, named, valued, remove);
    node.exact = exact;
    rows.append(node);
    return node;
  }

  /** The attributes that were typed in. A row without a value is an attribute that the request lacks. */
  #typed() {
    const pairs = [...byId("attributes").children].map((row) => row.exact ?? [...row.querySelectorAll("input")].map((input) => input.value));
    return Object.fromEntries(pairs.filter(([attribute, value]) => attribute !== "" && value !== ""));
  }

  #begin(attributes, cost) {
    this.#asked = { attributes, cost };
    this.#ask();
  }

  #forget() {
    this.#asked = null;
    fill(byId("attributes"));
    this.#row("", "");
    this.#clear("Enter the attributes of a request, or pick a key from the overview.");
  }

  /** Show no answer. One of another moment, or to another question, would be read as the present one. */
  #clear(why) {
    this.#cards.clear();
    fill(byId("buckets"));
    fill(byId("verdict"), el("span", { class: "soft" }, why));
    byId("verdict").className = "verdict";
    delete byId("verdict").dataset.said;
    byId("request-actions").hidden = true;
    setText(byId("request-live"), "");
  }

  async #ask() {
    clearTimeout(this.#timer);
    const asked = this.#asked;
    if (!asked || !this.#visible || document.hidden || !this.session.signedIn) return;
    try {
      const answer = await this.session.ask("v1/admin/explain", asked);
      if (asked !== this.#asked) return;
      setText(byId("request-error"), "");
      setText(byId("request-live"), "asked again each second");
      this.#verdict(answer);
      this.#rules(answer.rules, asked.cost);
      this.#charged = answer.rules.filter((rule) => rule.applies).map((rule) => rule.name);
      byId("request-actions").hidden = this.#charged.length === 0;
    } catch (error) {
      if (asked !== this.#asked) return;
      setText(byId("request-error"), error.message);
      this.#clear("The service did not answer this question.");
      if (error.status >= 400 && error.status < 500) return; // the same question has the same answer
    }
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#ask(), EVERY);
  }

  #verdict(answer) {
    const [kind, title, why] = verdictOf(answer);
    const box = byId("verdict");
    if (box.dataset.said === title + why) return; // said once, not each second
    box.dataset.said = title + why;
    box.className = `verdict ${kind}`;
    fill(box, icon(kind), el("div", {}, el("p", {}, el("strong", {}, title)), el("p", {}, why)));
  }

  #rules(rules, cost) {
    const names = new Set(rules.map((rule) => rule.name));
    for (const [one, card] of this.#cards) {
      if (!names.has(one)) {
        card.node.remove();
        this.#cards.delete(one);
      }
    }
    for (const rule of [...rules.filter((one) => one.applies), ...rules.filter((one) => !one.applies)]) {
      const shape = JSON.stringify([rule.applies, rule.limit, cost, rule.key]);
      let card = this.#cards.get(rule.name);
      if (card?.shape !== shape) {
        const made = makeCard(rule, shape, cost);
        if (card) card.node.replaceWith(made.node);
        else byId("buckets").append(made.node);
        card = made;
        this.#cards.set(rule.name, card);
      }
      writeCard(card, rule, this.#now);
    }
  }
}

/** The attributes that the rules look at; `tier` is made of others. */
function attributesOf(rules) {
  const names = rules.flatMap((rule) => [...rule.key, ...Object.keys(rule.match)]);
  return [...new Set(names)].filter((one) => one !== "tier");
}

/** Nobody has written a value in the row, or is writing its name. */
function isFree(row) {
  const [named, valued] = row.querySelectorAll("input");
  return valued.value === "" && named !== document.activeElement;
}

/** What the decision means: a kind, a title and a reason. */
function verdictOf(answer) {
  const charged = answer.rules.filter((rule) => rule.applies);
  const refusing = charged.filter((rule) => !rule.allowed && !rule.shadow).map((rule) => shown(rule.name));
  if (answer.exempt) return ["admitted", "Admitted", "The request is exempt from the policy's rules."];
  if (answer.missing) return ["rejected", "Rejected", `The request has no ${shown(answer.missing)}.`];
  const by = refusing.map((rule) => `“${rule}”`).join(", ");
  if (answer.denied) return ["rejected", "Rejected", `By the rule ${by}: no request like this passes.`];
  if (refusing.length) return ["rejected", "Rejected", refusing.length > 1 ? `By the rules ${by}.` : `By the rule ${by}.`];
  if (answer.delay > 0) return ["delayed", "Delayed", `It would wait ${duration(Math.ceil(answer.delay * 10) / 10)} for its turn.`];
  return ["admitted", "Admitted", charged.length ? "Each rule that applies has room." : "No rule applies, so nothing limits this request."];
}

function pictureOf(rule, cost) {
  if (!rule.applies) return null;
  const { capacity, per_second: perSecond } = rule.bucket;
  if (!capacity) return closed();
  return rule.algorithm === "leaky bucket" ? new Queue(capacity, perSecond) : new Vessel(capacity, perSecond, cost);
}

function makeCard(rule, shape, cost) {
  const picture = pictureOf(rule, cost);
  const says = el("span", { class: "says" });
  const facts = el("dl");
  const why = el("p", { class: "why" });
  const kind = rule.applies ? (picture instanceof Queue ? "leaky" : "") : "off";
  const node = el("section", { class: `card bucket ${kind}` }, el("div", { class: "top" }, el("h3", {}, name(rule.name)), says), picture?.node, facts, why);
  const keys = Object.entries(rule.applies ? rule.key : {}).map(([one, value]) => [el("span", { class: "tag" }, name(one), " ", name(value ?? "none", 48)), " "]);
  if (keys.length) node.append(el("p", { class: "key" }, "Key ", ...keys.flat()));
  return { node, picture, says, facts, why, shape, values: new Map() };
}

/** Why a rule that applies decides so. */
function whyOf(rule, now) {
  if (rule.paused_until) return `Paused until ${when(rule.paused_until, now)}: it rejects nothing.`;
  if (rule.message) return rule.message;
  if (rule.allowed) return "";
  const { capacity, remaining, blocked_until: blocked } = rule.bucket;
  if (!capacity) return "It admits no request.";
  if (blocked) return `An admin has blocked it until ${when(blocked, now)}.`;
  if (rule.cost > capacity) return `The request costs ${count(rule.cost)}, and a full bucket has ${count(capacity)}.`;
  const wait = rule.retry_after ? ` In ${duration(Math.ceil(rule.retry_after * 10) / 10)} it may pass.` : "";
  return `The request costs ${count(rule.cost)}; ${count(Math.max(0, Math.floor(remaining)))} is left.${wait}`;
}

function writeCard(card, rule, now) {
  const said = !rule.applies ? "none" : !rule.allowed ? "rejected" : rule.delay ? "delayed" : "admitted";
  if (card.said !== said) {
    card.said = said;
    const words = { none: "does not apply", rejected: "rejects", delayed: "delays", admitted: "admits" }[said];
    fill(card.says, icon(said), rule.shadow && rule.applies ? `${words}, in shadow` : words);
  }
  setText(card.why, shown(rule.reason ?? whyOf(rule, now), 300));
  if (!rule.applies || !rule.bucket.capacity) return;
  const { used, remaining, capacity, per_second: perSecond, reset_after: reset, blocked_until: blocked, waiting } = rule.bucket;
  const leaky = card.picture instanceof Queue;
  const full = reset * perSecond; // finer than `used`, which is whole
  card.picture.set(leaky ? full : capacity - full);
  fact(card, leaky ? "In the queue" : "Left", `${count(leaky ? used : remaining)} of ${count(capacity)}`);
  fact(card, leaky ? "Drains" : "Refills", perUnit(perSecond));
  fact(card, leaky ? "Empty in" : "Full in", reset > 0 ? duration(Math.ceil(reset)) : "now");
  if (waiting) fact(card, "Waiting", count(waiting));
  if (blocked) fact(card, "Blocked until", when(blocked, now));
}

function fact(card, term, text) {
  if (!card.values.has(term)) {
    const value = el("dd");
    card.facts.append(el("div", {}, el("dt", {}, term), value));
    card.values.set(term, value);
  }
  setText(card.values.get(term), text);
}
