"""A replay's report as one HTML file: charts beside tables, light and dark, for a phone and for a screen reader.

The page asks for nothing: no script, no font, no picture, and its Content-Security-Policy allows nothing but its own
style. Anybody may have made up the values in a log: each string is escaped, cut short, and kept from turning its
neighbours around.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator
from hashlib import sha256
from html import escape
from importlib.resources import files
from pathlib import PurePath

from ratekeeper import __version__
from ratekeeper.cli.duration import duration
from ratekeeper.cli.replay import charts, words
from ratekeeper.cli.style import safe
from ratekeeper.replay.report import Report, RuleReport
from ratekeeper.replay.timeline import ADMITTED, DELAYED, REJECTED, Series

_LEGEND = ("admitted", "delayed", "rejected")
_DEFINED = (
    ("admitted", "requests that every rule would have let pass, at once or after a delay"),
    ("delayed", "admitted requests that would have had to wait for their turn"),
    ("rejected", "requests that at least one rule would have refused; nothing is charged for them"),
    ("rule by rule", "each rule's own decisions, so a request may count in several rows"),
    ("buckets", "distinct values of the rule's key"),
)


def page(report: Report, policy: str, log: str, keys_shown: bool) -> str:
    """Return the page on the replay of the log named `log` through the policy named `policy`."""
    style = (files("ratekeeper.cli.replay") / "page.css").read_text(encoding="utf-8")
    allowed = b64encode(sha256(style.encode()).digest()).decode()
    names = (_text(PurePath(log).name), _text(PurePath(policy).name))
    when = words.period(report.span) if report.span else ""
    body = [
        f"<header><h1>{names[0]} through {names[1]}</h1>",
        f'<p class="soft">{when}. A replay: nobody was refused.</p></header>',
        "<main>", *_totals(report), *_warnings(report), *_timeline(report), *_rules(report), *_top(report), "</main>",
        *_footer(report, keys_shown),
    ]  # fmt: skip
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        f"style-src 'sha256-{allowed}'; base-uri 'none'; form-action 'none'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="robots" content="noindex">\n'
        f"<title>{escape(safe(PurePath(log).name, words.LONGEST_NAME))}: replay</title>\n"
        f"<style>{style}</style>\n</head>\n<body>\n" + "\n".join(body) + "\n</body>\n</html>\n"
    )


def _text(text: str) -> str:
    """Return a string from outside for the page; it cannot turn the words beside it around."""
    return f"<bdi>{escape(safe(text, words.LONGEST_NAME))}</bdi>"


def _totals(report: Report) -> Iterator[str]:
    yield '<dl class="totals">'
    yield _total("requests", report.requests, f"in {words.count(len(report.rules), 'rule')}", "")
    yield _total("admitted", report.admitted, words.share(report.admitted, report.requests), "")
    bad = " bad" if report.rejected else ""
    yield _total("rejected", report.rejected, words.share(report.rejected, report.requests), bad)
    if report.delayed:
        yield _total("delayed", report.delayed, f"up to {duration(report.longest_delay)}", "")
    if report.unreadable:
        yield _total("lines not read", report.unreadable, f"of {report.lines:,}", "")
    yield "</dl>"
    yield charts.part(report.admitted - report.delayed, report.delayed, report.rejected)


def _total(name: str, number: int, note: str, bad: str) -> str:
    return f'<div><dt>{name}</dt><dd class="number{bad}">{number:,}</dd><dd class="soft">{note}</dd></div>'


def _warnings(report: Report) -> Iterator[str]:
    found = [f"<li>{escape(warning)}.</li>" for warning in words.warnings(report)]
    if found:
        yield from ('<ul class="warnings">', *found, "</ul>")


def _timeline(report: Report) -> Iterator[str]:
    yield "<h2>Over time</h2>"
    series = report.timeline
    if series is None or len(series.counts) < 2:
        yield '<p class="soft">All requests came within a second: there is nothing to draw.</p>'
        return
    yield '<div class="card">'
    yield charts.over_time(series)
    yield '<ul class="legend">'
    for name in _LEGEND:
        square = f'<svg viewBox="0 0 1 1" aria-hidden="true"><rect class="{name}" width="1" height="1"/></svg>'
        yield f"<li>{square}{name}</li>"
    yield f'<li class="soft">each bar is {duration(series.width)}; times are UTC</li></ul>'
    yield from _series_table(series)
    yield "</div>"


def _series_table(series: Series) -> Iterator[str]:
    yield '<details><summary>The same as a table</summary><div class="wide">'
    rows = [
        (charts.time_of(series, place), f"{counts[ADMITTED]:,}", f"{counts[DELAYED]:,}", f"{counts[REJECTED]:,}")
        for place, counts in enumerate(series.counts)
    ]
    yield from _table(("from", "admitted at once", "delayed", "rejected"), rows)
    yield "</div></details>"


def _rules(report: Report) -> Iterator[str]:
    yield "<h2>Rule by rule</h2>"
    yield _wide("rules", "rule by rule")
    heads = ("rule", "over time, each on its own scale", "rejected", "", "requests", "admitted", "delayed", "buckets",
             "capacity for 99&nbsp;%", "capacity for all")  # fmt: skip
    yield from _table(heads, map(_rule_row, report.rules))
    yield "</div>"


def _rule_row(rule: RuleReport) -> tuple[str, ...]:
    shadow = ' <span class="tag">shadow</span>' if rule.rule.shadow else ""
    low = rule.remedy is not None
    return (
        f"{_text(rule.rule.name)}{shadow}<small>{escape(words.limit_of(rule.rule))}</small>",
        charts.small(rule.timeline) if rule.timeline else '<span class="soft">no request</span>',
        _bad(f"{rule.rejected:,}", rule.rejected), _bad(words.share(rule.rejected, rule.requests), rule.rejected),
        f"{rule.requests:,}", f"{rule.admitted:,}", f"{rule.delayed:,}", f"{rule.buckets:,}",
        _capacity(rule.needed_99, rule.rejected, low), _capacity(rule.needed, rule.rejected, low),
    )  # fmt: skip


def _wide(name: str, label: str) -> str:
    """Return the start of a card that scrolls sideways where it must, by the keyboard too."""
    return f'<div class="card wide {name}" tabindex="0" role="region" aria-label="{label}">'


def _capacity(needed: int, rejected: int, low: bool) -> str:
    return "rate too low" if low and rejected else words.capacity_of(needed, rejected, low)


def _bad(text: str, number: int) -> str:
    return f'<span class="bad">{text}</span>' if number else text


def _top(report: Report) -> Iterator[str]:
    yield "<h2>Most rejected</h2>"
    if not report.top:
        yield f'<p class="soft">{"Nothing was rejected." if not report.rejected else "No bucket was asked for."}</p>'
        return
    rows = [
        (
            f"{_text(bucket.name)}<small>{_text(bucket.rule)}</small>", _bad(f"{bucket.rejected:,}", 1),
            _bad(words.share(bucket.rejected, bucket.admitted + bucket.rejected), 1), f"{bucket.admitted:,}",
            _capacity(bucket.needed, bucket.rejected, bucket.remedied),
        )
        for bucket in report.top
    ]  # fmt: skip
    yield _wide("", "most rejected")
    yield from _table(("bucket", "rejected", "", "admitted", "capacity for all"), rows)
    yield "</div>"


def _table(heads: Iterable[str], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Yield a table; the first cell of a row is its head."""
    yield f"<table><thead><tr>{''.join(_head(name) for name in heads)}</tr></thead><tbody>"
    for first, *cells in rows:
        yield f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
    yield "</tbody></table>"


def _head(name: str) -> str:
    return (
        f'<th scope="col">{name}</th>'
        if name
        else '<th scope="col"><span aria-label="share rejected">share</span></th>'
    )


def _footer(report: Report, keys_shown: bool) -> Iterator[str]:
    yield "<footer><h2>How to read this</h2><dl>"
    for name, meaning in _DEFINED:
        yield f"<dt>{name}</dt><dd>{meaning}</dd>"
    yield "</dl>"
    for note in words.explanations(report, keys_shown):
        yield f"<p>{escape(note[0].upper() + note[1:])}.</p>"
    yield f"<p>Made by ratekeeper {__version__}.</p></footer>"
