"""The verbs of AsyncLimiter return what works as a coroutine does, asks once, and has no truth before it is awaited."""

from __future__ import annotations

import asyncio
import gc
import sys
import warnings
from collections.abc import Callable, Coroutine
from functools import partial
from inspect import isawaitable
from typing import Any, Literal, TypeAlias

import pytest
from async_memory import AsyncMemoryStore

from ratekeeper import AsyncKeeper, AsyncLimiter, Decision, MemoryStore, Policy, TokenBucket
from ratekeeper.policy.model import Rule
from ratekeeper.stores.table_store import TableStore

EitherStore: TypeAlias = TableStore | AsyncMemoryStore
Ask: TypeAlias = Callable[..., Coroutine[Any, Any, Decision]]

VERBS = ["try_acquire", "acquire"]
ANSWERED = [*VERBS, "peek", "reserve"]


def remaining(limiter: AsyncLimiter, key: str = "a") -> int:
    return asyncio.run(limiter.peek(key)).remaining


async def in_a_group(ask: Ask) -> Decision:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(ask("a"))
    return task.result()


async def one_of_many(ask: Ask) -> Decision:
    decision, _ = await asyncio.gather(ask("a"), ask("b"))
    return decision


async def inside(ask: Ask) -> Decision:
    return await ask("a")


WAYS: list[Callable[[Ask], Coroutine[Any, Any, Decision]]] = [
    inside,
    in_a_group,
    one_of_many,
    lambda ask: ask("a"),
    lambda ask: asyncio.wait_for(ask("a"), 60),
    lambda ask: asyncio.wait_for(inside(ask), 60),
    lambda ask: inside(lambda key: asyncio.create_task(ask(key), name="asks")),  # type: ignore[arg-type,return-value]
    lambda ask: inside(lambda key: asyncio.ensure_future(ask(key))),  # type: ignore[arg-type,return-value]
    lambda ask: inside(lambda key: asyncio.shield(ask(key))),  # type: ignore[arg-type,return-value]
]


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("verb", VERBS)
def test_it_works_wherever_a_coroutine_works(
    either_store: EitherStore, verb: str, way: Callable[[Ask], Coroutine[Any, Any, Decision]], debug: bool
) -> None:
    limiter = AsyncLimiter(TokenBucket(5, 1), store=either_store)
    decision = asyncio.run(way(getattr(limiter, verb)), debug=debug)
    assert (decision.allowed, decision.key, decision.remaining) == (True, "a", 4)
    assert remaining(limiter) == 4, "it was charged once"


@pytest.mark.parametrize("verb", ANSWERED)
def test_it_passes_for_a_coroutine(either_store: EitherStore, verb: str) -> None:
    asked = getattr(AsyncLimiter("5/s", store=either_store), verb)("a")
    assert isinstance(asked, Coroutine)
    assert asyncio.iscoroutine(asked)
    assert isawaitable(asked)
    asked.close()


@pytest.mark.parametrize("verb", ANSWERED)
def test_without_await_it_is_neither_yes_nor_no(either_store: EitherStore, verb: str) -> None:
    asked = getattr(AsyncLimiter("5/s", store=either_store), verb)("a")
    with pytest.raises(TypeError, match=rf"^{verb} has no answer before it is awaited: write await limiter\.{verb}\("):
        bool(asked)
    assert asyncio.run(asked)


@pytest.mark.parametrize("verb", VERBS)
def test_a_task_of_it_can_be_printed_at_any_time(either_store: EitherStore, verb: str) -> None:
    async def use() -> None:
        task = asyncio.create_task(getattr(AsyncLimiter("5/s", store=either_store), verb)("a"))
        before = repr(task)
        await task
        for shown in (before, repr(task)):
            assert f"{verb}()" in shown

    asyncio.run(use())


@pytest.mark.parametrize("verb", VERBS)
def test_nothing_is_charged_before_the_await(either_store: EitherStore, verb: str) -> None:
    limiter = AsyncLimiter(TokenBucket(5, 1), store=either_store)
    asked = getattr(limiter, verb)("a", 2)
    assert remaining(limiter) == 5
    assert asyncio.run(asked)
    assert remaining(limiter) == 3


