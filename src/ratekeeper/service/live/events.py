"""Live: the status of the service once a second, for all pages that are open. Knows no route and no connection.

One status is made a second, however many pages are open or programs ask. Without an open page only the history grows.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from ratekeeper.service.live.board import Board
from ratekeeper.service.live.history import History
from ratekeeper.service.live.hitters import Hitter
from ratekeeper.service.live.status import Status
from ratekeeper.service.metrics.totals import TotalsReader

if TYPE_CHECKING:
    from ratekeeper.service.core import Core

MOST_STREAMS = 128
"""The pages that one process keeps informed at once. If more are opened, clients share the places evenly."""
STEP = 1.0
FRESH, MOST_SHARE = 0.2, 1 / 50
"""Seconds for which a status is told again to programs that ask for it, and the share of time that they may take.

So the status of a large policy is told again for longer, and a program that asks without a pause slows no decision.
"""

KEYS_WINDOW = 300.0
"""Seconds: the most limited keys are those of this window and the one before."""

_RETRY = b"retry: 1000\n\n"

_log = logging.getLogger("ratekeeper")

Send = Callable[[bytes], None]
"""Sends a part of a stream. Empty bytes end it."""


class Live:
    """The status and the history of the service, in this process."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.board = Board(core.metrics.slot)
        self._totals = TotalsReader(core.metrics.slots)
        self._history = History()
        self._status = Status(core, self._history)
        self._pages: dict[Send, str] = {}
        self._text, self._fresh_until = b"", 0.0
        self._past, self._past_until = b"", 0.0
        self._window_ends = time.monotonic() + KEYS_WINDOW

    def has_room(self, client: str) -> bool:
        """Return whether a stream of a client may begin now: there is a place, or another client has more of them."""
        return len(self._pages) < MOST_STREAMS or self._to_give_up(client) is not None

    def _to_give_up(self, client: str) -> Send | None:
        """Return the stream whose place a stream of a client may take: the oldest of the client that has the most.

        None if that client would have fewer than this one then. So one client can have all places while nobody else
        wants one, and can keep no other client out.
        """
        counts = Counter(self._pages.values())
        busiest, most = counts.most_common(1)[0]
        if most <= counts[client] + 1:
            return None
        return next(send for send, own in self._pages.items() if own == busiest)

    async def run(self) -> NoReturn:
        """Look at the counts once a second."""
        while True:
            try:
                self.tick()
            except Exception:
                _log.exception("a mistake in the status")
            await asyncio.sleep(STEP - time.time() % STEP)

    def tick(self) -> None:
        """Take the counts of this second, tell other processes what they cannot read, and tell all open pages."""
        core = self._core
        core.metrics.refresh()
        if core.hitters is not None and time.monotonic() >= self._window_ends:
            self._window_ends += KEYS_WINDOW
            core.hitters.renew()
        self.board.write()
        if not core.operator.page:
            return
        self._history.take(self._totals.read(), time.time())
        if self._pages:
            self._fresh_until = 0.0
            status = self._event()
            for send in list(self._pages):
                send(status)

    def status(self) -> bytes:
        """Return the status as JSON."""
        if time.monotonic() >= self._fresh_until:
            began = time.thread_time()  # a stall takes no time from others, however long it is
            self._core.metrics.refresh()
            self._text = _json(self._status.read(self._totals.read()))
            self._fresh_until = time.monotonic() + max(FRESH, (time.thread_time() - began) / MOST_SHARE)
        return self._text

    def limited_keys(self, most: int) -> list[Hitter]:
        """Return the keys that all processes have refused most in the last minutes. They are for admins only."""
        return self._status.limited_keys(most)

    def stream(self, client: str, send: Send) -> Callable[[], None]:
        """Send the history, and then the status each second, until the function that is returned is called.

        If no place is free, another client's stream ends. See `has_room`.
        """
        given_up = self._to_give_up(client) if len(self._pages) >= MOST_STREAMS else None
        if given_up is not None:
            del self._pages[given_up]
            given_up(b"")
        send(_RETRY + self._told_past() + self._event())
        self._pages[send] = client

        def end() -> None:
            self._pages.pop(send, None)

        return end

    def _told_past(self) -> bytes:
        now = time.monotonic()
        if now >= self._past_until:
            self._past = b"event: history\ndata: %b\n\n" % _json(self._history.shown())
            self._past_until = time.monotonic() + STEP
        return self._past

    def _event(self) -> bytes:
        return b"event: status\ndata: %b\n\n" % self.status()


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")
