"""Real processes that wait at the same limits, give up, refund and are killed: each limit holds by time of leaving."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from redis_servers import Server
from test_waiting_bound import Left, keeps

from ratekeeper import IMPLEMENTATION, LeakyBucket, SharedMemoryStore, TokenBucket
from ratekeeper.limits import Limit

pytestmark = pytest.mark.slow

SECONDS = 2.0
LIMITS: dict[str, tuple[Limit, ...]] = {
    "leaky": (LeakyBucket(1000, 200),),
    "token": (TokenBucket(5, 200),),
    "token and leaky": (TokenBucket(20, 150), LeakyBucket(1000, 200)),
    "three": (TokenBucket(20, 150), TokenBucket(40, 120), LeakyBucket(1000, 200)),
}

CHILD = """
import json, random, sys, threading, time
from ratekeeper import *

where, limits, seed, seconds = sys.argv[1], eval(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
store = RedisStore(where, prefix=sys.argv[5], timeout=30) if "://" in where else SharedMemoryStore(where, 1000)
limiter, lock, end = Limiter(*limits, store=store, name="it"), threading.Lock(), time.monotonic() + seconds
said = 0

def say(*words):
    global said
    with lock:
        said += 1
        sys.stdout.write(json.dumps(words) + chr(10))
        sys.stdout.flush()

def come_again_and_again(number):
    chance = random.Random(seed * 100 + number)
    while time.monotonic() < end or not said:  # one that stood still has its say too
        cost, fate = chance.choice([1, 1, 2]), chance.random()
        one = limiter.reserve("key", cost, chance.choice([None, 0.2]))
        if not one:
            time.sleep(0.002)
            continue
        if fate < 0.3:
            time.sleep(chance.random() * 0.05)
            one.cancel()
            if one._waiter.place or one._waiter.waitlist is None:  # its turn had come
                say(turn(one), cost)
            continue
        with one:
            pass
        if fate < 0.4:
            limiter.refund(one.decision)  # it did not happen
        else:
            say(turn(one), cost)

def turn(one):
    return one._waiter.place.turn if one._waiter.place else one.decision.at_ticks

threads = [threading.Thread(target=come_again_and_again, args=(n,)) for n in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


@pytest.fixture
def table(tmp_path: Path) -> str:
    if IMPLEMENTATION != "c":
        pytest.skip("the C core is not installed")
    SharedMemoryStore(tmp_path / "table", 1000).close()
    return str(tmp_path / "table")


def run(where: str, limits: str) -> list[Left]:
    """Return what left four processes, of which one is killed while it waits."""
    texts = str([repr(limit) for limit in LIMITS[limits]]).replace('"', "").replace("'", "")
    prefix = uuid.uuid4().hex
    lives = [3600, SECONDS, SECONDS, SECONDS]  # the first is killed
    arguments = [[where, texts, str(seed), str(seconds), prefix] for seed, seconds in enumerate(lives)]
    children = [subprocess.Popen([sys.executable, "-c", CHILD, *one], stdout=subprocess.PIPE) for one in arguments]
    victim = children[0].stdout
    assert victim is not None
    begun = b"".join(victim.readline() for _ in range(20))
    os.kill(children[0].pid, signal.SIGKILL)
    left: list[Left] = []
    for number, child in enumerate(children):
        output = ((begun if number == 0 else b"") + child.communicate(timeout=120)[0]).decode()
        assert child.returncode == (-signal.SIGKILL if number == 0 else 0)
        lines = [line for line in output.splitlines() if line.endswith("]")]
        left += [Left(when, cost, number, -1) for when, cost in map(json.loads, lines)]
    return left


@pytest.mark.parametrize("limits", LIMITS)
def test_processes_on_one_table_keep_each_limit_whoever_gives_up_or_is_killed(table: str, limits: str) -> None:
    left = run(table, limits)
    assert len({one.process for one in left}) == 4
    for limit in LIMITS[limits]:
        keeps(limit, left)


@pytest.mark.parametrize("limits", LIMITS)
def test_processes_on_a_server_keep_each_limit_whoever_gives_up_or_is_killed(server: Server, limits: str) -> None:
    left = run(server.url, limits)
    assert len({one.process for one in left}) == 4
    for limit in LIMITS[limits]:
        keeps(limit, left)
