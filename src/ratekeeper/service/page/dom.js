/*
 * Elements, and text from outside. Knows no view.
 *
 * Names of rules, keys and attributes come from anybody. They enter the page through this file only, as text: no string
 * becomes markup. Characters that cannot be seen, or that turn the direction of writing, are shown as escapes.
 */

const HIDDEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\u2028\u2029]/gu;
const NAME = 60;
const TITLE = 1000;

function escaped(character) {
  const code = character.codePointAt(0);
  if (code < 0x100) return `\\x${code.toString(16).padStart(2, "0")}`;
  return code < 0x10000 ? `\\u${code.toString(16).padStart(4, "0")}` : `\\u{${code.toString(16)}}`;
}

/** Return a string as people may see it: without hidden characters, and at most so many characters long. */
export function shown(text, most = NAME) {
  const characters = Array.from(String(text).slice(0, 2 * most + 2));
  const cut = characters.length > most || String(text).length > 2 * most + 2;
  const seen = characters.slice(0, cut ? most - 1 : most).join("").replace(HIDDEN, escaped);
  return cut ? `${seen}…` : seen;
}

/** Return an element. Attributes are set as attributes; `on` has listeners; children are nodes, or strings as text. */
export function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** Return an element of SVG. */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(node, { on = {}, ...attributes }, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  for (const [event, listener] of Object.entries(on)) node.addEventListener(event, listener);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** Return a name from outside, apart from the direction of the text around it. A cut name has a title. */
export function name(text, most = NAME) {
  const short = shown(text, most);
  const node = el("bdi", { class: "name" }, short);
  if (short.endsWith("…")) node.title = shown(text, TITLE);
  return node;
}

/** Return the element with an id. */
export function byId(id) {
  return document.getElementById(id);
}

/** Set a text, if it is another one: so nothing is laid out or announced in vain. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Put these children in place of an element's own. */
export function fill(node, ...children) {
  node.replaceChildren(...children.filter((child) => child !== null && child !== undefined));
}

/** Return an icon, which tells by its shape the same as by its colour. The shapes are in page.html. */
export function icon(kind) {
  const use = svg("use", { href: `#icon-${kind}` });
  return svg("svg", { class: `icon ${kind}`, "aria-hidden": "true", viewBox: "0 0 16 16" }, use);
}

/** Say something once to people who hear the page, and show it for a while. */
export function announce(text, bad = false) {
  const node = byId("notice");
  node.classList.toggle("bad", bad);
  node.classList.add("on");
  fill(node, icon(bad ? "rejected" : "admitted"), el("span", {}, text));
  clearTimeout(announce.timer);
  announce.timer = setTimeout(() => node.classList.remove("on"), 8000);
}
