/*
 * The dialog in which an admin confirms a change, or signs in. Knows no route.
 *
 * Each change has a key. After a lost answer the button sends the same key again, so that nothing is changed twice: the
 * service then says 409, as it knows the key. After any answer the key is used up, and the next try has a new one.
 */

import { announce, el } from "./dom.js";

const USED_KEY = 409;
const LOST = 0;

/** A field of a dialog: a choice if it has `options`, which are pairs of a value and its text; else an input. */
function fieldOf({ name, label, options, ...attributes }) {
  const input = options
    ? el("select", { name }, ...options.map(([value, text]) => el("option", { value }, text)))
    : el("input", { name, required: true, autocomplete: "off", ...attributes });
  return { name, input, node: el("label", { class: "field" }, el("span", {}, label), input) };
}

function valuesOf(fields) {
  return Object.fromEntries(fields.map(({ name, input }) => [name, input.type === "number" ? input.valueAsNumber : input.value]));
}

/**
 * Ask for a confirmation, and make the change. Return whether it was made. A dialog may be closed before its answer comes: then
 * a change that is made is returned as such, and a failure is announced.
 *
 * `about` has the nodes and strings that say what will happen; `act` gets the fields' values and the change's key.
 */
export function confirmed({ title, about, fields = [], verb, danger = false, act }) {
  if (document.querySelector("dialog[open]")) return Promise.resolve(false);
  let key = crypto.randomUUID();
  const inputs = fields.map(fieldOf);
  const error = el("p", { class: "error", role: "alert" });
  const yes = el("button", { class: danger ? "danger" : "main" }, verb);
  const no = el("button", { type: "button", on: { click: () => dialog.close() } }, "Cancel");
  const form = el(
    "form", { method: "dialog" }, el("h2", { id: "dialog-title" }, title), el("p", {}, ...about),
    ...inputs.map(({ node }) => node), error, el("p", { class: "buttons" }, no, yes),
  );
  const dialog = el("dialog", { "aria-labelledby": "dialog-title" }, form); // one each: a dialog's end is told later, maybe while the next is open
  document.body.append(dialog);
  let made = false;
  let lost = false;
  let closed = false;
  let underWay = false;
  return new Promise((resolve) => {
    const send = async () => {
      try {
        await act(valuesOf(inputs), key);
        made = true;
      } catch (problem) {
        made = problem.status === USED_KEY && lost;
        lost = problem.status === LOST;
        if (!lost) key = crypto.randomUUID();
        error.textContent = problem.message;
        if (closed && !made) announce(`${title}: ${problem.message}`, true);
      }
    };
    const busy = (is) => {
      underWay = is;
      yes.setAttribute("aria-disabled", is); // a button that is disabled itself would lose the focus
    };
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (underWay) return;
      busy(true);
      error.textContent = "";
      await send();
      busy(false);
      if (closed) resolve(made);
      else if (made) dialog.close();
    });
    dialog.addEventListener("close", () => {
      closed = true;
      dialog.remove();
      if (!underWay) resolve(made);
    });
    dialog.showModal();
    (inputs[0]?.input ?? yes).focus();
  });
}

/** Sign an admin in by a token, or out. */
export async function signInOrOut(session) {
  if (session.signedIn) {
    session.signOut();
    announce("You are signed out.");
    return;
  }
  const done = await confirmed({
    title: "Sign in",
    about: ["The token stays in this tab, and is forgotten when you close it."],
    fields: [{ name: "token", label: "An admin's token", type: "password", maxlength: 512 }],
    verb: "Sign in",
    act: ({ token }) => session.signIn(token.trim()),
  });
  if (done) announce("You are signed in.");
}
