"""A real uvicorn for a test's own application, in a thread, so that the test can hold its clock."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from needs import need
from servers import PATIENCE

from ratekeeper import RatekeeperError


@contextmanager
def serving(app: Any, **options: Any) -> Iterator[str]:
    """An ASGI application on a free port of this machine; yields its URL. It is stopped as uvicorn stops."""
    need("uvicorn", importlib.util.find_spec("uvicorn") is not None)
    import uvicorn  # noqa: PLC0415  an extra

    class Server(uvicorn.Server):
        """uvicorn looks ten times a second whether it should exit. This looks more often."""

        async def main_loop(self) -> None:
            while not await self.on_tick(0):
                await asyncio.sleep(0.005)

    # uvicorn closes a connection after 5 idle seconds: a request at that moment, after a stall, would have no answer.
    server = Server(uvicorn.Config(app, port=0, log_config=None, timeout_keep_alive=3600, **options))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + PATIENCE
        while not server.started:
            assert thread.is_alive(), "uvicorn has ended"
            assert time.monotonic() < deadline, f"uvicorn has not started in {PATIENCE} s"
            time.sleep(0.005)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def startup_failure(app: Any) -> str | None:
    """Start an application as a server does; return why it does not start, None if it does."""

    async def start() -> str | None:
        messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
        sent: list[Any] = []

        async def receive() -> Any:
            return next(messages)

        async def send(message: Any) -> None:
            sent.append(message)

        with suppress(RatekeeperError, TypeError):  # clients for tests see it; servers go by the message
            await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
        failures = [message["message"] for message in sent if message["type"] == "lifespan.startup.failed"]
        return failures[0] if failures else None

    return asyncio.run(start())
