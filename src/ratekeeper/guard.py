"""Guard: a limiter around a function or a block. It knows how a limiter takes a turn, nothing else."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial, wraps
from inspect import Parameter, Signature
from typing import Any, ParamSpec, TypeAlias, TypeVar, cast

from ratekeeper.coroutines import is_async_function
from ratekeeper.decision import Decision
from ratekeeper.errors import did_you_mean
from ratekeeper.limits import DEFAULT_WAIT, Timeout, checked_cost, wait_ticks

P = ParamSpec("P")
R = TypeVar("R")

Key: TypeAlias = str | bytes | Callable[..., str | bytes]
Cost: TypeAlias = int | Callable[..., int]

_SPREAD = frozenset({Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD})
_BY_PLACE = frozenset({Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD})


class Guard:
    """Charge a limiter before each call of a function, or on entering a block.

    Raise `RateLimitExceeded` instead of going ahead when the limiter refuses. The guard waits for its turn up to
    `timeout` seconds; None has no bound. By default a token bucket's caller does not wait, and a leaky bucket's does.
    `key` and `cost` are constants or, around a function, functions of its arguments. Such a function gets, by name,
    only the parameters that it names.

        @limiter.limit(key=lambda user: user, cost=lambda text: len(text))
        def send(user: str, text: str) -> None: ...

        with limiter.limit("nightly job") as decision: ...

    A function with `*args` or `**kwargs`, a class, or a builtin such as `str` gets all arguments of the call.

    A `Limiter` guards functions and async functions, `with` and `async with`; an `AsyncLimiter` only the async ones.
    """

    def __init__(
        self,
        take_turn_async: Callable[[str | bytes, int, Timeout], Awaitable[Decision]],
        take_turn: Callable[[str | bytes, int, Timeout], Decision] | None,
        key: Key,
        cost: Cost,
        timeout: Timeout,
        check_async: Callable[[], object] = lambda: None,
    ) -> None:
        check_key_and_cost(key, cost, "the arguments")
        if timeout is not DEFAULT_WAIT:
            wait_ticks(timeout)  # a bad one is an error now, not at the first call that has to wait
        self._take_turn_async = take_turn_async
        self._take_turn = take_turn  # None: it must not block a thread
        self._check_async = check_async  # raises TypeError if async code must not be guarded
        self._key = key
        self._cost = cost
        self._timeout = timeout

    def __repr__(self) -> str:
        # A key is a secret.
        key, cost = (_name(ask) if callable(ask) else repr(ask) for ask in (self._key, self._cost))
        timeout = "" if self._timeout is DEFAULT_WAIT else f", timeout={self._timeout!r}"
        return f"Guard(key={key if callable(self._key) else '...'}, cost={cost}{timeout})"

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        _check_function(function)
        key_of, cost_of, timeout = key_of_call(self._key, function), cost_of_call(self._cost, function), self._timeout
        if is_async_function(function):
            take_turn_async = self._awaiting()

            @wraps(function)
            async def guarded_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                await take_turn_async(key_of(*args, **kwargs), cost_of(*args, **kwargs), timeout)
                return await cast("Awaitable[Any]", function(*args, **kwargs))

            return cast("Callable[P, R]", guarded_async)
        take_turn = self._blocking(f"{_name(function)}() is not an async function")

        @wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            take_turn(key_of(*args, **kwargs), cost_of(*args, **kwargs), timeout)
            return function(*args, **kwargs)

        return guarded

    def __enter__(self) -> Decision:
        return self._blocking("use 'async with'")(*self._asked_by_block())

    def __exit__(self, *exception: object) -> None:
        pass

    async def __aenter__(self) -> Decision:
        return await self._awaiting()(*self._asked_by_block())

    async def __aexit__(self, *exception: object) -> None:
        pass

    def _asked_by_block(self) -> tuple[str | bytes, int, Timeout]:
        if callable(self._key) or callable(self._cost):
            raise TypeError("a block has no arguments: give limit() a key and a cost, not functions")
        return self._key, self._cost, self._timeout

    def _blocking(self, reason: str) -> Callable[[str | bytes, int, Timeout], Decision]:
        if self._take_turn is None:
            raise TypeError(f"an AsyncLimiter does not block a thread: {reason}")
        return self._take_turn

    def _awaiting(self) -> Callable[[str | bytes, int, Timeout], Awaitable[Decision]]:
        self._check_async()
        return self._take_turn_async


def check_key_and_cost(key: object, cost: Cost, arguments: str) -> None:
    """Raise for a key or a cost that is neither a constant nor a function. `arguments` names a function's arguments."""
    if not isinstance(key, str | bytes) and not callable(key):
        raise TypeError(
            f"key must be str, bytes, or a function of {arguments} that returns one, not {type(key).__name__}"
        )
    if not callable(cost):
        checked_cost(cost)
    for role, ask in (("key", key), ("cost", cost)):
        if is_async_function(ask):
            raise TypeError(f"the {role} function must not be async: nothing awaits it")