@pytest.mark.parametrize("verb", VERBS)
def test_a_second_await_is_an_error_and_charges_nothing(either_store: EitherStore, verb: str) -> None:
    limiter = AsyncLimiter(TokenBucket(5, 1), store=either_store)
    ask = getattr(limiter, verb)

    async def twice() -> None:
        asked = ask("a")
        await asked
        with pytest.raises(RuntimeError, match=f"^this {verb} was awaited already: call it again to ask again$"):
            await asked

    async def after_a_task() -> None:
        asked = ask("b")
        await asyncio.create_task(asked)
        with pytest.raises(RuntimeError, match="awaited already"):
            await asked
        with pytest.raises(RuntimeError, match="already"):
            await asyncio.create_task(asked)

    asyncio.run(twice())
    asyncio.run(after_a_task())
    assert (remaining(limiter), remaining(limiter, "b")) == (4, 4)


def test_two_tasks_cannot_await_one_turn() -> None:
    async def use() -> None:
        limiter = AsyncLimiter(TokenBucket(1, 100))
        await limiter.acquire("a")
        asked = limiter.acquire("a")

        async def wait() -> Decision:
            return await asked

        first, second = asyncio.create_task(wait()), asyncio.create_task(wait())
        with pytest.raises(RuntimeError, match=r"^this acquire was awaited already"):
            await second
        assert await first
        assert (await limiter.peek("a", 0)).debt_ticks <= limiter.limits[0].full, "one was charged"

    asyncio.run(use())


BAD_VALUES: list[tuple[tuple[Any, ...], type[Exception], str]] = [
    ((5,), TypeError, "a key must be str or bytes, not int: write str"),
    (("a", -1), ValueError, "cost must be 0 or more tokens"),
    (("a", "1"), TypeError, "cost must be a whole number of tokens"),
    (("a", 1, -1), ValueError, "timeout must be 0 or more seconds"),
    (("a", 1, "1"), TypeError, "timeout must be a number of seconds"),
]


@pytest.mark.parametrize("verb", VERBS)
def test_a_bad_value_is_an_error_at_the_await(either_store: EitherStore, verb: str) -> None:
    limiter = AsyncLimiter("5/s", store=either_store)
    for arguments, error, message in BAD_VALUES:
        if len(arguments) == 3 and verb == "try_acquire":
            continue  # it takes no timeout
        asked = getattr(limiter, verb)(*arguments)
        with pytest.raises(error, match=message):
            asyncio.run(asked)
        with pytest.raises(RuntimeError, match="already"):
            asyncio.run(asked)
        assert remaining(limiter) == 5


@pytest.mark.parametrize("verb", VERBS)
def test_arguments_that_it_does_not_take_are_an_error_at_the_call(either_store: EitherStore, verb: str) -> None:
    ask = getattr(AsyncLimiter("5/s", store=either_store), verb)
    for wrong in (partial(ask), partial(ask, "a", 1, 2, 3), partial(ask, "a", key="b"), partial(ask, "a", costs=2)):
        with pytest.raises(TypeError, match=verb):
            wrong()
    assert asyncio.run(ask(cost=2, key="a")).cost == 2


@pytest.mark.parametrize("verb", VERBS)
def test_a_forgotten_one_warns_and_charges_nothing(either_store: EitherStore, verb: str) -> None:
    limiter = AsyncLimiter("5/s", store=either_store)
    with pytest.warns(RuntimeWarning, match=f"{verb}.* was never awaited"):
        getattr(limiter, verb)("a")
    assert remaining(limiter) == 5


@pytest.mark.parametrize("verb", VERBS)
def test_a_warning_that_is_an_error_breaks_nothing(
    either_store: EitherStore, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda told: seen.append(told.exc_type))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        getattr(AsyncLimiter("5/s", store=either_store), verb)("a")
        gc.collect()
    assert seen == [RuntimeWarning]


@pytest.mark.parametrize("verb", VERBS)
def test_a_closed_one_asks_nothing_and_does_not_warn(either_store: EitherStore, verb: str) -> None:
    limiter = AsyncLimiter("5/s", store=either_store)
    asked = getattr(limiter, verb)("a")
    asked.close()
    asked.close()
    with pytest.raises(RuntimeError, match="already"):
        asyncio.run(asked)
    assert remaining(limiter) == 5


