"""Guard: a limiter around a function or a block. It knows how a limiter takes a turn, nothing else."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, ParamSpec, TypeAlias, TypeVar, cast

from ratekeeper.decision import Decision
from ratekeeper.limits import Timeout, checked_cost

P = ParamSpec("P")
R = TypeVar("R")

Key: TypeAlias = str | bytes | Callable[..., str | bytes]
Cost: TypeAlias = int | Callable[..., int]


class Guard:
    """Charge a limiter before each call of a function, or on entering a block.

    Raises `RateLimitExceeded` instead of going ahead when the limiter refuses. Waits for its turn up to `timeout`
    seconds, None for as long as it takes; by default a token bucket's caller does not wait, and a leaky bucket's does.
    `key` and `cost` are constants or, around a function, may be functions of its arguments.

        @limiter.limit(key=lambda user, text: user, cost=lambda user, text: len(text))
        def send(user: str, text: str) -> None: ...

        with limiter.limit("nightly job") as decision: ...

    A `Limiter` guards functions and async functions, `with` and `async with`; an `AsyncLimiter` only the async ones.
    """

    def __init__(
        self,
        take_turn_async: Callable[[str | bytes, int, Timeout], Awaitable[Decision]],
        take_turn: Callable[[str | bytes, int, Timeout], Decision] | None,
        key: Key,
        cost: Cost,
        timeout: Timeout,
    ) -> None:
        if not isinstance(key, str | bytes) and not callable(key):
            raise TypeError(f"key must be str, bytes, or a function of the arguments that returns one, not {key!r}")
        if not callable(cost):
            checked_cost(cost)
        self._take_turn_async = take_turn_async
        self._take_turn = take_turn  # None: it must not block a thread
        self._key = key
        self._cost = cost
        self._timeout = timeout

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        if not callable(function):
            raise TypeError("write @limiter.limit(key=...): without a key the function would be taken for one")
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def guarded_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                await self._take_turn_async(*self._asked(args, kwargs))
                return await function(*args, **kwargs)

            return cast("Callable[P, R]", guarded_async)
        take_turn = self._blocking(f"{function!r} is not an async function")

        @wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            take_turn(*self._asked(args, kwargs))
            return function(*args, **kwargs)

        return guarded

    def __enter__(self) -> Decision:
        return self._blocking("use 'async with'")(*self._asked_by_block())

    def __exit__(self, *exception: object) -> None:
        pass

    async def __aenter__(self) -> Decision:
        return await self._take_turn_async(*self._asked_by_block())

    async def __aexit__(self, *exception: object) -> None:
        pass

    def _asked(self, args: tuple[object, ...], kwargs: dict[str, object]) -> tuple[str | bytes, int, Timeout]:
        key = self._key(*args, **kwargs) if callable(self._key) else self._key
        cost = self._cost(*args, **kwargs) if callable(self._cost) else self._cost
        return key, cost, self._timeout

    def _asked_by_block(self) -> tuple[str | bytes, int, Timeout]:
        if callable(self._key) or callable(self._cost):
            raise TypeError("a block has no arguments: give limit() a key and a cost, not functions")
        return self._key, self._cost, self._timeout

    def _blocking(self, reason: str) -> Callable[[str | bytes, int, Timeout], Decision]:
        if self._take_turn is None:
            raise TypeError(f"an AsyncLimiter does not block a thread: {reason}")
        return self._take_turn
