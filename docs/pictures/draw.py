"""Draw the pictures of docs/ with the library itself: python docs/pictures/draw.py

The same requests go to several limits, on a clock that stands still between them. The pictures show the decisions.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from ratekeeper import Decision, LeakyBucket, Limiter, ManualClock, MemoryStore, TokenBucket
from ratekeeper.limits import TICKS_PER_SECOND, Limit

HERE = Path(__file__).parent
SECONDS = 8.0
LEFT, WIDTH, ROW = 210, 640, 150


class Event(NamedTuple):
    """A request: when it came, and when it left, None if it was refused."""

    arrived: float
    left: float | None


class Counter(Protocol):
    """One bucket or window, for all requests of a picture."""

    def ask(self, now: float) -> float | None:
        """Return the delay of a request, or None if it is refused."""

    def taken(self, now: float) -> float:
        """Return the share of the bucket or window that is used."""


class Bucket:
    """A bucket of the library, and the verb by which its callers ask."""

    def __init__(self, limit: Limit, ask: Callable[[Limiter], Decision]) -> None:
        self._clock, self._full, self._ask = ManualClock(), limit.full, ask
        self._limiter = Limiter(limit, store=MemoryStore(100, clock=self._clock))

    def ask(self, now: float) -> float | None:
        self._clock.set_ticks(round(now * TICKS_PER_SECOND))
        decision = self._ask(self._limiter)
        return decision.delay if decision else None

    def taken(self, now: float) -> float:
        self._clock.set_ticks(round(now * TICKS_PER_SECOND))
        return self._limiter.peek("all", 0).debt_ticks / self._full


class FixedWindow:
    """A count that begins anew with each window. The library has none: the picture shows why."""

    def __init__(self, limit: int, seconds: float) -> None:
        self._limit, self._seconds = limit, seconds
        self._window, self._count = 0, 0

    def ask(self, now: float) -> float | None:
        if self.taken(now) >= 1:
            return None
        self._count += 1
        return 0.0

    def taken(self, now: float) -> float:
        window = int(now / self._seconds)
        if window != self._window:
            self._window, self._count = window, 0
        return self._count / self._limit


class Scene(NamedTuple):
    """The counter of the requests, and the words beside its row of the picture."""

    counter: Callable[[], Counter]
    title: str
    level: str
    words: list[str]


class Picture(NamedTuple):
    """The requests, the rows that they meet, and where a window ends."""

    arrivals: list[float]
    scenes: list[Scene]
    note: str
    ends: list[float]


class Row(NamedTuple):
    """The requests' events. `taken` is sampled: (seconds, share of the bucket that is taken)."""

    events: list[Event]
    taken: list[tuple[float, float]]


def at_once(limiter: Limiter) -> Decision:
    return limiter.try_acquire("all")


def patiently(limiter: Limiter) -> Decision:
    return limiter.reserve("all", timeout=1.5).decision


def in_line(limiter: Limiter) -> Decision:
    return limiter.reserve("all").decision


TOKEN, LEAKY = TokenBucket(5, 2), LeakyBucket(4, 2)
REFUSES = Scene(
    lambda: Bucket(TOKEN, at_once),
    "token bucket",
    "empty",
    ["capacity 5, refilled 2/s", "a burst of 5 passes at once,", "the rest is refused (x)"],
)
WAITS = Scene(
    lambda: Bucket(TOKEN, patiently),
    "the same, waiting",
    "empty",
    ["acquire(timeout=1.5)", "three more have their turn", "within 1.5 s, the rest has not"],
)
QUEUES = Scene(
    lambda: Bucket(LEAKY, in_line),
    "leaky bucket",
    "full",
    ["4 may wait, leaks 2/s", "one each 0.5 s leaves,", "no more than 4 wait their turn"],
)
WINDOW = Scene(
    lambda: FixedWindow(5, 4),
    "fixed window",
    "full",
    ["5 in each window of 4 s", "10 pass in 1.3 s, around", "the end of a window"],
)
SAME = Scene(
    lambda: Bucket(TokenBucket(5, "5/4s"), at_once),
    "token bucket",
    "empty",
    ['"5/4s": 5 at once, and then', "one each 0.8 s, also when a", "window would have ended"],
)
NEVER_MORE = Scene(
    lambda: Bucket(TokenBucket.within(5, 4, burst=3), at_once),
    "at most 5 in any 4 s",
    "empty",
    ['"at most 5 in 4s burst 3"', "3 at once, then one each 2 s:", "no 4 seconds see a sixth"],
)
BURSTS = [0.5 + 0.05 * n for n in range(10)] + [3.0, 3.5, 4.0] + [5.5 + 0.05 * n for n in range(4)]
AROUND_THE_END = [3.2 + 0.08 * n for n in range(7)] + [4.1 + 0.08 * n for n in range(7)] + [6.0, 6.5, 7.0]
BLUE = "blue: tokens taken, or work in the queue."
PICTURES = {
    "burst.svg": Picture(BURSTS, [REFUSES, QUEUES], BLUE, []),
    "waiting.svg": Picture(BURSTS, [REFUSES, WAITS, QUEUES], BLUE, []),
    "windows.svg": Picture(
        AROUND_THE_END, [WINDOW, SAME, NEVER_MORE], "blue: the window's count, or tokens taken.", [4.0]
    ),
}


