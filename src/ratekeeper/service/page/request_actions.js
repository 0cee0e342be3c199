/*
 * What an admin may do to a request's buckets: reset, grant, block, unblock. Each is confirmed first.
 */

import { confirmed } from "./dialogs.js";
import { announce, el, name, shown } from "./dom.js";

const SHOWN = 8;

/** The attributes as a list, so that the admin sees whose buckets change. */
function listed(attributes) {
  const pairs = Object.entries(attributes);
  const parts = pairs.slice(0, SHOWN).map(([attribute, value]) => el("span", { class: "tag" }, name(attribute), " ", name(value, 40)));
  return [...parts.flatMap((part) => [part, " "]), pairs.length > SHOWN ? `and ${pairs.length - SHOWN} more` : ""];
}

const ACTIONS = {
  reset: {
    title: "Reset buckets", says: "Its buckets become full, and a block ends:", verb: "Reset", done: "The buckets are full.", danger: true,
  },
  grant: {
    title: "Grant tokens", says: "Its buckets get tokens back, up to a full bucket:", verb: "Grant", done: "The tokens are granted.",
    fields: [{ name: "tokens", label: "Tokens", type: "number", value: 10, min: 1, max: 1e12, step: 1 }],
  },
  block: {
    title: "Block", says: "Until then each request with the same bucket is rejected:", verb: "Block", done: "It is blocked.", danger: true,
    fields: [{ name: "minutes", label: "For how many minutes", type: "number", value: 10, min: 1, max: 4_000_000 }],
  },
  unblock: { title: "Unblock", says: "A block ends now; what the bucket owes stays:", verb: "Unblock", done: "It is not blocked any more." },
};

/** Confirm one of the actions on a request's buckets, and do it. `rules` are the names of the rules that have one. */
export async function act(which, session, attributes, rules) {
  const { title, says, fields = [], verb, done, danger = false } = ACTIONS[which];
  const choices = rules.map((rule) => [rule, shown(rule)]);
  if (rules.length > 1) choices.push(["", "all of its rules"]);
  const body = ({ rule, tokens, minutes }) => ({
    attributes,
    rule: rule === "" ? rules : rule,
    ...(tokens === undefined ? {} : { tokens }),
    ...(minutes === undefined ? {} : { seconds: minutes * 60 }),
  });
  const made = await confirmed({
    title, verb, danger,
    about: [says, el("br"), ...listed(attributes)],
    fields: [{ name: "rule", label: "The bucket of which rule", options: choices }, ...fields],
    act: (values, key) => session.change(`v1/admin/${which}`, body(values), key),
  });
  if (made) announce(done);
}