def key_of_call(key: Key, function: Callable[..., object]) -> Callable[..., str | bytes]:
    """Return a function that is called as `function` is, and returns the call's key. See `_of_call`.

    Raise TypeError for a constant key that is the name of a parameter: its caller meant the argument.
    """
    offered = _signature(function)
    if isinstance(key, str) and offered is not None and key in offered.parameters:
        raise TypeError(
            f"key={key!r} is the key itself, one for all calls; {_name(function)}() has a parameter {key!r}: "
            f"write key=lambda {key}: {key}"
        )
    return _of_call(key, function, "key")


def cost_of_call(cost: Cost, function: Callable[..., object]) -> Callable[..., int]:
    """Return a function that is called as `function` is, and returns the call's cost. See `_of_call`."""
    return _of_call(cost, function, "cost")


def value_of(ask: Callable[..., Any], role: str, /, *args: Any, **kwargs: Any) -> Any:
    """Call a key or a cost function of the user. Raise TypeError, which names it, if it returns neither."""
    value = ask(*args, **kwargs)
    if isinstance(value, str | bytes) if role == "key" else hasattr(type(value), "__index__"):
        return value
    right = "str or bytes" if role == "key" else "a whole number of tokens"
    mend = ": return str(...) of it" if role == "key" and isinstance(value, int) else ""
    raise TypeError(f"the {role} function {_name(ask)}() must return {right}, not {type(value).__name__}{mend}")


def _check_function(function: object) -> None:
    """Raise TypeError for an object that a decorator cannot guard, and say what to do instead."""
    if isinstance(function, type):
        raise TypeError(
            f"limit() guards functions, not the class {function.__name__}: put it on a method, such as __init__"
        )
    if isinstance(function, staticmethod) or (not callable(function) and hasattr(type(function), "__get__")):
        raise TypeError(f"limit() guards functions: put it below @{type(function).__name__}, not above")
    if inspect.isasyncgenfunction(function):
        how = "write `async with limiter.limit(...):` in it"
        raise TypeError(
            f"limit() guards functions, not the async generator {_name(function)}: its call cannot wait: {how}"
        )
    if not callable(function):
        raise TypeError("write @limiter.limit(key=...): without a key the function would be taken for the key")


def _of_call(ask: object, function: Callable[..., object], role: str) -> Callable[..., Any]:
    """Return a key or a cost as a function of the arguments of `function`.

    Raise TypeError if it names a parameter that `function` does not have.
    """
    if isinstance(ask, str | bytes) or not callable(ask):
        return lambda *args, **kwargs: ask
    wanted, offered = _signature(ask), _signature(function)
    if wanted is None or offered is None or not _SPREAD.isdisjoint(one.kind for one in wanted.parameters.values()):
        return partial(value_of, ask, role)
    open_to = {one.kind for one in offered.parameters.values()} & _SPREAD
    has = {name for name, one in offered.parameters.items() if one.kind not in _SPREAD}
    unknown = [name for name, one in wanted.parameters.items() if name not in has and one.default is Parameter.empty]
    if unknown and open_to == _SPREAD:  # its parameters tell nothing of its arguments
        return partial(value_of, ask, role)
    if unknown and Parameter.VAR_KEYWORD not in open_to:
        hint = did_you_mean(unknown[0], has) if has else ", which has none"
        raise TypeError(f"the {role} function names {unknown[0]!r}, not a parameter of {_name(function)}(){hint}")
    return _picking(partial(value_of, ask, role), wanted, offered, _name(function))


def _picking(ask: Callable[..., Any], wanted: Signature, offered: Signature, called: str) -> Callable[..., Any]:
    """Return a function that calls `ask` with the arguments that it names.

    The names are found once: to bind each call by `inspect` takes many times as long as a decision. A call may lack
    arguments that `ask` does not want, as another decorator may add them.
    """
    by_place = [name for name, one in offered.parameters.items() if one.kind in _BY_PLACE]
    places = {name: place for place, name in enumerate(by_place)}
    defaults = {name: one.default for name, one in (wanted.parameters | offered.parameters).items()}
    picks = [(name, places.get(name, len(places)), defaults[name]) for name in wanted.parameters]
    by_name = frozenset(name for name, one in wanted.parameters.items() if one.kind is Parameter.KEYWORD_ONLY)

    def asked(*args: Any, **kwargs: Any) -> Any:
        found, named = [], {}
        for name, place, default in picks:
            value = args[place] if place < len(args) and name in places else kwargs.get(name, default)
            if value is Parameter.empty:
                raise TypeError(f"{called}() missing the argument {name!r}, of which the limiter's key or cost is made")
            if name in by_name:
                named[name] = value
            else:
                found.append(value)
        return ask(*found, **named)

    return asked


def _signature(function: Callable[..., object]) -> Signature | None:
    """Return the signature of a function written in Python, or None: other functions' names mean nothing to people."""
    written: object = function
    while isinstance(written, partial):
        written = written.func
    try:
        written = inspect.unwrap(cast("Callable[..., object]", written))
        if not inspect.isroutine(written) and not isinstance(written, type):
            written = getattr(type(written), "__call__", None)  # noqa: B004  an object that can be called
        return inspect.signature(function) if inspect.isfunction(written) or inspect.ismethod(written) else None
    except (TypeError, ValueError):  # it says something of its signature that cannot be
        return None


def _name(function: object) -> str:
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "__qualname__", type(function).__name__)