def simulate(counter: Counter, arrivals: list[float]) -> Row:
    events, taken, pending = [], [], list(arrivals)
    for step in range(int(SECONDS * 100)):
        now = step / 100
        while pending and pending[0] <= now:
            delay = counter.ask(now)
            events.append(Event(pending.pop(0), None if delay is None else now + delay))
        taken.append((now, counter.taken(now)))
    return Row(events, taken)


def x(seconds: float) -> float:
    return round(LEFT + WIDTH * seconds / SECONDS, 1)


def text(at_x: float, at_y: float, words: str, kind: str = "") -> str:
    return f'<text x="{at_x}" y="{at_y}" class="{kind}">{words}</text>'


def draw_row(scene: Scene, arrivals: list[float], top: int) -> list[str]:
    row = simulate(scene.counter(), arrivals)
    base = top + ROW - 30
    height = 46
    curve = " ".join(f"{x(at)},{round(base - share * height, 1)}" for at, share in row.taken)
    parts = [text(10, top + 22, scene.title, "title")]
    parts += [text(10, top + 44 + 18 * n, line, "note") for n, line in enumerate(scene.words)]
    parts += [
        f'<polygon points="{x(0)},{base} {curve} {x(SECONDS)},{base}" class="debt"/>',
        f'<line x1="{LEFT}" y1="{base - height}" x2="{LEFT + WIDTH}" y2="{base - height}" class="brim"/>',
        text(LEFT + WIDTH + 6, base - height + 4, scene.level, "note"),
    ]
    for arrived, left in row.events:
        if left is None:
            at = x(arrived)
            parts.append(f'<path d="M{at - 3},{top + 18} l6,6 m0,-6 l-6,6" class="refused"/>')
        else:
            parts.append(f'<line x1="{x(arrived)}" y1="{top + 14}" x2="{x(left)}" y2="{top + 46}" class="waits"/>')
            parts.append(f'<circle cx="{x(left)}" cy="{top + 50}" r="3.5" class="passes"/>')
    return parts


STYLE = """
text{font:13px system-ui,sans-serif;fill:#222}.title{font-weight:600;font-size:15px}.note{fill:#555}
.asked{fill:#444}.passes{fill:#1a7f4b}.refused{stroke:#c0392b;stroke-width:2;fill:none}
.waits{stroke:#1a7f4b;stroke-width:1;opacity:.45}.debt{fill:#7aa6d8;opacity:.55}.brim{stroke:#345;stroke-dasharray:4 3}
.axis{stroke:#999}"""


def draw(picture: Picture) -> str:
    """Return a picture as SVG."""
    arrivals = picture.arrivals
    bottom = 50 + len(picture.scenes) * ROW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 90} {bottom + 50}">',
        f"<style>{STYLE}</style>",
        f'<rect width="{LEFT + WIDTH + 90}" height="{bottom + 50}" fill="#fff"/>',
        text(10, 32, "requests arrive", "title"),
        *(f'<line x1="{x(end)}" y1="14" x2="{x(end)}" y2="{bottom}" class="brim"/>' for end in picture.ends),
        *(text(x(end) + 5, 18, "a window ends", "note") for end in picture.ends),
        *(f'<circle cx="{x(at)}" cy="28" r="3.5" class="asked"/>' for at in arrivals),
        *(part for place, scene in enumerate(picture.scenes) for part in draw_row(scene, arrivals, 50 + place * ROW)),
        f'<line x1="{LEFT}" y1="{bottom}" x2="{LEFT + WIDTH}" y2="{bottom}" class="axis"/>',
        *(text(x(second) - 8, bottom + 18, f"{second} s", "note") for second in range(int(SECONDS) + 1)),
        text(LEFT, bottom + 40, f"{picture.note} Drawn by draw.py with the library.", "note"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    for name, picture in PICTURES.items():
        (HERE / name).write_text(draw(picture))
