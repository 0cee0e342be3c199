"""A replay's report for people: the totals, two tables, and the notes that explain them. It needs `rich`.

This module knows the report and the terminal, nothing else. Anybody may have made up the values in a log: they are
shown with control characters escaped, and never read as markup.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ratekeeper.cli.duration import duration
from ratekeeper.cli.replay.report import Report, RuleReport, TimeSpan
from ratekeeper.limits import TICKS_PER_SECOND, LeakyBucket
from ratekeeper.policy.model import Rule
from ratekeeper.rates import rate_text

_LONGEST_NAME = 60


def print_report(console: Console, report: Report, policy: str, log: str, keys_shown: bool) -> None:
    """Print a report on the replay of the log named `log` through the policy named `policy`."""
    when = f": {_period(report.span)}" if report.span else ""
    console.print(Text.assemble((_safe(log), "bold"), " through ", (_safe(policy), "bold"), when), soft_wrap=True)
    parts = [_totals(report), _rules(report), *([_top(report)] if report.top else []), _notes(report, keys_shown)]
    for part in parts:
        console.print()
        console.print(part)


def _totals(report: Report) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for justify, style in (("left", ""), ("right", ""), ("right", ""), ("left", "dim")):
        table.add_column(justify="right" if justify == "right" else "left", style=style)
    red = "red" if report.rejected else ""
    table.add_row("requests", f"{report.requests:,}")
    table.add_row("admitted", f"{report.admitted:,}", _share(report.admitted, report.requests), _admitted_how(report))
    table.add_row("rejected", f"{report.rejected:,}", _share(report.rejected, report.requests), style=red)
    if report.unreadable:
        table.add_row("not read", f"{report.unreadable:,}", "", f"of {_count(report.lines, 'line')}", style="yellow")
    return table


def _admitted_how(report: Report) -> str:
    parts = []
    if report.delayed:
        parts.append(f"{report.delayed:,} of them after a delay of up to {duration(report.longest_delay)}")
    if report.unmatched:
        parts.append(f"{report.unmatched:,} matched by no rule")
    return ", ".join(parts)


def _table(first: str, *numbers: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(f"\n{first}" if "\n" in "".join(numbers) else first, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _rules(report: Report) -> Table:
    delayed = any(rule.delayed for rule in report.rules)
    names = ["\nrequests", "\nadmitted", *(["\ndelayed"] if delayed else []), "\nrejected", "", "\nbuckets"]
    table = _table("rule", *names, "capacity\nfor 99 %", "capacity\nfor all")
    for rule in report.rules:
        table.add_row(*_rule_row(rule, delayed))
    return table


def _rule_row(report: RuleReport, delayed: bool) -> list[Text | str]:
    red = "red" if report.rejected else ""
    return [
        _rule_and_limit(report.rule), f"{report.requests:,}", f"{report.admitted:,}",
        *([f"{report.delayed:,}"] if delayed else []), Text(f"{report.rejected:,}", red),
        Text(_share(report.rejected, report.requests), red), f"{report.buckets:,}",
        _capacity(report.needed_99, report.rejected), _capacity(report.needed, report.rejected),
    ]  # fmt: skip


def _capacity(needed: int, rejected: int) -> str:
    """Return a capacity that would have done; none would if the limit refuses all."""
    return f"{needed:,}" if needed or not rejected else "-"


def _rule_and_limit(rule: Rule) -> Text:
    queue = "queue of " if isinstance(rule.limit, LeakyBucket) else ""
    others = f", {_count(len(rule.overrides), 'override')}" if rule.overrides else ""
    limit = f"{queue}{rule.limit.capacity:,} at {rate_text(rule.limit.rate)}"
    limit = ("deny" if rule.limit.denies else limit) + others
    return Text.assemble((rule.name, "bold"), " (shadow)" if rule.shadow else "", "\n", (f"  {limit}", "dim"))


def _top(report: Report) -> Table:
    table = _table("most rejected", "admitted", "rejected", "", "capacity for all")
    for bucket in report.top:
        asked = bucket.admitted + bucket.rejected
        table.add_row(
            Text.assemble((bucket.rule, "bold"), "  ", _clipped(_safe(bucket.name))), f"{bucket.admitted:,}",
            Text(f"{bucket.rejected:,}", "red"), Text(_share(bucket.rejected, asked), "red"),
            _capacity(bucket.needed, bucket.rejected),
        )  # fmt: skip
    return table


def _notes(report: Report, keys_shown: bool) -> Table:
    table = Table.grid(padding=(0, 1, 0, 0))
    for warning in _warnings(report):
        table.add_row("!", Text(warning), style="yellow")
    for note in _explanations(report, keys_shown):
        table.add_row("-", Text(note), style="dim")
    return table


def _warnings(report: Report) -> Iterator[str]:
    """Yield notes on parts that the log and the policy lack, perhaps by mistake."""
    for bad in report.bad_lines:
        yield f"line {bad.line:,} was not read: {_safe(bad.reason)}"
    if report.absent:
        yield f"no request in the log has {_listed(report.absent)}, which the policy asks for"
    for rule in report.rules:
        if (lookup := rule.rule.lookup) is not None:
            yield f"{rule.rule.name!r} was replayed by its default: the application looks up 'app:{lookup.name}'"
        if rule.keyless:
            key = " and ".join(rule.rule.key)
            yield f"{_count(rule.keyless, 'request')} to {rule.rule.name!r} had no {key}: they shared a bucket"
    for attribute, count in report.lacking.items():
        yield f"{_count(count, 'request')} had no {attribute}: rejected, as a rule with missing = 'reject' says"
    if report.late:
        late = f"{_count(report.late, 'request')} came up to {duration(report.lateness)} after later ones"
        yield f"{late}, and were replayed at the time of those: sort the log by time for exact numbers"
    if report.evicted:
        yield f"{_count(report.evicted, 'live bucket')} had no place in the store: raise --max-keys"


def _explanations(report: Report, keys_shown: bool) -> Iterator[str]:
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


def _share(part: int, whole: int) -> str:
    """Return a share for people; a small one never reads as nothing, nor a large one as all."""
    if not part or not whole:
        return "0 %"
    percent = 100 * part / whole
    if percent < 0.1:
        return "< 0.1 %"
    return "> 99.9 %" if 99.9 < percent < 100 else f"{percent:.1f} %".replace(".0 %", " %")


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _listed(names: tuple[str, ...]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _period(span: TimeSpan) -> str:
    first, last = (datetime.fromtimestamp(ticks // TICKS_PER_SECOND, UTC) for ticks in span)
    end = f"{last:%H:%M:%S}" if first.date() == last.date() else f"{last.day} {last:%b %Y %H:%M:%S}"
    length = duration((span.last - span.first) / TICKS_PER_SECOND)
    return f"{length}, {first.day} {first:%b %Y %H:%M:%S} to {end} UTC"


def _safe(text: str) -> str:
    """Return a string from outside with escapes, so that it cannot control a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _clipped(text: str) -> str:
    return text if len(text) <= _LONGEST_NAME else text[: _LONGEST_NAME - 3] + "..."
