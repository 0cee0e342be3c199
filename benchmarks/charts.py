"""Two charts as SVG, bars and lines, in the colours of a scheme. It knows no benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import NamedTuple, Protocol

WIDTH = 760
MARGIN, HEAD = 16, 62
FONT = "system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif"


class Colors(NamedTuple):
    """The colours of one scheme."""

    ground: str
    text: str
    soft: str
    grid: str
    ours: str
    other: str
    third: str


SCHEMES = {
    "light": Colors("#ffffff", "#1f2328", "#59636e", "#d1d9e0", "#0969da", "#9aa4af", "#bc4c00"),
    "dark": Colors("#0d1117", "#f0f6fc", "#9198a1", "#3d444d", "#4493f8", "#656c76", "#f0883e"),
}


class Chart(Protocol):
    """Anything that can be drawn."""

    def svg(self, colors: Colors) -> str: ...


def picture(title: str, note: str, height: float, parts: Iterator[str], colors: Colors) -> str:
    style = (
        f"text{{font:13px {FONT};fill:{colors.text}}}.title{{font-size:16px;font-weight:600}}"
        f".soft{{fill:{colors.soft}}}.group{{font-weight:600}}.strong{{font-weight:600}}"
    )
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" role="img">',
        f"<title>{title}</title>",
        f"<style>{style}</style>",
        f'<rect width="{WIDTH}" height="{height:g}" rx="6" fill="{colors.ground}"/>',
        text(MARGIN, 28, title, "title"),
        text(MARGIN, 48, note, "soft"),
        *parts,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{words}</text>'


def line(x1: float, y1: float, x2: float, y2: float, color: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}"/>'


# ---- bars ----


class Bar(NamedTuple):
    """A bar, the words at its end, and whether it is emphasised."""

    name: str
    value: float
    words: str
    ours: bool


@dataclass(frozen=True, slots=True)
class Bars:
    """Horizontal bars from zero, in groups with a heading each; the scale is linear, as lengths are compared."""

    title: str
    note: str
    groups: Mapping[str, Sequence[Bar]]

    NAMES, END, ROW, HEADING = 250, 70, 24, 28

    def svg(self, colors: Colors) -> str:
        rows = sum(len(bars) for bars in self.groups.values())
        headings = sum(self.HEADING for name in self.groups if name)
        height = HEAD + rows * self.ROW + headings + MARGIN
        return picture(self.title, self.note, height, self._parts(colors), colors)

    def _parts(self, colors: Colors) -> Iterator[str]:
        longest = max(bar.value for bars in self.groups.values() for bar in bars)
        scale = (WIDTH - MARGIN - self.NAMES - self.END) / longest
        y = float(HEAD)
        for name, bars in self.groups.items():
            if name:
                y += self.HEADING
                yield text(MARGIN, y - 9, name, "group")
            top = y
            for bar in bars:
                length = max(1.0, bar.value * scale)
                kind = "strong" if bar.ours else ""
                color = colors.ours if bar.ours else colors.other
                yield text(self.NAMES - 8, y + 16, bar.name, kind, "end")
                yield f'<rect x="{self.NAMES}" y="{y + 4:.1f}" width="{length:.1f}" height="16" rx="2" fill="{color}"/>'
                yield text(self.NAMES + length + 6, y + 16, bar.words, kind)
                y += self.ROW
            yield line(self.NAMES, top, self.NAMES, y, colors.grid)


# ---- lines ----


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines over steps that are named below them. Each line's name is at its end."""

    title: str
    note: str
    axis: str
    ticks: Sequence[str]
    series: Mapping[str, Sequence[float]]
    log: bool = False

    LEFT, RIGHT, PLOT, APART = 70, 130, 230, 17

    def svg(self, colors: Colors) -> str:
        return picture(self.title, self.note, HEAD + self.PLOT + 60, self._parts(colors), colors)

    def _parts(self, colors: Colors) -> Iterator[str]:
        top, bottom = HEAD + 10.0, HEAD + 10.0 + self.PLOT
        levels = self._levels()
        low, high = self._place(levels[0]), self._place(levels[-1])

        def y_of(value: float) -> float:
            return bottom - (self._place(value) - low) / (high - low) * (bottom - top)

        def x_of(step: int) -> float:
            return self.LEFT + 20 + step * (WIDTH - self.LEFT - self.RIGHT - 40) / max(1, len(self.ticks) - 1)

        for level in levels:
            yield line(self.LEFT, y_of(level), WIDTH - self.RIGHT - 20, y_of(level), colors.grid)
            yield text(self.LEFT - 8, y_of(level) + 4, f"{level:,g}", "soft", "end")
        for step, tick in enumerate(self.ticks):
            yield text(x_of(step), bottom + 19, tick, "soft", "middle")
        yield text((self.LEFT + WIDTH - self.RIGHT) / 2, bottom + 39, self.axis, "soft", "middle")
        ends = self._ends({name: y_of(values[-1]) for name, values in self.series.items()})
        for (name, values), color in zip(self.series.items(), (colors.ours, colors.third, colors.soft), strict=False):
            points = [(x_of(step), y_of(value)) for step, value in enumerate(values)]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            yield f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>'
            yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{color}"/>' for x, y in points)
            x = points[-1][0] + 10
            yield f'<text x="{x:.1f}" y="{ends[name] + 4:.1f}" style="fill:{color};font-weight:600">{name}</text>'

    def _ends(self, wanted: Mapping[str, float]) -> dict[str, float]:
        """Return where the lines' names stand: at their ends, but no two on one another."""
        placed: dict[str, float] = {}
        least = 0.0
        for name, y in sorted(wanted.items(), key=lambda item: item[1]):
            placed[name] = max(y, least)
            least = placed[name] + self.APART
        return placed

    def _place(self, value: float) -> float:
        return log10(value) if self.log else value

    def _levels(self) -> list[float]:
        """Return the values of the horizontal lines: the first is at or below all, the last at or above all."""
        values = [value for line_values in self.series.values() for value in line_values]
        if not self.log:
            step = nice_step(max(values) / 5)
            return [step * number for number in range(ceil(max(values) / step) + 1)]
        decades = range(floor(log10(min(values))), ceil(log10(max(values))) + 1)
        levels = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
        first = max(level for level in levels if level <= min(values))
        last = min(level for level in levels if level >= max(values))
        return [level for level in levels if first <= level <= last]


def nice_step(least: float) -> float:
    """Return the next of 1, 2, 5, 10, 20, ..."""
    power = 10.0 ** floor(log10(least))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= least)
