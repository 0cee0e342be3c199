"""The words of a replay's report, which the terminal and the HTML page share. Knows the report, and no terminal.

Anybody may have made up the values in a log: they come out with control characters escaped.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from fractions import Fraction
from math import ceil

from ratekeeper.cli.duration import duration
from ratekeeper.cli.style import safe
from ratekeeper.limits import LeakyBucket
from ratekeeper.policy.model import Rule
from ratekeeper.rates import rate_text
from ratekeeper.replay.report import Report, RuleReport, TimeSpan

LONGEST_NAME = 60
_UNITS = {"s": 1, "minute": 60, "hour": 3600, "day": 86_400}


def share(part: int, whole: int) -> str:
    """Return a share for people; a small one never reads as nothing, nor a large one as all."""
    if not part or not whole:
        return "0 %"
    percent = 100 * part / whole
    if percent < 0.1:
        return "< 0.1 %"
    return "> 99.9 %" if 99.9 < percent < 100 else f"{percent:.1f} %".replace(".0 %", " %")


def count(number: int, thing: str) -> str:
    """Return a number of things: "1 line", "2 lines"."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def period(span: TimeSpan) -> str:
    """Return how long a log is, and from when to when."""
    first, last = (datetime.fromtimestamp(second, UTC) for second in span.seconds)
    end = f"{last:%H:%M:%S}" if first.date() == last.date() else f"{last.day} {last:%b %Y %H:%M:%S}"
    start, stop = span.seconds
    return f"{duration(stop - start)}, {first.day} {first:%b %Y %H:%M:%S} to {end} UTC"


def name_of(rule: Rule) -> str:
    """Return a rule's name, which cannot control a terminal."""
    return safe(rule.name, LONGEST_NAME)


def limit_of(rule: Rule) -> str:
    """Return a rule's limit in short."""
    queue = "queue of " if isinstance(rule.limit, LeakyBucket) else ""
    others = f", {count(len(rule.overrides), 'override')}" if rule.overrides else ""
    limit = f"{queue}{rule.limit.capacity:,} at {rate_text(rule.limit.rate)}"
    return ("deny" if rule.limit.denies else limit) + others


def capacity_of(needed: int, rejected: int, remedied: bool) -> str:
    """Return a capacity that would have done; none would if the limit refuses all, or if the rate is too low."""
    if remedied and rejected:
        return "rate"
    return f"{needed:,}" if needed or not rejected else "-"


def admitted_how(report: Report) -> str:
    """Return what is to be known of the admitted requests."""
    parts = []
    if report.delayed:
        parts.append(f"{report.delayed:,} of them after a delay of up to {duration(report.longest_delay)}")
    if report.unmatched:
        parts.append(f"{report.unmatched:,} matched by no rule")
    return ", ".join(parts)


def remedy_of(rule: RuleReport) -> str | None:
    """Return the advice for a rule whose rate is too low; None if it is not."""
    if rule.remedy is None:
        return None
    own, (enough, asked) = rate_text(rule.rule.limit.rate), rates_like(rule)
    buckets = "" if rule.remedy.buckets == 1 else f", in {count(rule.remedy.buckets, 'bucket')}"
    return (
        f"{name_of(rule.rule)}: the rate is too low, and no capacity would mend it. Demand was more than {own} all the "
        f"time{buckets}: {asked} on average for {duration(rule.remedy.seconds)}. {enough} with a capacity of "
        f"{rule.remedy.capacity:,} would have rejected nothing"
    )


def rates_like(rule: RuleReport) -> tuple[str, str]:
    """Return the rate that would do, rounded up, and the mean demand, in the unit of the rule's own rate."""
    assert rule.remedy is not None
    unit = rate_text(rule.rule.limit.rate).partition("/")[2]
    seconds = _UNITS.get(unit, 1)
    unit = unit if unit in _UNITS else "s"
    return f"{_rounded_up(rule.remedy.rate * seconds):,}/{unit}", f"{round(rule.remedy.asked * seconds):,}/{unit}"


def _rounded_up(rate: Fraction) -> int:
    """Return a whole number, rounded up to two digits if it is large."""
    whole = ceil(rate)
    step: int = 10 ** max(0, len(str(whole)) - 2)
    return -(-whole // step) * step


def warnings(report: Report) -> Iterator[str]:
    """Yield notes on parts that the log and the policy lack, perhaps by mistake."""
    yield from filter(None, map(remedy_of, report.rules))
    for bad in report.bad_lines:
        yield f"line {bad.line:,} was not read: {safe(bad.reason)}"
    if report.absent:
        yield f"no request in the log has {_listed(report.absent)}, which the policy asks for"
    for rule in report.rules:
        if (lookup := rule.rule.lookup) is not None:
            yield f"'{name_of(rule.rule)}' was replayed by its default: the application looks up 'app:{lookup.name}'"
        if rule.keyless:
            key = " and ".join(rule.rule.key)
            yield f"{count(rule.keyless, 'request')} to '{name_of(rule.rule)}' had no {key}: they shared a bucket"
    for attribute, lacking in report.lacking.items():
        yield f"{count(lacking, 'request')} had no {attribute}: rejected, as a rule with missing = 'reject' says"
    if report.late:
        late = f"{count(report.late, 'request')} came up to {duration(report.lateness)} after later ones"
        yield f"{late}, and were replayed at the time of those: sort the log by time for exact numbers"
    if report.evicted:
        yield f"{count(report.evicted, 'live bucket')} had no place in the store: raise --max-keys"


def explanations(report: Report, keys_shown: bool) -> Iterator[str]:
    """Yield notes that say how the numbers are meant."""
    if report.whole_seconds:
        yield "timestamps have 1 s grain: requests of one second count as one burst, so bursts may look larger"
    yield (
        "capacity for all: the capacity that, at the rule's rate, would have rejected no request of this log; "
        "for 99 %: none of 99 % of the buckets"
    )
    if any(rule.rule.shadow for rule in report.rules):
        yield "a rule in shadow rejects nothing: its numbers are what it would have done"
    if not keys_shown and any("#" in bucket.name for bucket in report.top):
        yield "keys may be secrets, so hashes stand for them, new ones in each run: --show-keys shows the keys"


def _listed(names: tuple[str, ...]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
