/*
 * The policy: its text, its changes since the one before, the last mistake of a reload, and reading the file again.
 */

import { confirmed } from "./dialogs.js";
import { announce, byId, el, fill, setText, shown } from "./dom.js";
import { ago, count, when } from "./numbers.js";

const LINES = 5000;
const WIDTH = 2000;

export class PolicyView {
  #version = null;
  #reloads = null;

  constructor(session) {
    this.session = session;
    byId("reload").addEventListener("click", () => this.#reload());
  }

  show() {
    const signed = this.session.signedIn;
    byId("policy-locked").hidden = signed;
    byId("policy-open").hidden = !signed;
    this.#version = null;
    if (!signed) this.#write({ now: { text: "" }, diff: "" });
  }

  update(status) {
    this.now = status.at;
    this.#facts(status);
    const { version, reloads } = status.policy;
    const seen = JSON.stringify([version, reloads]);
    if (!this.session.signedIn || seen === this.#version) return;
    this.#version = seen;
    this.#ask();
  }

  async #ask() {
    try {
      const policy = await this.session.get("v1/admin/policy");
      if (this.session.signedIn) this.#write(policy);
    } catch (error) {
      this.#version = null;
      setText(byId("reload-error"), error.message);
      byId("reload-error").hidden = false;
    }
  }

  #write({ now, before, diff, last_reload: last }) {
    const failed = last?.ok === false;
    byId("reload-error").hidden = !failed;
    setText(byId("reload-error"), failed ? `The file has a mistake since ${when(last.at, this.now)}, so the policy before stays in use.\n${shown(last.error, 2000)}` : "");
    fill(byId("policy-text"), ...linesOf(now.text));
    fill(byId("diff"), ...linesOf(diff).map(marked));
    byId("diff").hidden = !diff;
    byId("diff-empty").hidden = Boolean(diff);
    setText(byId("diff-empty"), before ? "The text is the same as before." : "This is the first policy since the service started.");
  }

  #facts({ policy, at }) {
    const rows = [
      ["File", shown(policy.source)], ["Version", policy.version], ["In use since", `${when(policy.loaded_at, at)}, ${ago(policy.loaded_at, at)}`],
      ["Rules", count(policy.rules)], ["Readings", `${count(policy.reloads.success)} taken, ${count(policy.reloads.failure)} with mistakes`],
    ];
    const box = byId("policy-facts");
    if (box.children.length !== rows.length) fill(box, ...rows.map(([term]) => el("div", {}, el("dt", {}, term), el("dd"))));
    rows.forEach(([, text], place) => setText(box.children[place].lastChild, text));
  }

  async #reload() {
    const done = await confirmed({
      title: "Read the policy's file again",
      about: ["If the file has changed and has no mistake, its rules count at once. Buckets keep what is in them."],
      verb: "Read it",
      act: (_, key) => this.session.change("v1/admin/reload", {}, key),
    });
    this.#ask();
    if (done) announce("The file was read: its rules count.");
  }
}

/** The lines of a text, as elements; hidden characters as escapes, but tabs as they are. */
function linesOf(text) {
  const lines = text.replace(/\n$/, "").split("\n");
  const seen = lines.slice(0, LINES).map((line) => el("span", { dir: "ltr" }, line.split("\t").map((part) => shown(part, WIDTH)).join("\t")));
  if (lines.length > LINES) seen.push(el("span", {}, `… and ${count(lines.length - LINES)} lines more`));
  return text === "" ? [] : seen;
}

function marked(line) {
  const kinds = { "+": "added", "-": "removed", "@": "place" };
  const kind = /^(\+\+\+|---)/.test(line.textContent) ? "place" : kinds[line.textContent[0]];
  if (kind) line.className = kind;
  return line;
}
