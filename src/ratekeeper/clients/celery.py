"""A decorator for Celery tasks, which come back at their turn instead of blocking a worker. It knows no store.

There are two buckets for each key. The limit's own is asked when a task is about to run. So the limit holds whatever
happens to workers and messages: in any time t at most `capacity + refill_rate * t` tasks begin. The other has the same
rate, and gives turns: it tells each task that must wait when to come back. So tasks come back one by one, in order of
arrival. While no task comes back late by `capacity / refill_rate` or more, the limit's bucket is never full. So no
token is lost, and no task is refused. A task that comes back and is refused takes a new turn, behind all others. That
happens when the workers were busy or down.

So nothing is charged before a task runs. If a worker dies, Celery decides about its task, and at worst one turn stays
unused.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, NoReturn, ParamSpec, TypeVar, cast

from ratekeeper.clients.pacer import blocking_limiter, divided
from ratekeeper.decision import Charge, combine, scope_of
from ratekeeper.errors import MissingExtraError, RatekeeperError
from ratekeeper.exceeded import RateLimitExceeded
from ratekeeper.guard import Cost, Key, check_key_and_cost, cost_of_call, key_of_call
from ratekeeper.limiter import Limiter
from ratekeeper.limits import MAX_AHEAD_TICKS, Limit
from ratekeeper.stores.base import Store

try:
    from celery import current_task
    from celery.exceptions import Retry
except ModuleNotFoundError:
    raise MissingExtraError("ratekeeper.clients.celery", "celery") from None

P = ParamSpec("P")
R = TypeVar("R")

_RETURNED = "ratekeeper_returned"
"""The header of a message that was sent again, to come back at its turn."""

_WAIT_HERE = 0.1
"""The seconds that a task waits in its worker: a way through the broker would take as long."""


def rate_limit(
    *limits: str | Limit | Limiter,
    store: Store | None = None,
    key: Key | None = None,
    cost: Cost = 1,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that lets a task begin as often as limits allow, on all workers. It goes below `app.task`.

        @app.task
        @rate_limit("10/minute", store=RedisStore("redis://localhost"))
        def send(letter): ...

    A task before its turn is sent to its queue again, to come back at its turn. Its state is RETRY meanwhile. It does
    not count as a retry. Called without a worker, by `task_always_eager` or by another task, it blocks until its turn.

    `store` has the buckets, and must be the same for all workers. One `Limiter` may stand for the limits: it has its
    own store. `key` and `cost` are constants, or functions of the task's arguments. Such a function gets, by name, only
    the parameters that it names, as for `limiter.limit`. Without a key, all runs of the task have one bucket. A cost
    that can never pass fails the task with `RateLimitExceeded`. A leaky bucket spaces tasks evenly; its capacity bounds
    nothing here, as the broker has the queue.
    """
    check_key_and_cost("" if key is None else key, cost, "the task's arguments")
    turns = _Turns(_limiter_of(limits, store))

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        name = _name_of(function)  # also with a key: it raises for a task
        key_of, cost_of = key_of_call(name if key is None else key, function), cost_of_call(cost, function)

        @wraps(function)
        def limited(*args: P.args, **kwargs: P.kwargs) -> R:
            turns.take(key_of(*args, **kwargs), cost_of(*args, **kwargs), limited)
            return function(*args, **kwargs)

        limited.__signature__ = signature(function)  # type: ignore[attr-defined]  # Celery checks a call's arguments
        return limited

    return decorate


def _name_of(function: Callable[..., object]) -> str:
    if not callable(function) or hasattr(function, "apply_async"):
        raise TypeError("@rate_limit goes between @app.task and the function, not above @app.task")
    return f"{function.__module__}.{function.__qualname__}"


def _limiter_of(limits: tuple[str | Limit | Limiter, ...], store: Store | None) -> Limiter:
    own, given = divided(limits)
    if given is not None:
        if store is not None:
            raise TypeError("a Limiter has its own store: give either a Limiter, or limits and a store")
        return blocking_limiter(given)
    if store is None:
        raise TypeError(
            "give a store, or each worker process would have its own buckets: store=RedisStore(url) for workers on "
            "many hosts, SharedMemoryStore(name) for workers of one host, MemoryStore() for a single process"
        )
    name = " and ".join(map(str, own))  # by intent, tasks of the same limits and the same key share a bucket
    return Limiter(*own, store=store, name=name)


def _runs(task: Any, function: Callable[..., object]) -> bool:
    """Return whether a function is a task's own. A task that calls another's has begun: it must not be sent again."""
    run = task.run
    while run is not None and getattr(run, "__func__", run) is not function:
        run = getattr(run, "__wrapped__", None)
    return run is not None


class _Turns:
    """A limiter, and the turns of the tasks that wait for it."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._scopes = [scope_of(f"{limiter.name} (turns of tasks)", index) for index in range(len(limiter.limits))]

    def take(self, key: str | bytes, cost: int, function: Callable[..., object]) -> None:
        """Return if the current task may begin. Raises `Retry` if it was sent again, to come back later."""
        request = cast("Any", current_task).request if current_task and _runs(current_task, function) else None
        if request is None or request.called_directly or request.is_eager:
            self._limiter.acquire(key, cost)
            return
        wait = 0.0 if request.get(_RETURNED) else self._seconds_to_turn(key, cost)
        if wait <= _WAIT_HERE:
            try:
                self._limiter.acquire(key, cost, timeout=_WAIT_HERE)
            except RateLimitExceeded as refused:
                wait = max(refused.decision.retry_after, self._seconds_to_turn(key, cost))
            else:
                return
        self._send_again(current_task, wait)

    def _seconds_to_turn(self, key: str | bytes, cost: int) -> float:
        """Take a turn. Return the seconds until then. Raises `RateLimitExceeded` if it never comes."""
        pairs = zip(self._scopes, self._limiter.limits, strict=True)
        charges = [Charge.of(scope, key, limit, cost, None) for scope, limit in pairs]
        endless = [charge._replace(tolerance=MAX_AHEAD_TICKS) for charge in charges]
        decision = combine(self._limiter.store.decide(endless))
        if decision.impossible:
            raise RateLimitExceeded(decision)
        return decision.delay if decision.allowed else decision.retry_after

    def _send_again(self, task: Any, wait: float) -> NoReturn:
        """Send the current task's message again, as `Task.retry` does. It does not count as a retry of the task."""
        request = task.request
        headers = {**(request.headers or {}), _RETURNED: True}
        task.signature_from_request(request, countdown=wait, retries=request.retries, headers=headers).apply_async()
        reason = f"over the limit of {self._limiter.name}: its turn comes in {wait:.3f} s"
        raise Retry(reason, exc=RatekeeperError(reason), when=wait)
