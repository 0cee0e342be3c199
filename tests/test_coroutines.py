"""Coroutines that are run without an event loop."""

from __future__ import annotations

import asyncio

import pytest

from ratekeeper.coroutines import begin, run_sync


def test_a_coroutine_that_suspends_is_an_error_that_names_it_and_what_it_holds_is_let_go() -> None:
    left = []

    async def waits() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            left.append("cleaned up")

    with pytest.raises(AssertionError, match=r"waits.* suspended without an event loop"):
        run_sync(waits())
    assert left == ["cleaned up"]


def test_what_a_coroutine_raises_is_raised() -> None:
    async def fails() -> None:
        raise KeyError("its own")

    with pytest.raises(KeyError, match="its own"):
        run_sync(fails())


def test_a_flow_that_was_begun_without_a_task_goes_on_in_one_as_if_nothing_had_been() -> None:
    async def flow(first: asyncio.Future[int], second: asyncio.Future[int]) -> list[object]:
        seen: list[object] = [await first]
        try:
            await second
        except KeyError as error:
            seen.append(str(error))
        await asyncio.sleep(0)
        return seen

    async def main() -> list[object]:
        loop = asyncio.get_running_loop()
        first, second = loop.create_future(), loop.create_future()
        rest = begin(flow(first, second))
        assert asyncio.iscoroutine(rest)
        loop.call_soon(first.set_result, 1)
        loop.call_soon(second.set_exception, KeyError("its own"))
        return await asyncio.create_task(rest)

    assert asyncio.run(main()) == [1, "'its own'"]


@pytest.mark.parametrize("steps", [0, 1])
def test_a_flow_that_was_begun_and_is_cancelled_cleans_up_also_before_the_first_step_of_its_task(steps: int) -> None:
    left = []

    async def flow() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            left.append("cleaned up")

    async def main() -> None:
        rest = begin(flow())
        assert asyncio.iscoroutine(rest)
        task = asyncio.create_task(rest)
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert left == ["cleaned up"]
