"""Celery tasks that wait for their turn without blocking a worker: with a real worker and broker, and without any."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from celery import Celery
from celery.app.trace import build_tracer
from needs import need
from redis_servers import redis_server, wait_for
from servers import PATIENCE, program

from ratekeeper import LeakyBucket, Limiter, ManualClock, MemoryStore, RateLimitExceeded
from ratekeeper.clients.celery import _Turns, rate_limit
from ratekeeper.stores.table_store import TableStore

LATE = 1.5
"""Seconds by which a test lets a task record its beginning too late, on a slow machine."""


@pytest.fixture(scope="module")
def tasks() -> Iterator[ModuleType]:
    """The application, on its own broker, without a worker."""
    need("a system with fork", hasattr(os, "fork"))
    with redis_server() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("BROKER", server.url)
        module = importlib.import_module("celery_tasks")
        yield module
        module.app.close()
        module.limiter.store.close()


@contextmanager
def worker(tasks: ModuleType) -> Iterator[subprocess.Popen[str]]:
    celery = [
        sys.executable,
        "-m",
        "celery",
        "--workdir",
        str(Path(str(tasks.__file__)).parent),
        "-A",
        "celery_tasks",
    ]
    with program(*celery, "worker", "--concurrency", "2", "--loglevel", "ERROR", quiet=True) as process:
        wait_for(lambda: bool(tasks.app.control.ping(timeout=0.5)))
        yield process


def begun(results: list[Any]) -> list[tuple[int, float]]:
    return [result.get(timeout=PATIENCE) for result in results]


def test_tasks_whose_turns_passed_without_a_worker_do_not_all_begin_when_one_is_there(tasks: ModuleType) -> None:
    with worker(tasks) as process:
        left: list[Any] = []

        def stopped_while_enough_are_left() -> bool:
            """Stop the worker, unless this machine stood still and nearly all tasks have had their turns."""
            left.extend(tasks.limited.delay(number) for number in range(16))  # for 2.8 s
            wait_for(lambda: all(result.state != "PENDING" for result in left))
            process.send_signal(signal.SIGSTOP)  # its pool goes on
            left[:] = [result for result in left if result.state != "SUCCESS"]
            enough: bool = len(left) > tasks.BURST + 2
            if not enough:
                process.send_signal(signal.SIGCONT)
            return enough

        wait_for(stopped_while_enough_are_left)
        turns = Limiter(*tasks.limiter.limits, store=tasks.limiter.store, name=f"{tasks.limiter.name} (turns of tasks)")
        wait_for(lambda: turns.peek("limited").reset_after == 0)
        process.send_signal(signal.SIGCONT)
        at = sorted(at for _, at in begun(left))
    assert at[-1] - at[0] >= (len(at) - tasks.BURST) / tasks.RATE - LATE


@pytest.fixture(scope="module")
def working(tasks: ModuleType) -> Iterator[ModuleType]:
    """The application, with a worker."""
    with worker(tasks):
        yield tasks


def test_tasks_begin_at_the_pace_of_the_limit_in_order(working: ModuleType) -> None:
    results = [working.roomy.delay(number) for number in range(18)]
    times = begun(results)
    at = sorted(at for _, at in times)
    assert at[-1] - at[0] >= (len(at) - working.ROOM) / working.RATE - LATE
    waited = sorted(times[working.ROOM + 2 :], key=lambda one: one[1])
    assert sum(abs(place - (number - working.ROOM - 2)) for place, (number, _) in enumerate(waited)) <= 2 * len(waited)


def test_while_more_tasks_wait_than_a_worker_has_processes_others_go_on(working: ModuleType) -> None:
    waiting = [working.daily.delay() for _ in range(5)]
    wait_for(lambda: sum(result.state == "RETRY" for result in waiting) == 4)
    assert working.other.delay().get(timeout=PATIENCE) > 0
    assert sum(result.state == "RETRY" for result in waiting) == 4, "they still wait, and no process with them"


def test_waiting_is_none_of_a_tasks_own_retries(working: ModuleType) -> None:
    waited = [working.fails_at_first.delay(0) for _ in range(3)]
    failed = [working.fails_at_first.delay(1) for _ in range(3)]
    assert [result.get(timeout=PATIENCE) for result in [*waited, *failed]] == [0, 0, 0, 1, 1, 1]


def test_a_cost_that_can_never_pass_fails_the_task(working: ModuleType) -> None:
    result = working.too_large.delay()
    with pytest.raises(RateLimitExceeded, match=r"retry_after=inf, .* cost=3"):
        result.get(timeout=PATIENCE)


def test_a_wrong_argument_is_still_an_error_where_the_task_is_called(tasks: ModuleType) -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'number'"):
        tasks.limited.delay()


def test_each_task_that_waits_has_a_time_of_its_own_to_come_back(store: TableStore) -> None:
    turns = _Turns(Limiter("10/s burst 2", "1000/hour", store=store))
    assert [round(turns._seconds_to_turn("key", 1), 6) for _ in range(5)] == [0, 0, 0.1, 0.2, 0.3]
    evenly = _Turns(Limiter(LeakyBucket(capacity=1, leak_rate=10), store=store))
    assert [round(evenly._seconds_to_turn("key", 1), 6) for _ in range(5)] == [0, 0.1, 0.2, 0.3, 0.4]


@pytest.fixture
def alone() -> Iterator[Celery]:
    """An application without a worker or a broker."""
    app = Celery("alone", set_as_current=False)
    app.conf.update(task_always_eager=True, task_eager_propagates=True)
    yield app
    app.close()


def test_without_a_worker_a_task_blocks_until_its_turn(alone: Celery, clock: ManualClock) -> None:
    @alone.task
    @rate_limit("10/s burst 1", store=MemoryStore(clock=clock))
    def double(number: int) -> int:
        return 2 * number

    assert [double.delay(1).get(), double.apply((2,)).get(), double(3)] == [2, 4, 6]
    assert clock.ticks() == 1000.2 * 16e9


def test_a_task_that_runs_another_tasks_function_waits_for_it_and_is_not_sent_again(clock: ManualClock) -> None:
    """It was: so what it had done before was done twice."""
    app = Celery("caller", broker="memory://", set_as_current=False)

    @app.task
    @rate_limit("10/s burst 1", store=MemoryStore(clock=clock))
    def double(number: int) -> int:
        return 2 * number

    @app.task
    def caller(number: int) -> int:
        doubled: int = double.run(number)
        return doubled

    trace = build_tracer(caller.name, caller, app=app)
    for number in (1, 2):
        assert trace(f"call {number}", (number,), {}, {"id": f"call {number}", "retries": 0}).retval == 2 * number
    assert clock.ticks() == 1000.1 * 16e9
    app.close()


def test_key_and_cost_may_be_functions_of_the_arguments(alone: Celery, clock: ManualClock) -> None:
    @alone.task(bind=True)
    @rate_limit(
        "10/s burst 5",
        store=MemoryStore(clock=clock),
        key=lambda task, user, size: user,
        cost=lambda task, user, size: size,
    )
    def store(task: Any, user: str, size: int) -> None: ...

    for user in ("alice", "bob"):
        store.delay(user, size=4)
    assert clock.ticks() == 1000 * 16e9
    store.delay("bob", size=4)
    assert clock.ticks() == 1000.3 * 16e9


def test_key_and_cost_functions_get_only_the_arguments_that_they_name(alone: Celery, clock: ManualClock) -> None:
    """They got all, so each run of such a task failed in its worker."""

    @alone.task(bind=True)
    @rate_limit(
        "10/s burst 5", store=MemoryStore(clock=clock), key=lambda user: user, cost=lambda task, size: size * bool(task)
    )
    def store(task: Any, user: str, size: int = 4) -> None: ...

    store.delay("alice")
    store.delay(user="bob", size=4)
    assert clock.ticks() == 1000 * 16e9
    store.delay("bob")
    assert clock.ticks() == 1000.3 * 16e9


def test_two_tasks_with_equal_limits_do_not_share_a_bucket_unless_they_say_so(clock: ManualClock) -> None:
    shared = MemoryStore(clock=clock)

    def task(module: str, name: str) -> Callable[[], None]:
        def run() -> None: ...

        run.__module__, run.__qualname__ = module, name
        return run

    functions = [task("mail", "send"), task("mail", "fetch"), task("chat", "send"), task("chat", "Bot.send")]
    for function in functions:
        rate_limit("1/minute", store=shared)(function)()
    assert clock.ticks() == 1000 * 16e9
    for function in functions[:2]:
        rate_limit("1/minute", store=shared, key="both")(function)()
    assert clock.ticks() == 1060 * 16e9
    rate_limit("1/minute", store=shared)(task("mail", "send"))()  # as another process defines it
    assert clock.ticks() == 1060 * 16e9
    rate_limit("1/minute", store=shared)(task("mail", "send"))()
    assert clock.ticks() == 1120 * 16e9


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: rate_limit("1/s"), r"give a store.*store=RedisStore\(url\)"),
        (lambda: rate_limit(Limiter("1/s"), store=MemoryStore()), "a Limiter has its own store"),
        (lambda: rate_limit("1/s", store=MemoryStore(), cost=-1), "cost must be 0 or more"),
        (
            lambda: rate_limit("1/s", store=MemoryStore(), key=5),  # type: ignore[arg-type]
            "key must be str, bytes, or a function of the task's arguments",
        ),
        (
            lambda: rate_limit("1/s", store=MemoryStore(), key=asyncio.sleep),  # type: ignore[arg-type]
            "the key function must not be async",
        ),
        (
            lambda: rate_limit("1/s", store=MemoryStore(), key="results")(begun),
            "key='results' is the key itself, one for all calls.* write key=lambda results: results",
        ),
        (
            lambda: rate_limit("1/s", store=MemoryStore(), key=lambda result: "key")(begun),
            r"the key function names 'result', not a parameter of begun\(\): did you mean 'results'",
        ),
        (
            lambda: rate_limit("1/s", store=MemoryStore())(Celery(set_as_current=False).task(begun)),
            "between @app.task and the function",
        ),
    ],
)
def test_a_mistake_is_an_error_when_the_task_is_defined(wrong: Callable[[], object], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        wrong()
