"""The text of `ratekeeper top`: from the service's status, second by second, to lines. Knows no terminal and no socket.

All names come from a service, so they are shown with escapes. Numbers have fixed widths, so that they do not jump.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from ratekeeper.cli.style import Cell, Style, encodes, safe, width

Document: TypeAlias = Mapping[str, Any]
"""A status of the service, as JSON has it."""

SECONDS = 300
"""The seconds that a line can show."""

_SERIES = ("admitted", "rejected", "delayed")
_OF_OUTCOMES = {"admitted": ("allowed", "shadow_refused"), "rejected": ("refused",), "delayed": ("delayed",)}
_BARS, _PLAIN_BARS = " ▁▂▃▄▅▆▇█", " .:-=+*#%"
_LABEL = 10
_NUMBERS = 35
"""The columns of a rule's three numbers, with the space before them."""
_NAME = (12, 40)
_KEYS = 8
_KEY = 40


class View:
    """The screen of one service."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._status: Document | None = None
        self._rates: dict[str, dict[str, float]] = {}
        self._results = dict.fromkeys(("allowed", "refused", "failed"), 0.0)
        self._past: defaultdict[str, dict[str, deque[float]]] = defaultdict(
            lambda: {series: deque(maxlen=SECONDS) for series in _SERIES}
        )
        self._keys: Sequence[Document] | None = None
        self._gone: str | None = None
        self._bars = _BARS if encodes(_BARS) else _PLAIN_BARS

    def take_history(self, history: Document) -> None:
        """Begin with the counts of each of the last seconds."""
        self._past.clear()
        for rule, own in history["rules"].items():
            for series in _SERIES:
                self._past[rule][series].extend(own[series])
            self._rates[rule] = {series: own[series][-1] if own[series] else 0.0 for series in _SERIES}
        results = history["requests"]
        self._results = {result: results[result][-1] if results[result] else 0.0 for result in self._results}

    def take(self, status: Document, keys: Sequence[Document] | None = None) -> None:
        """Take the next status. `keys` are the most limited keys as an admin sees them, in place of their hashes."""
        before, self._status, self._keys, self._gone = self._status, status, keys, None
        seconds = status["at"] - before["at"] if before is not None else 0
        if before is None or seconds <= 0:
            return
        last = {rule["name"]: rule["counts"] for rule in before["rules"]}
        self._rates = {}
        for name in self._past.keys() - {rule["name"] for rule in status["rules"]}:
            del self._past[name]
        for rule in status["rules"]:
            name, counts = rule["name"], rule["counts"]
            rates = _rates(counts, last.get(name, {}), seconds)
            self._rates[name] = {it: sum(rates[one] for one in _OF_OUTCOMES[it]) for it in _SERIES}
            for series in _SERIES:
                self._past[name][series].append(self._rates[name][series])
        self._results = _rates(_results(status), _results(before), seconds)

    def gone(self, why: str) -> None:
        """Note that the service does not answer."""
        self._gone = why

    def lines(self, style: Style, columns: int, rows: int | None = None) -> list[str]:
        """Return the lines of a screen; with all rules, if `rows` is None."""
        status = self._status
        if status is None:
            return [style(safe(f"{self._where}: waiting for its first status", columns), "dim")]
        head = [self._title(status, style, columns), *self._summary(status, style, columns), ""]
        keys = self._limited_keys(status, style, columns)
        room = None if rows is None else max(1, rows - len(head) - len(keys) - 1)
        return [*head, *self._rules(status, style, columns, room), *keys][:rows]

    def _title(self, status: Document, style: Style, columns: int) -> str:
        clock = _clock(status["at"])
        if self._gone is not None:
            return style(safe(f"{self._gone}. Trying again; this is of {clock}", columns), "red")
        demo = "demo traffic  " if status["demo"] else ""
        left = safe(
            f"ratekeeper {status['version']}  {self._where}", max(_NAME[0], columns - len(demo) - len(clock) - 2)
        )
        space = " " * max(2, columns - width(left) - len(demo) - len(clock))
        return style(left, "bold") + space + style(demo, "yellow") + clock

    def _summary(self, status: Document, style: Style, columns: int) -> list[str]:
        results, latency, store, policy = self._results, status["latency"], status["store"], status["policy"]
        connections = ", ".join(f"{protocol} {count}" for protocol, count in status["connections"].items())
        processes = status["processes"]
        parts: list[tuple[str, str, str]] = [
            (
                "requests",
                f"{_rate(sum(results.values()))}/s: admitted {_rate(results['allowed'])}, rejected "
                f"{_rate(results['refused'])}, failed {_rate(results['failed'])}; {status['waiting']:,} waiting",
                "red" if results["failed"] else "",
            ),
            ("latency", _latency(latency), ""),
            ("clients", f"{connections} connections; {processes} process{'es' * (processes != 1)}", ""),
            ("store", _store(store), "" if store["ok"] else "red"),
            ("policy", _policy(policy), "" if policy["last_reload_ok"] else "red"),
        ]
        return [
            style(f"{label:<{_LABEL}}", "dim") + style(safe(text, columns - _LABEL), colour)
            for label, text, colour in parts
        ]

    def _rules(self, status: Document, style: Style, columns: int, room: int | None) -> list[str]:
        shown = list(status["rules"])
        left_out = int(status.get("rules_left_out", 0))
        if room is not None and len(shown) > room - 1:
            kept = sorted(shown, key=lambda rule: -sum(rule["counts"].values()))[: max(1, room - 2)]
            left_out += len(shown) - len(kept)
            shown = [rule for rule in shown if rule in kept]
        longest = max((width(safe(_title_of(rule))) for rule in shown), default=0)
        name_room = min(max(_NAME[0], longest), _NAME[1], max(_NAME[0], columns - _NUMBERS - 24))
        bars = min(60, (columns - name_room - _NUMBERS) // 2 - 2)
        titles = [Cell("rule", "dim"), *(Cell(f"{it}/s", "dim") for it in _SERIES)]
        rows = [titles + [Cell("", "")] * 2 * (bars > 3)]
        for rule in shown:
            rates = self._rates.get(rule["name"], {})
            admitted, rejected, delayed = (rates.get(series, 0.0) for series in _SERIES)
            row = [
                Cell(safe(_title_of(rule), name_room), "dim" if rule["limit"] is None else ""),
                Cell(_rate(admitted), "green" if admitted else "dim"),
                Cell(_rate(rejected), "red" if rejected else "dim"),
                Cell(_rate(delayed), "yellow" if delayed else "dim"),
            ]
            rows.append(row + self._sparks(rule["name"], bars))
        lines = style.table(rows, right=(1, 2, 3))
        if left_out:
            lines.append(style(f"and {left_out:,} more rules, with fewer decisions", "dim"))
        return lines

    def _sparks(self, rule: str, bars: int) -> list[Cell]:
        """Return the last seconds of a rule, what it admitted and what it rejected, by one scale."""
        if bars <= 3:
            return []
        past = self._past[rule] if rule in self._past else {series: deque[float]() for series in _SERIES}
        admitted = [sum(both) for both in zip(past["admitted"], past["delayed"], strict=True)][-bars:]
        rejected = list(past["rejected"])[-bars:]
        most = max([*admitted, *rejected], default=0.0)
        return [
            Cell(self._spark(values, most).rjust(bars), colour)
            for values, colour in ((admitted, "green"), (rejected, "red"))
        ]

    def _spark(self, values: Iterable[float], most: float) -> str:
        steps = len(self._bars) - 1
        return "".join(self._bars[min(steps, -int(-value * steps // most)) if most else 0] for value in values)

    def _limited_keys(self, status: Document, style: Style, columns: int) -> list[str]:
        keys = (status["limited_keys"] if self._keys is None else self._keys)[:_KEYS]
        if not keys:
            return []
        rows = [[Cell("most limited keys", "dim"), Cell("rule", "dim"), Cell("rejected", "dim")]]
        room = min(_KEY, max(_NAME[0], columns // 2 - 9))
        for key in keys:
            most = f"{key['rejected']:,}"
            rows.append([Cell(safe(_key(key), room)), Cell(safe(key["rule"], room)), Cell(most, "red")])
        return ["", *style.table(rows, right=(2,))]


def _results(status: Document) -> dict[str, int]:
    found: defaultdict[str, int] = defaultdict(int)
    for results in status["requests"].values():
        for result, count in results.items():
            found[result] += count
    return found


def _rates(now: Mapping[str, int], before: Mapping[str, int], seconds: float) -> dict[str, float]:
    """Return how much each count grew a second. A service that began anew counts from 0."""
    return {name: max(0, count - before.get(name, 0)) / seconds for name, count in now.items()}


def _title_of(rule: Document) -> str:
    if not rule["name"]:
        return "(attribute missing)"
    notes = [
        note
        for note, has in (
            ("shadow", rule["shadow"]),
            ("paused", rule["paused_until"] is not None),
            ("no longer in the policy", rule["limit"] is None),
        )
        if has
    ]
    return f"{rule['name']} ({', '.join(notes)})" if notes else str(rule["name"])


def _key(key: Document) -> str:
    """Return a key's attributes, if an admin sees them; else the key as it is told."""
    attributes = key.get("attributes")
    if attributes is None:
        return str(key["key"])
    return ", ".join(f"{name}={value}" for name, value in attributes.items()) or "(all together)"


