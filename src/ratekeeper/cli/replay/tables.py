"""A replay's report for a terminal: the totals, a timeline, two tables, and the notes that explain them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from ratekeeper.cli.duration import duration
from ratekeeper.cli.replay import words
from ratekeeper.cli.style import Cell, Style, encodes, safe
from ratekeeper.replay.report import Report, RuleReport
from ratekeeper.replay.timeline import ADMITTED, DELAYED, REJECTED, Series

_BLOCKS, _ASCII = " ▁▂▃▄▅▆▇█", " .:-=+*%#"
_TITLES = ("requests", "admitted", "delayed", "rejected", "", "buckets", "for 99 %", "for all")
_LEAST = ("for 99 %", "buckets", "delayed")
"""The columns that a narrow terminal does without, the first one first."""

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
    series = series.fitted(max(20, style.columns - 10))
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
    """Return the table of rules. On a narrow terminal names have their own lines, and then columns are left out."""
    delayed = any(rule.delayed for rule in report.rules)
    titles = [title for title in _TITLES if delayed or title != "delayed"]
    rows = _rule_rows(report, titles, own_lines=False)
    for least in (None, *_LEAST):
        if style.fits(rows):
            break
        titles = [title for title in titles if title != least]
        rows = _rule_rows(report, titles, own_lines=True)
    return style.table(rows, right=range(1, len(titles) + 1))


def _rule_rows(report: Report, titles: Sequence[str], own_lines: bool) -> list[list[Cell]]:
    rows = [
        [Cell(""), *[Cell("capacity" if title.startswith("for ") else "", "dim") for title in titles]],
        [Cell("" if own_lines else "rule", "dim"), *[Cell(title, "dim") for title in titles]],
    ]
    for rule in report.rules:
        numbers: dict[str, Cell] = dict(zip(_TITLES, _numbers(rule), strict=True))
        name = Cell(words.name_of(rule.rule) + " (shadow)" * rule.rule.shadow, "bold")
        rows += _named(name, [numbers[title] for title in titles], own_lines)
        rows.append([Cell(f"  {words.limit_of(rule.rule)}", "dim")])
    return rows


def _named(name: Cell, numbers: list[Cell], own_line: bool) -> list[list[Cell]]:
    return [[name], [Cell(""), *numbers]] if own_line else [[name, *numbers]]


def _numbers(report: RuleReport) -> list[Cell]:
    red = "red" if report.rejected else ""
    remedied = report.remedy is not None
    return [
        Cell(f"{report.requests:,}"), Cell(f"{report.admitted:,}"), Cell(f"{report.delayed:,}"),
        Cell(f"{report.rejected:,}", red), Cell(words.share(report.rejected, report.requests), red),
        Cell(f"{report.buckets:,}"),
        Cell(words.capacity_of(report.needed_99, report.rejected, remedied)),
        Cell(words.capacity_of(report.needed, report.rejected, remedied)),
    ]  # fmt: skip


def _top(report: Report, style: Style) -> list[str]:
    if not report.top:
        return []
    rows = _top_rows(report, own_lines=False)
    if not style.fits(rows):
        rows = _top_rows(report, own_lines=True)
    return style.table(rows, right=(1, 2, 3, 4))


def _top_rows(report: Report, own_lines: bool) -> list[list[Cell]]:
    titles = [Cell(title, "dim") for title in ("admitted", "rejected", "", "capacity for all")]
    rows = _named(Cell("most rejected", "dim"), titles, own_lines)
    for bucket in report.top:
        name = f"{safe(bucket.rule, words.LONGEST_NAME)}  {safe(bucket.name, words.LONGEST_NAME)}"
        numbers = [
            Cell(f"{bucket.admitted:,}"), Cell(f"{bucket.rejected:,}", "red"),
            Cell(words.share(bucket.rejected, bucket.admitted + bucket.rejected), "red"),
            Cell(words.capacity_of(bucket.needed, bucket.rejected, bucket.remedied)),
        ]  # fmt: skip
        rows += _named(Cell(name), numbers, own_lines)
    return rows
