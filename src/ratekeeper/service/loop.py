"""The event loop that a process runs on, and the signals that stop it. Knows no server."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


def run_loop(main: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine on the fastest loop there is."""
    try:
        from uvloop import new_event_loop  # noqa: PLC0415  not on every system
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)


class StopSignals:
    """SIGTERM and SIGINT call `stop`: the first with False, each later one with True, which means at once.

    `exit_code` is 0 after one signal, else 128 and the number of the last one, as shells have it.
    """

    def __init__(self, stop: Callable[[bool], None]) -> None:
        self._stop = stop
        self._seen = 0
        self.exit_code = 0
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: int) -> None:
        self._seen += 1
        if self._seen > 1:
            self.exit_code = 128 + number
        self._stop(self._seen > 1)
