"""The answer to a what-if: recorded requests, decided by the policy in use and by another. Knows no process.

Both are decided by the engine of `ratekeeper replay`, from full buckets. So before and after differ by the policy
alone, and the numbers are those that `replay` would give for a log of the same requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ratekeeper.limits import TICKS_PER_SECOND
from ratekeeper.policy.model import Policy
from ratekeeper.replay.engine import Replay
from ratekeeper.replay.entries import LogEntry
from ratekeeper.replay.report import Report, RuleReport
from ratekeeper.replay.timeline import ADMITTED, DELAYED, REJECTED
from ratekeeper.service.recording.hashed_policy import Facts, HashedPolicy, attributes_of
from ratekeeper.service.recording.recorded import RecordedRequest
from ratekeeper.service.recording.ring import OUTCOME
from ratekeeper.service.recording.what_if_edit import changed_toml

MOST_STEPS = 300
"""The points of the series."""

LOOKED_UP = "the application looks its limit up: it was decided by its default"
_COUNTS = ("admitted", "rejected", "delayed")


def answer(
    requests: Sequence[RecordedRequest], before: Policy, after: Policy, secret: bytes, offset: int
) -> dict[str, Any]:
    """Return the answer as JSON. `offset` is added to a recorded time to make it ticks since 1970.

    If some rules can be judged by the newest requests only, as a policy's tests have changed meanwhile, the answer is
    about these.
    """
    if not requests:
        return _json([], [], [], before, after, [])
    policies = before, after
    newest = Facts.of(requests[-1].schema)
    hashed = [HashedPolicy.of(policy, newest, secret) for policy in policies]
    requests = _judged(requests, set().union(*(one.needs for one in hashed)))
    entries = _entries(requests, offset)
    runs = [Replay(one.policy).run(entries) if one.policy is not None else None for one in hashed]
    return _json(requests, entries, runs, before, after, hashed)


def _judged(requests: Sequence[RecordedRequest], needs: set[str]) -> Sequence[RecordedRequest]:
    """Return the requests after the last one whose schema lacks a fact that is needed."""
    lacking = {one.schema for one in requests}
    lacking = {schema for schema in lacking if not needs <= Facts.of(schema).names}
    if not lacking:
        return requests
    last = max(place for place, one in enumerate(requests) if one.schema in lacking)
    return requests[last + 1 :]


def _entries(requests: Iterable[RecordedRequest], offset: int) -> list[LogEntry]:
    return [
        LogEntry(one.at + offset, line, attributes_of(one.record, one.schema), one.record.cost)
        for line, one in enumerate(requests, 1)
    ]


def _json(
    requests: Sequence[RecordedRequest],
    entries: Sequence[LogEntry],
    runs: Sequence[Replay | None],
    before: Policy,
    after: Policy,
    hashed: Sequence[HashedPolicy],
) -> dict[str, Any]:
    reports = [None if run is None else run.report() for run in runs] or [None, None]
    outcomes = [one.record.flags & OUTCOME for one in requests]
    return {
        "span": (entries[-1].at - entries[0].at) / TICKS_PER_SECOND if entries else 0.0,
        "requests": len(entries),
        "recorded": {name: outcomes.count(kind) for name, kind in (("admitted", 0), ("delayed", 1), ("rejected", 2))},
        "rules": _rules(before, after, reports, hashed),
        "series": _series(entries, runs),
        "toml": changed_toml(before, after),
    }


def _rules(
    before: Policy, after: Policy, reports: Sequence[Report | None], hashed: Sequence[HashedPolicy]
) -> list[dict[str, Any]]:
    names = dict.fromkeys(rule.name for policy in (after, before) for rule in policy.rules)
    looked_up = {rule.name for policy in (before, after) for rule in policy.rules if rule.lookup is not None}
    counts = [{} if report is None else {rule.rule.name: rule for rule in report.rules} for report in reports]
    rules = []
    for name in names:
        why = next((one.unknown[name] for one in reversed(hashed) if name in one.unknown), None)
        why = why or (LOOKED_UP if name in looked_up else None)
        known = {"name": name, "known": why is None, **({} if why is None else {"why": why})}
        rules.append(known | {"before": _counts(counts[0].get(name)), "after": _counts(counts[1].get(name))})
    return rules


def _counts(report: RuleReport | None) -> dict[str, int]:
    if report is None:
        return dict.fromkeys(_COUNTS, 0)
    return {"admitted": report.admitted - report.delayed, "rejected": report.rejected, "delayed": report.delayed}


def _series(entries: Sequence[LogEntry], runs: Sequence[Replay | None]) -> dict[str, Any]:
    if not entries:
        return {"step": 1, "times": [], "before": _no_series(0), "after": _no_series(0)}
    first, last = (entry.at // TICKS_PER_SECOND for entry in (entries[0], entries[-1]))
    series = [None if run is None else run.timeline.series(first, last, MOST_STEPS) for run in runs]
    one = next((found for found in series if found is not None), None)
    times = [] if one is None else [one.start + place * one.width for place in range(len(one.counts))]
    before, after = (
        _no_series(len(times))
        if found is None
        else {"admitted": found.of(ADMITTED), "rejected": found.of(REJECTED), "delayed": found.of(DELAYED)}
        for found in series
    )
    return {"step": 1 if one is None else one.width, "times": times, "before": before, "after": after}


def _no_series(length: int) -> dict[str, list[int]]:
    return {name: [0] * length for name in _COUNTS}