@pytest.mark.parametrize("verb", VERBS)
def test_a_task_that_is_cancelled_before_it_begins_charges_nothing(either_store: EitherStore, verb: str) -> None:
    async def use() -> None:
        limiter = AsyncLimiter(TokenBucket(5, 1), store=either_store)
        task = asyncio.create_task(getattr(limiter, verb)("a"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await limiter.peek("a")).remaining == 5

    asyncio.run(use())


@pytest.mark.parametrize("thrown", [(ValueError("x"),), (ValueError,), (ValueError, "x"), (ValueError, None, None)])
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.filterwarnings("ignore:the .type, exc, tb. signature:DeprecationWarning")
def test_what_is_thrown_into_it_is_raised(either_store: EitherStore, verb: str, thrown: tuple[Any, ...]) -> None:
    asked = getattr(AsyncLimiter("5/s", store=either_store), verb)("a")
    with pytest.raises(ValueError, match=r"^x?$"):
        asked.throw(*thrown)
    with pytest.raises(RuntimeError, match="already"):
        asyncio.run(asked)


@pytest.mark.parametrize("verb", VERBS)
def test_it_takes_no_value_before_it_begins(either_store: EitherStore, verb: str) -> None:
    asked = getattr(AsyncLimiter("5/s", store=either_store), verb)("a")
    with pytest.raises(TypeError, match="can't send non-None value to a just-started coroutine"):
        asked.send(5)
    asked.close()
    other = getattr(AsyncLimiter("5/s", store=either_store, name="other"), verb)("a")
    with pytest.raises(TypeError, match=r"must derive from BaseException|must be classes or instances"):
        other.throw(5)
    other.close()


@pytest.mark.parametrize("how", ["cancel", "close", "throw", "wait_for"])
def test_a_waiter_that_gives_up_gives_its_place_back(implementation: Literal["c", "python"], how: str) -> None:
    async def use() -> None:
        store = MemoryStore(100, implementation=implementation)
        limiter = AsyncLimiter(TokenBucket(1, "1/hour"), store=store)
        await limiter.acquire("a")
        before = (await limiter.usage("a"))[0].waiting
        asked = limiter.acquire("a")
        if how == "cancel":
            task = asyncio.create_task(asked)
            await asyncio.sleep(0)
            assert (await limiter.usage("a"))[0].waiting == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        elif how == "wait_for":
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(asked, 0.001)
        else:
            asked.send(None)
            assert (await limiter.usage("a"))[0].waiting == 1
            if how == "close":
                asked.close()
            else:
                with pytest.raises(KeyError):
                    asked.throw(KeyError("x"))
            with pytest.raises(RuntimeError, match="awaited already"):
                await asked
        await asyncio.sleep(0)  # the place is given back in the loop's next turn
        assert before == (await limiter.usage("a"))[0].waiting == 0
        assert (await limiter.peek("a", 0)).debt_ticks <= limiter.limits[0].full

    asyncio.run(use())


def test_an_answer_ends_an_iterator_with_its_value(store: TableStore) -> None:
    """Drivers of coroutines, such as other event loops, read it there."""
    limiter = AsyncLimiter("5/s", store=store)
    asked = limiter.try_acquire("a")
    with pytest.raises(StopIteration) as sent:
        asked.send(None)
    assert sent.value.args == (sent.value.value,)
    for _ in range(3):
        with pytest.raises(StopIteration) as ended:
            next(limiter.try_acquire("a").__await__())
        assert isinstance(ended.value.value, Decision)
        assert str(ended.value) is not None
    assert remaining(limiter) == 1


def test_answers_are_freed_at_once(either_store: EitherStore) -> None:
    class Key(str):
        pass

    limiter = AsyncLimiter("100/s", store=either_store)
    key = Key("a")
    before = sys.getrefcount(key)
    for verb in VERBS:
        for _ in range(5):
            asyncio.run(inside(partial(lambda ask, _: ask(key), getattr(limiter, verb))))
    gc.collect()
    assert sys.getrefcount(key) == before


@pytest.mark.parametrize("verb", ANSWERED)
def test_a_forgotten_await_of_a_keeper_allows_nothing(verb: str, either_store: EitherStore) -> None:
    keeper = AsyncKeeper(Policy((Rule("r", TokenBucket(3, 1)),)), either_store)
    asked = getattr(keeper, verb)({})
    with pytest.raises(TypeError, match=f"{verb} has no answer before it is awaited"):
        bool(asked)
    assert asyncio.run(asked)