def _rate(rate: float) -> str:
    """Return a rate with three digits at most, so that a column of them is easy to read."""
    if rate < 10:
        return f"{rate:.1f}"
    for size, unit in ((1, ""), (1e3, "k"), (1e6, "M")):
        if rate < 999.5 * size:
            return f"{rate / size:.0f}{unit}" if rate >= 10 * size else f"{rate / size:.1f}{unit}"
    return f"{rate / 1e9:.1f}G"


def _latency(latency: Document) -> str:
    if not latency["count"]:
        return "no decision in the last seconds"
    each = ", ".join(f"{name} {_short(latency[name])}" for name in ("p50", "p90", "p99"))
    return f"{each} ({latency['count']:,} timed in the last 10 s)"


def _short(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for unit, size in (("us", 1e-6), ("ms", 1e-3)):
        if seconds < 999.5 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _store(store: Document) -> str:
    parts = [f"{store['kind']}, {store['where']}: {'ok' if store['ok'] else 'does not answer'}"]
    if store["buckets"] is not None:
        parts.append(f"{store['buckets']:,} of {store['slots']:,} buckets")
    if store["failures"] or store["fallbacks"]:
        parts.append(f"{store['failures']:,} failures, {store['fallbacks']:,} requests decided without it")
    return "; ".join(parts)


def _policy(policy: Document) -> str:
    about = f"{policy['source']} version {policy['version'][:16]} since {_clock(policy['loaded_at'])}"
    if policy["last_reload_ok"]:
        return about
    return f"{about}; the file has mistakes and is not in use: the log tells them"


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))
