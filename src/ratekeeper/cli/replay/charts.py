"""Charts as inline SVG, without a script and without styles: bars over time, and a share of a whole.

Colours are classes of the page. This module draws numbers; it writes no string that comes from a log or a policy.
"""

from __future__ import annotations

from datetime import UTC, datetime

from ratekeeper.replay.timeline import ADMITTED, DELAYED, REJECTED, Series

_CLASSES = ((ADMITTED, "admitted"), (DELAYED, "delayed"), (REJECTED, "rejected"))
"""From the bottom of a stack to its top."""
_WIDTH, _HEIGHT = 960, 220
_LEFT, _TOP, _BOTTOM = 64, 16, 32
_PLOT = _HEIGHT - _TOP - _BOTTOM
_LABELS = 5
_DAY = 86_400
_TOPS = (2, 4, 6, 8, 10, 12, 16)


def over_time(series: Series) -> str:
    """Return stacked bars of all outcomes over time, with an axis of counts and one of times."""
    top = _round_top(series.most)
    parts = [f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" aria-hidden="true">']
    for step in range(3):
        y = _TOP + _PLOT - _PLOT * step / 2
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH}" y1="{y:g}" y2="{y:g}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:g}" text-anchor="end">{top * step / 2:,g}</text>')
    parts += _bars(series, _LEFT, _TOP, _WIDTH - _LEFT, _PLOT, top)
    parts += _times(series)
    return "".join([*parts, "</svg>"])


def small(series: Series) -> str:
    """Return the same bars without axes, on their own scale, to stand in a row of a table."""
    bars = _bars(series, 0, 0, 180, 32, max(1, series.most))
    return "".join(['<svg class="spark" viewBox="0 0 180 32" aria-hidden="true">', *bars, "</svg>"])


def part(admitted: int, delayed: int, rejected: int) -> str:
    """Return one bar that is divided by outcome."""
    whole, x, parts = max(1, admitted + delayed + rejected), 0.0, []
    for count, name in ((admitted, "admitted"), (delayed, "delayed"), (rejected, "rejected")):
        room = 960 * count / whole
        if count:
            parts.append(f'<rect class="{name}" x="{x:.1f}" y="0" width="{max(room, 2):.1f}" height="12"/>')
        x += room
    return "".join(
        ['<svg class="part" viewBox="0 0 960 12" preserveAspectRatio="none" aria-hidden="true">', *parts, "</svg>"]
    )


def time_of(series: Series, place: int) -> str:
    """Return the time at the start of a bin, as short as the length of the log allows."""
    at = datetime.fromtimestamp(series.start + place * series.width, UTC)
    if series.width >= _DAY:
        return f"{at.day} {at:%b %Y}"
    if series.width * len(series.counts) > _DAY:
        return f"{at.day} {at:%b %H:%M}"
    return f"{at:%H:%M:%S}" if series.width % 60 else f"{at:%H:%M}"


def _bars(series: Series, left: int, top: int, width: int, height: int, most: int) -> list[str]:
    room, parts = width / len(series.counts), []
    gap = min(2.0, room / 5)
    for place, counts in enumerate(series.counts):
        y = float(top + height)
        for outcome, name in _CLASSES:
            if counts[outcome]:
                tall = height * counts[outcome] / most
                y -= tall
                x = left + place * room + gap / 2
                parts.append(
                    f'<rect class="{name}" x="{x:.1f}" y="{y:.1f}" width="{room - gap:.1f}" height="{tall:.1f}"/>'
                )
    return parts


def _times(series: Series) -> list[str]:
    bins, parts = len(series.counts), []
    room = (_WIDTH - _LEFT) / bins
    step = max(1, -(-bins // _LABELS))
    for place in range(0, bins, step):
        x = _LEFT + place * room
        if x < _WIDTH - 70 or place == 0:
            more = ' class="extra"' if place // step % 2 else ""
            parts.append(f'<text{more} x="{x:.1f}" y="{_HEIGHT - 8}">{time_of(series, place)}</text>')
    return parts


def _round_top(most: int) -> int:
    """Return an even number for the end of an axis, with few digits: the least that holds all."""
    scale = 1
    while True:
        for digit in _TOPS:
            if digit * scale >= most:
                return digit * scale
        scale *= 10
