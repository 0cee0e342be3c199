/*
 * The entry point of the page. It chooses the view by the address's fragment, opens the stream, and keeps the admin's session.
 */

import { announce, byId, fill, name, setText } from "./dom.js";
import { signInOrOut } from "./dialogs.js";
import { History } from "./history.js";
import { KeysView } from "./keys.js";
import { Overview } from "./overview.js";
import { PolicyView } from "./policy.js";
import { RequestView } from "./request.js";
import { RulesView } from "./rules.js";
import { Session } from "./session.js";
import { Stream } from "./stream.js";
import { count } from "./numbers.js";
import { WhatIfView } from "./what_if.js";

const TITLES = { overview: "Overview", request: "One request", "what-if": "What-if", policy: "Policy" };
const STATES = { live: "live", lost: "reconnecting", connecting: "connecting" };

const session = new Session();
const history = new History();
const overview = new Overview(history);
const request = new RequestView(session);
const views = {
  overview: [overview, new RulesView(session, history, overview), new KeysView(session, request)],
  request: [request],
  "what-if": [new WhatIfView(session)],
  policy: [new PolicyView(session)],
};
let status = null;
let shownView = null;
let frame = 0;

/** Show the view that the address names. A view that is not shown does no work. */
function route() {
  const wanted = location.hash.slice(1);
  if (wanted === "main") return;
  const next = Object.hasOwn(views, wanted) ? wanted : "overview";
  document.title = `${TITLES[next]} · ratekeeper`;
  for (const link of document.querySelectorAll(".views a")) {
    if (link.hash === `#${next}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  for (const view of Object.keys(views)) byId(view).hidden = view !== next;
  if (shownView !== null && shownView !== next) {
    views[shownView].forEach((part) => part.hide?.());
    scrollTo(0, 0);
  }
  shownView = next;
  views[next].forEach((part) => part.show?.(status));
  if (status) update();
}

function update() {
  views[shownView].forEach((part) => part.update?.(status));
}

/** Show the status in the next frame, once, however many come before it. A hidden tab has no frames, and no work. */
function schedule() {
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    header();
    update();
  });
}

function header() {
  if (byId("policy-name").title !== status.policy.source) {
    byId("policy-name").title = status.policy.source;
    fill(byId("policy-name"), name(status.policy.source, 40));
  }
  setText(byId("policy-version"), status.policy.version.slice(0, 8));
  setText(byId("version"), `ratekeeper ${status.version}`);
  setText(byId("processes"), `${count(status.processes)} ${status.processes === 1 ? "process" : "processes"}`);
  byId("demo").hidden = !status.demo;
  signing();
}

function signing() {
  const button = byId("sign");
  const off = status !== null && !status.admin;
  button.disabled = status === null || off;
  button.title = off ? "The admin API is off: start the service with --admin-tokens FILE" : "";
  setText(button, session.signedIn ? "Sign out" : "Sign in");
  document.body.classList.toggle("signed", session.signedIn);
}

/** Sign in by the token of the address, or of this tab. */
function begin() {
  session.begin().catch((error) => error.status === 401 && tellUnknown());
}

function tellUnknown() {
  announce("The service does not know your token: sign in with another one.", true);
}

/** Take one event of the stream. The tests call it too, with an hour's worth of events. */
export const take = {
  history: (event) => history.load(event),
  status: (event) => {
    status = event;
    history.add(event);
    schedule();
  },
  state: (state) => {
    if (byId("state").dataset.state === state) return;
    byId("state").dataset.state = state;
    setText(byId("state-text"), STATES[state]);
    byId("lost").hidden = state !== "lost";
    document.body.classList.toggle("lost", state === "lost");
    if (state === "live") begin();
  },
};

session.addEventListener("change", () => {
  signing();
  views[shownView].forEach((part) => part.show?.(status));
  if (status) update();
});
session.addEventListener("unknown", tellUnknown);
byId("sign").addEventListener("click", () => signInOrOut(session));
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("main").focus();
});
addEventListener("hashchange", () => {
  begin();
  route();
});
begin();
route();
new Stream("v1/status/events", take).start();
