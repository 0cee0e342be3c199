"""Coroutines that are run without an event loop."""

from __future__ import annotations

import asyncio

import pytest

from ratekeeper.coroutines import run_sync


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
