"""A replay's report as JSON, for programs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ratekeeper.cli.replay import words
from ratekeeper.limits import TICKS_PER_SECOND
from ratekeeper.replay.report import Report, RuleReport, TimeSpan
from ratekeeper.replay.timeline import ADMITTED, DELAYED, REJECTED, Series


def as_json(report: Report) -> dict[str, Any]:
    """Return what `ratekeeper replay --json` prints; docs/cli.md has the shape."""
    return {
        "from": _time(report.span, 0),
        "to": _time(report.span, 1),
        "lines": report.lines,
        "not_read": report.unreadable,
        "requests": report.requests,
        "admitted": report.admitted,
        "delayed": report.delayed,
        "longest_delay": report.longest_delay,
        "rejected": report.rejected,
        "unmatched": report.unmatched,
        "timeline": _series(report.timeline),
        "rules": [_rule(rule) for rule in report.rules],
        "most_rejected": [
            {
                "rule": bucket.rule,
                "bucket": bucket.name,
                "admitted": bucket.admitted,
                "rejected": bucket.rejected,
                "capacity_for_all": None if bucket.remedied else bucket.needed,
            }
            for bucket in report.top
        ],
        "warnings": list(words.warnings(report)),
    }


def _time(span: TimeSpan | None, which: int) -> str | None:
    if span is None:
        return None
    return datetime.fromtimestamp(span[which] / TICKS_PER_SECOND, UTC).isoformat(timespec="milliseconds")


def _series(series: Series | None) -> dict[str, object] | None:
    if series is None:
        return None
    return {
        "start": datetime.fromtimestamp(series.start, UTC).isoformat(),
        "seconds": series.width,
        "admitted": series.of(ADMITTED),
        "delayed": series.of(DELAYED),
        "rejected": series.of(REJECTED),
    }


def _rule(rule: RuleReport) -> dict[str, object]:
    low = rule.remedy is not None
    return {
        "rule": rule.rule.name,
        "limit": str(rule.rule.limit),
        "shadow": rule.rule.shadow,
        "requests": rule.requests,
        "admitted": rule.admitted,
        "delayed": rule.delayed,
        "rejected": rule.rejected,
        "buckets": rule.buckets,
        "capacity_for_99": None if low else rule.needed_99,
        "capacity_for_all": None if low else rule.needed,
        "rate_too_low": None
        if rule.remedy is None
        else {"rate": words.rates_like(rule)[0], "capacity": rule.remedy.capacity},
        "timeline": _series(rule.timeline),
    }
