"""A decorator for Celery tasks that come back when it is their turn, instead of blocking a worker. It knows no store.

There are two buckets for each key. The limit's own is asked when a task is about to run, so the limit holds whatever
becomes of workers and messages: in any time t at most `capacity + refill_rate * t` tasks begin. The other is the line:
it has the same rate, and only tells each task that must wait when to come back, so each has a time of its own, in order
of arrival, and a thousand that wait do not come back at one instant. Who comes back and is refused after all, as when
the workers were down and many turns have passed, takes a new place in the line.

So nothing is charged before a task runs. A worker that dies loses what Celery lets it lose, and at worst a place in the
line stays empty.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, NoReturn, ParamSpec, TypeVar

from ratekeeper.clients.pacer import blocking_limiter
from ratekeeper.decision import Charge, combine, scope_of
from ratekeeper.errors import MissingExtraError, RatekeeperError
from ratekeeper.exceeded import RateLimitExceeded
from ratekeeper.limiter import AsyncLimiter, Limiter
from ratekeeper.limits import MAX_AHEAD_TICKS, Limit, checked_cost
from ratekeeper.stores.base import Store

try:
    from celery import current_task
    from celery.exceptions import Retry
except ModuleNotFoundError:
    raise MissingExtraError("ratekeeper.clients.celery", "celery") from None

P = ParamSpec("P")
R = TypeVar("R")

_RETURNED = "ratekeeper_returned"
"""The header of a message whose task has had its place in the line."""

_WAIT_HERE = 0.1
"""Seconds that are slept rather than sent through the broker, which would take as long."""


def rate_limit(
    limit: str | Limit | Limiter,
    *,
    store: Store | None = None,
    key: str | bytes | Callable[..., str | bytes] | None = None,
    cost: int | Callable[..., int] = 1,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a task begin only as often as a limit allows, on all workers together. Goes below `app.task`.

        @app.task
        @rate_limit("10/minute", store=RedisStore("redis://localhost"))
        def send(letter): ...

    A task whose turn has not come is sent to its queue again, to come back at its turn; its state is RETRY meanwhile.
    That is none of its own retries. Called without a worker, or by `task_always_eager`, it blocks until its turn.

    `store` is where the buckets live, and must be one for all workers. `limit` may be a `Limiter`, which has a store.
    `key` and `cost` are constants, or functions of the task's arguments; without a key, all runs of the task have one
    bucket. A cost that can never pass fails the task with `RateLimitExceeded`. A leaky bucket spaces tasks evenly; its
    capacity bounds nothing here, as the queue is the broker's.
    """
    turns = _Turns(_limiter_of(limit, store))
    if not callable(cost):
        checked_cost(cost)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        name = _name_of(function)  # also where it is not needed, as it sees to it that this is a function
        own_key = name if key is None else key

        @wraps(function)
        def limited(*args: P.args, **kwargs: P.kwargs) -> R:
            charged = own_key(*args, **kwargs) if callable(own_key) else own_key
            turns.take(charged, cost(*args, **kwargs) if callable(cost) else cost)
            return function(*args, **kwargs)

        limited.__signature__ = signature(function)  # type: ignore[attr-defined]  # Celery checks a call's arguments
        return limited

    return decorate


def _name_of(function: Callable[..., object]) -> str:
    if not callable(function) or hasattr(function, "apply_async"):
        raise TypeError("@rate_limit goes between @app.task and the function, not above @app.task")
    return f"{function.__module__}.{function.__qualname__}"


def _limiter_of(limit: str | Limit | Limiter, store: Store | None) -> Limiter:
    if isinstance(limit, Limiter | AsyncLimiter):
        if store is not None:
            raise TypeError("a Limiter has a store already: give either a limiter, or a limit and a store")
        return blocking_limiter(limit)
    if store is None:
        raise TypeError(
            "say where the buckets live, or each worker process would have its own: store=RedisStore(url) for workers "
            "on many hosts, SharedMemoryStore(name) for those of one host, MemoryStore() for a single process"
        )
    return Limiter(limit, store=store, name=str(limit))  # tasks of one limit and one key share a bucket on purpose


class _Turns:
    """A limiter, and the line of the tasks that wait for it."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._scopes = [scope_of(f"{limiter.name} (tasks in line)", place) for place in range(len(limiter.limits))]

    def take(self, key: str | bytes, cost: int) -> None:
        """Return if the current task may go ahead. Raises `Retry` if it has been sent off to come back later."""
        request = current_task.request if current_task else None
        if request is None or request.called_directly or request.is_eager:
            self._limiter.acquire(key, cost)
            return
        wait = 0.0 if request.get(_RETURNED) else self._place_in_line(key, cost)
        if wait <= _WAIT_HERE:
            try:
                self._limiter.acquire(key, cost, timeout=_WAIT_HERE)
            except RateLimitExceeded as refused:
                wait = max(refused.decision.retry_after, self._place_in_line(key, cost))
            else:
                return
        self._send_off(current_task, wait)

    def _place_in_line(self, key: str | bytes, cost: int) -> float:
        """Return in how many seconds a task that comes now has its turn. Raises `RateLimitExceeded` if it never has."""
        placed = zip(self._scopes, self._limiter.limits, strict=True)
        charges = [Charge.of(scope, key, limit, cost, None) for scope, limit in placed]
        endless = [charge._replace(tolerance=MAX_AHEAD_TICKS) for charge in charges]
        decision = combine(self._limiter.store.decide(endless))
        if decision.impossible:
            raise RateLimitExceeded(decision)
        return decision.delay if decision.allowed else decision.retry_after

    def _send_off(self, task: Any, wait: float) -> NoReturn:
        """Send the current task's message again. As `Task.retry` does, but this is none of the task's own retries."""
        request = task.request
        headers = {**(request.headers or {}), _RETURNED: True}
        task.signature_from_request(request, countdown=wait, retries=request.retries, headers=headers).apply_async()
        reason = f"over the limit of {self._limiter.name}: its turn comes in {wait:.3f} s"
        raise Retry(reason, exc=RatekeeperError(reason), when=wait)
