"""Draw the pictures of docs/ with the library itself: python docs/pictures/draw.py

The same requests go to a token bucket and to a leaky bucket on a manual clock. The pictures show their decisions.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ratekeeper import Decision, LeakyBucket, Limiter, ManualClock, MemoryStore, TokenBucket
from ratekeeper.limits import TICKS_PER_SECOND, Limit

HERE = Path(__file__).parent
SECONDS = 8.0
LEFT, WIDTH, ROW = 210, 640, 150
ARRIVALS = [0.5 + 0.05 * n for n in range(10)] + [3.0, 3.5, 4.0] + [5.5 + 0.05 * n for n in range(4)]


class Event(NamedTuple):
    """A request: when it came, and when it left, None if it was refused."""

    arrived: float
    left: float | None


class Scene(NamedTuple):
    """A limit, how its callers ask, and the words beside its row of the picture."""

    limit: Limit
    ask: Callable[[Limiter], Decision]
    title: str
    level: str
    words: list[str]


class Row(NamedTuple):
    """The requests' events. `debt` is sampled: (seconds, share of the bucket that is taken)."""

    events: list[Event]
    debt: list[tuple[float, float]]


def at_once(limiter: Limiter) -> Decision:
    return limiter.try_acquire("all")


def patiently(limiter: Limiter) -> Decision:
    return limiter.reserve("all", timeout=1.5).decision


def in_line(limiter: Limiter) -> Decision:
    return limiter.reserve("all").decision


TOKEN, LEAKY = TokenBucket(5, 2), LeakyBucket(4, 2)
REFUSES = Scene(
    TOKEN,
    at_once,
    "token bucket",
    "empty",
    ["capacity 5, refilled 2/s", "a burst of 5 passes at once,", "the rest is refused (x)"],
)
WAITS = Scene(
    TOKEN,
    patiently,
    "the same, waiting",
    "empty",
    ["acquire(timeout=1.5)", "three more have their turn", "within 1.5 s, the rest has not"],
)
QUEUES = Scene(
    LEAKY,
    in_line,
    "leaky bucket",
    "full",
    ["4 may wait, leaks 2/s", "one each 0.5 s leaves,", "no more than 4 wait their turn"],
)
PICTURES = {"burst.svg": [REFUSES, QUEUES], "waiting.svg": [REFUSES, WAITS, QUEUES]}


def simulate(scene: Scene) -> Row:
    clock = ManualClock()
    limiter = Limiter(scene.limit, store=MemoryStore(100, clock=clock))
    events, debt, pending = [], [], list(ARRIVALS)
    for step in range(int(SECONDS * 100)):
        now = step / 100
        clock.set_ticks(round(now * TICKS_PER_SECOND))
        while pending and pending[0] <= now:
            decision = scene.ask(limiter)
            events.append(Event(pending.pop(0), now + decision.delay if decision else None))
        debt.append((now, limiter.peek("all", 0).debt_ticks / scene.limit.full))
    return Row(events, debt)


def x(seconds: float) -> float:
    return round(LEFT + WIDTH * seconds / SECONDS, 1)


def text(at_x: float, at_y: float, words: str, kind: str = "") -> str:
    return f'<text x="{at_x}" y="{at_y}" class="{kind}">{words}</text>'


def draw_row(scene: Scene, top: int) -> list[str]:
    row = simulate(scene)
    base = top + ROW - 30
    height = 46
    curve = " ".join(f"{x(at)},{round(base - share * height, 1)}" for at, share in row.debt)
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


def picture(scenes: list[Scene]) -> str:
    bottom = 50 + len(scenes) * ROW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 90} {bottom + 50}">',
        f"<style>{STYLE}</style>",
        f'<rect width="{LEFT + WIDTH + 90}" height="{bottom + 50}" fill="#fff"/>',
        text(10, 32, "requests arrive", "title"),
        *(f'<circle cx="{x(at)}" cy="28" r="3.5" class="asked"/>' for at in ARRIVALS),
        *(part for place, scene in enumerate(scenes) for part in draw_row(scene, 50 + place * ROW)),
        f'<line x1="{LEFT}" y1="{bottom}" x2="{LEFT + WIDTH}" y2="{bottom}" class="axis"/>',
        *(text(x(second) - 8, bottom + 18, f"{second} s", "note") for second in range(int(SECONDS) + 1)),
        text(LEFT, bottom + 40, "blue: tokens taken, or work in the queue. Drawn by draw.py with the library.", "note"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    for name, scenes in PICTURES.items():
        (HERE / name).write_text(picture(scenes))
