"""A replay's report for a terminal: the totals, a timeline, two tables, and the notes that explain them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from ratekeeper.cli.duration import duration
from ratekeeper.cli.replay import words
from ratekeeper.cli.style import Cell, Style, encodes, safe
from ratekeeper.replay.report import Report, RuleReport
from ratekeeper.replay.timeline import ADMITTED, DELAYED, REJECTED, Series

_BLOCKS, _ASCII = " ▁▂▃▄▅▆▇█", " .:-=+*%#"
_ROWS = (("admitted", ADMITTED, "green"), ("delayed", DELAYED, "yellow"), ("rejected", REJECTED, "red"))


def lines_of(report: Report, style: Style, policy: str, log: str, keys_shown: bool) -> Iterator[str]:
    """Yield the lines of a report on the replay of the log named `log` through the policy named `policy`."""
    when = f": {words.period(report.span)}" if report.span else ""
    yield f"{style(safe(log), 'bold')} through {style(safe(policy), 'bold')}{when}"
    parts = [_totals(report, style), _timeline(report.timeline, style), _rules(report, style), _top(report, style)]
    for part in parts:
        if part:
            yield ""
            yield from part
    yield ""
    yield from (style(f"! {warning}", "yellow") for warning in words.warnings(report))
    yield from (style(f"- {note}", "dim") for note in words.explanations(report, keys_shown))


def _totals(report: Report, style: Style) -> list[str]:
    rows = [
        ("requests", report.requests, "", "", ""),
        ("admitted", report.admitted, words.share(report.admitted, report.requests), words.admitted_how(report), ""),
        ("rejected", report.rejected, words.share(report.rejected, report.requests), "", "red"),
    ]
    if report.unreadable:
        rows.append(("not read", report.unreadable, "", f"of {words.count(report.lines, 'line')}", "yellow"))
    cells = [
        (Cell(name, colour), Cell(f"{number:,}", colour if number else ""), Cell(part, colour), Cell(note, "dim"))
        for name, number, part, note, colour in rows
    ]
    return style.table(cells, right=(1, 2))


def _timeline(series: Series | None, style: Style) -> list[str]:
    """Return a row of bars for each outcome that there was, on one scale, and the times below them."""
    if series is None or len(series.counts) < 2:
        return []
    steps = _BLOCKS if encodes(_BLOCKS) else _ASCII
    lines = []
    for name, outcome, colour in _ROWS:
        counts = series.of(outcome)
        if any(counts) or outcome == ADMITTED:
            bars = "".join(steps[-(-number * (len(steps) - 1) // series.most)] for number in counts)
            lines.append(f"{name:<8}  {style(bars, colour)}".rstrip())
    first, last = (_clock(series, place) for place in (0, len(series.counts)))
    room = max(1, len(series.counts) - len(first) - len(last))
    lines.append(f"          {first}{' ' * room}{last}")
    lines.append(
        style(
            f"          each column is {duration(series.width)}; the tallest has {words.count(series.most, 'request')}",
            "dim",
        )
    )
    return lines


def _clock(series: Series, place: int) -> str:
    """Return the time at the start of a bin, with the date if the log is longer than a day."""
    at = datetime.fromtimestamp(series.start + place * series.width, UTC)
    return f"{at:%d %b %H:%M}" if series.width * len(series.counts) > 86_400 else f"{at:%H:%M:%S}"


def _rules(report: Report, style: Style) -> list[str]:
    delayed = any(rule.delayed for rule in report.rules)
    names = [
        "requests",
        "admitted",
        *(["delayed"] if delayed else []),
        "rejected",
        "",
        "buckets",
        "for 99 %",
        "for all",
    ]
    first = ["", *[""] * (len(names) - 2), "capacity", "capacity"]
    rows = [[Cell(name, "dim") for name in first], [Cell(name, "dim") for name in ("rule", *names)]]
    for rule in report.rules:
        rows += _rule_rows(rule, delayed)
    return style.table(rows, right=range(1, len(names) + 1))


def _rule_rows(report: RuleReport, delayed: bool) -> list[list[Cell]]:
    red = "red" if report.rejected else ""
    remedied = report.remedy is not None
    numbers = [
        Cell(f"{report.requests:,}"), Cell(f"{report.admitted:,}"), *([Cell(f"{report.delayed:,}")] if delayed else []),
        Cell(f"{report.rejected:,}", red), Cell(words.share(report.rejected, report.requests), red),
        Cell(f"{report.buckets:,}"),
        Cell(words.capacity_of(report.needed_99, report.rejected, remedied)),
        Cell(words.capacity_of(report.needed, report.rejected, remedied)),
    ]  # fmt: skip
    shadow = " (shadow)" if report.rule.shadow else ""
    return [
        [Cell(words.name_of(report.rule) + shadow, "bold"), *numbers],
        [Cell(f"  {words.limit_of(report.rule)}", "dim"), *[Cell("")] * len(numbers)],
    ]


def _top(report: Report, style: Style) -> list[str]:
    if not report.top:
        return []
    names = ("most rejected", "admitted", "rejected", "", "capacity for all")
    rows = [[Cell(name, "dim") for name in names]]
    for bucket in report.top:
        name = f"{safe(bucket.rule, words.LONGEST_NAME)}  {safe(bucket.name, words.LONGEST_NAME)}"
        rows.append([
            Cell(name), Cell(f"{bucket.admitted:,}"), Cell(f"{bucket.rejected:,}", "red"),
            Cell(words.share(bucket.rejected, bucket.admitted + bucket.rejected), "red"),
            Cell(words.capacity_of(bucket.needed, bucket.rejected, bucket.remedied)),
        ])  # fmt: skip
    return style.table(rows, right=(1, 2, 3, 4))
