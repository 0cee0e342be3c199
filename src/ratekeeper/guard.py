"""Guard: a limiter around a function or a block. It knows a limiter's gate and how it waits, nothing else."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar, cast

from ratekeeper.decision import Decision

if TYPE_CHECKING:
    from ratekeeper.limiter import _Bound

P = ParamSpec("P")
R = TypeVar("R")

Key: TypeAlias = str | bytes | Callable[..., str | bytes]
Cost: TypeAlias = int | Callable[..., int]


class Guard:
    """Charge a limiter before each call of a function, or on entering a block.

    Raises `RateLimitExceeded` instead of going ahead when the limiter refuses; a leaky bucket's caller sleeps until its
    turn. `key` and `cost` are constants or, around a function, may be functions of its arguments.

        @limiter.limit(key=lambda user, text: user, cost=lambda user, text: len(text))
        def send(user: str, text: str) -> None: ...

        with limiter.limit("nightly job") as decision: ...

    A `Limiter` guards functions and async functions, `with` and `async with`; an `AsyncLimiter` only the async ones.
    """

    def __init__(self, limiter: _Bound, key: Key, cost: Cost, asynchronous: bool) -> None:
        if not isinstance(key, str | bytes) and not callable(key):
            raise TypeError(f"key must be str, bytes, or a function of the arguments that returns one, not {key!r}")
        self._limiter = limiter
        self._key = key
        self._cost = cost
        self._asynchronous = asynchronous

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def guarded_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                await self._limiter._take_turn_async(self._ask(args, kwargs))
                return await function(*args, **kwargs)

            return cast("Callable[P, R]", guarded_async)
        self._refuse_blocking(f"{function!r} is not an async function")

        @wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            self._limiter._take_turn(self._ask(args, kwargs))
            return function(*args, **kwargs)

        return guarded

    def __enter__(self) -> Decision:
        self._refuse_blocking("use 'async with'")
        return self._limiter._take_turn(self._ask_block())

    def __exit__(self, *exception: object) -> None:
        pass

    async def __aenter__(self) -> Decision:
        return await self._limiter._take_turn_async(self._ask_block())

    async def __aexit__(self, *exception: object) -> None:
        pass

    def _ask(self, args: tuple[object, ...], kwargs: dict[str, object]) -> Decision:
        key = self._key(*args, **kwargs) if callable(self._key) else self._key
        cost = self._cost(*args, **kwargs) if callable(self._cost) else self._cost
        return self._limiter._gate.try_acquire(key, cost)

    def _ask_block(self) -> Decision:
        if callable(self._key) or callable(self._cost):
            raise TypeError("a block has no arguments: give limit() a key and a cost, not functions")
        return self._ask((), {})

    def _refuse_blocking(self, reason: str) -> None:
        if self._asynchronous:
            raise TypeError(f"an AsyncLimiter does not block a thread: {reason}")
