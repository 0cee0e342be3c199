/*
 * Numbers as people read them. Each returns a string; a number that nobody knows is a dash. Knows no element.
 */

const WHOLE = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const TENTHS = new Intl.NumberFormat("en-US", { maximumFractionDigits: 1 });
const SHORT = new Intl.NumberFormat("en-US", { notation: "compact", maximumSignificantDigits: 3 });
const FINE = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 6 });
const UNITS = [["second", 1], ["minute", 60], ["hour", 3600], ["day", 86400]];
const NONE = "–";

const known = (value) => typeof value === "number" && Number.isFinite(value);

/** A whole number: 12,345. */
export function count(value) {
  return known(value) ? WHOLE.format(value) : NONE;
}

/** A number of things a second: 3.2, or 1,204, or 1.25M. Axes and tiles have no room for more digits, and would cut them off. */
export function rate(value) {
  if (!known(value)) return NONE;
  return (value < 10 ? TENTHS : value < 999_999.5 ? WHOLE : SHORT).format(value);
}

/** A number as exact as people need it: 0.0333333. */
export function fine(value) {
  return known(value) ? FINE.format(value) : NONE;
}

/** A share of 1: 6.7 %. */
export function share(part, whole) {
  return known(part) && whole > 0 ? `${TENTHS.format((100 * part) / whole)} %` : NONE;
}

/** A duration: 182 µs, 4.2 ms, 1.3 s, 5 min, 3 h. */
export function duration(seconds) {
  if (!known(seconds)) return NONE;
  if (seconds === 0) return "0 s";
  if (seconds < 1e-3) return `${rate(seconds * 1e6)} µs`;
  if (seconds < 1) return `${rate(seconds * 1e3)} ms`;
  if (seconds < 120) return `${rate(seconds)} s`;
  if (seconds < 7200) return `${count(seconds / 60)} min`;
  return seconds < 172800 ? `${count(seconds / 3600)} h` : `${count(seconds / 86400)} days`;
}

/** A size: 16 MiB. */
export function bytes(value) {
  if (!known(value)) return NONE;
  const power = value < 1024 ? 0 : Math.min(4, Math.floor(Math.log2(value) / 10));
  return `${rate(value / 1024 ** power)} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}`;
}

/** The unit in which a rate is a whole number, or at least 1, and its seconds: 0.5 a second is 30 a minute. */
export function unitOf(perSecond) {
  const fits = UNITS.filter(([, seconds]) => perSecond * seconds >= 0.999);
  const whole = ([, seconds]) => Math.abs(perSecond * seconds - Math.round(perSecond * seconds)) < 1e-9 * seconds;
  return fits.find(whole) ?? fits[0] ?? UNITS.at(-1);
}

/** A rate with its unit: 30/minute. */
export function perUnit(perSecond) {
  if (!known(perSecond)) return NONE;
  const [unit, seconds] = unitOf(perSecond);
  return `${fine(perSecond * seconds)}/${unit}`;
}

/** A rule's limit in words, from its numbers; its own text for a kind that has none. */
export function limitWords({ name, algorithm, capacity, per_second: perSecond, limit }) {
  if (name === "") return "requests without an attribute that a rule requires";
  if (limit === null) return "not in the policy now";
  if (capacity === null) return "rejects every request";
  if (algorithm === "token bucket") return `${count(capacity)} at once, refilled at ${perUnit(perSecond)}`;
  if (algorithm === "leaky bucket") return `queue of ${count(capacity)}, drained at ${perUnit(perSecond)}`;
  return limit;
}

/** The time of day: 14:03:20. */
export function clock(at) {
  return known(at) ? new Date(at * 1000).toLocaleTimeString("en-GB") : NONE;
}

/** A time that may be on another day than now: 14:03:20, or 3 Dec 2026, 14:03:20. */
export function when(at, now) {
  if (!known(at)) return NONE;
  const [day, today] = [at, now].map((time) => new Date(time * 1000).toLocaleDateString("en-GB", { dateStyle: "medium" }));
  return day === today ? clock(at) : `${day}, ${clock(at)}`;
}

/** A time in the past, from now: 5 min ago. */
export function ago(at, now) {
  if (!known(at)) return NONE;
  return now - at < 5 ? "just now" : `${duration(Math.floor(now - at))} ago`;
}
