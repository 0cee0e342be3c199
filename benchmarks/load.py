"""`python -m benchmarks.load`: a FastAPI application behind uvicorn, bare and with a policy of four rules, under load.

uvicorn runs in its own process for each application. The client is this process: sockets that stay open, each with one
request under way. Rounds of the applications are interleaved, and bounded in count; ratios count.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count
from statistics import median
from typing import NamedTuple

from benchmarks import results
from benchmarks.results import Row, Table, rounded, say_round

CONNECTIONS, EACH, ROUNDS = 16, 60, 25
POLICY = """
[attributes]
user = "header:x-user"

[[rules]]
name = "each address"
key = ["client"]
limit = "1000000/s"

[[rules]]
name = "each user"
key = ["user"]
limit = "100000/s"

[[rules]]
name = "each user, each endpoint"
key = ["user", "endpoint"]
limit = "50000/s"

[[rules]]
name = "all of items"
match = { path = "/items/*" }
limit = "1000000/s"
"""
BARE, LIMITED = "bare", "four rules"
numbers = count()


class Round(NamedTuple):
    """The times of one round: requests a second, and the milliseconds of each."""

    rate: float
    waits: list[float]


def application(limited: bool) -> object:
    import fastapi  # noqa: PLC0415  only the servers need it

    from ratekeeper import Policy  # noqa: PLC0415
    from ratekeeper.frameworks.starlette import RateLimitMiddleware  # noqa: PLC0415

    app = fastapi.FastAPI()

    @app.get("/items/{item}")
    async def item(item: int) -> dict[str, int]:
        return {"item": item}

    if limited:
        app.add_middleware(RateLimitMiddleware, policy=Policy.parse(POLICY))
    return app


def serve(limited: bool) -> None:
    """Serve until stopped, in its own process, and print the port."""
    import uvicorn  # noqa: PLC0415

    server = uvicorn.Server(uvicorn.Config(application(limited), port=0, log_level="warning", access_log=False))  # type: ignore[arg-type]

    async def run() -> None:
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        print(server.servers[0].sockets[0].getsockname()[1], flush=True)
        await serving

    asyncio.run(run())


@contextmanager
def running(limited: bool) -> Iterator[int]:
    """Start a server; yields its port."""
    code = f"from benchmarks.load import serve; serve({limited})"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()


async def ask(port: int, waits: list[float]) -> None:
    """One connection: one request after the other."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(EACH):
        number = next(numbers)
        began = time.perf_counter()
        writer.write(b"GET /items/%d HTTP/1.1\r\nHost: a\r\nX-User: u%d\r\n\r\n" % (number, number % 1000))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        await reader.readexactly(length)
        waits.append((time.perf_counter() - began) * 1e3)
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def time_round(port: int) -> Round:
    waits: list[float] = []
    began = time.perf_counter()
    await asyncio.gather(*(ask(port, waits) for _ in range(CONNECTIONS)))
    return Round(len(waits) / (time.perf_counter() - began), waits)


def measure(quick: bool) -> list[Table]:
    rounds: dict[str, list[Round]] = {BARE: [], LIMITED: []}
    turns = 3 if quick else ROUNDS
    with running(False) as bare, running(True) as limited:
        ports = {BARE: bare, LIMITED: limited}
        progress = say_round("load")
        for turn in range(1 + turns):
            for name in random.sample(list(ports), len(ports)):
                taken = asyncio.run(time_round(ports[name]))
                if turn:
                    rounds[name].append(taken)
            progress(turn, turns)
    rows = []
    for name, taken_by in rounds.items():
        waits = sorted(wait for one in taken_by for wait in one.waits)
        rates = [one.rate for one in taken_by]
        notes = {"ms, median": f"{median(waits):.2f}", "ms, 99 %": f"{waits[len(waits) * 99 // 100]:.2f}"}
        rows.append(Row(name, rounded(max(rates)), rounded(median(rates)), notes))
    bare_rate = replace(rows[0], name="x bare", notes={})
    title = f"FastAPI behind uvicorn, {CONNECTIONS} connections"
    return [Table(title, "requests a second", rows, [bare_rate], more_is_better=True)]


if __name__ == "__main__":
    results.main("load", measure, ("fastapi", "uvicorn"))
