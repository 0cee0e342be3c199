"""The names here for the verbs of other libraries. This module knows no limiter and no keeper.

`__getattr__` would do it too, but it makes every look-up on a type slow: on Python 3.11, a call of any verb would take
twice the time.
"""

from __future__ import annotations

from inspect import getattr_static
from typing import NoReturn, TypeVar

T = TypeVar("T", bound=type)

VERBS = {
    "hit": "try_acquire",
    "allow": "try_acquire",
    "allowed": "try_acquire",
    "allow_request": "try_acquire",
    "is_allowed": "try_acquire",
    "is_ratelimited": "try_acquire",
    "check": "try_acquire",
    "consume": "try_acquire",
    "try_consume": "try_acquire",
    "throttle": "try_acquire",
    "try_acquire_async": "try_acquire of AsyncLimiter or AsyncKeeper",
    "acquire_async": "acquire of AsyncLimiter or AsyncKeeper",
    "wait": "acquire",
    "test": "peek",
    "has_capacity": "peek",
    "get_window_stats": "usage",
    "get_remaining": "usage",
    "remaining": "usage",
    "release": "refund",
    "clear": "reset",
}
"""The verbs of limits, pyrate-limiter, aiolimiter, throttled-py, token-bucket and others, and ours."""


def with_hints(kind: T) -> T:
    """Return a class whose AttributeError for another library's verb names ours."""
    for verb, ours in VERBS.items():
        if not hasattr(kind, verb):
            setattr(kind, verb, _Missing(verb, ours))
    setattr(kind, "__dir__", _own_names)  # noqa: B010  no completion may offer them
    return kind


def _own_names(of: object) -> list[str]:
    return [name for name in object.__dir__(of) if not isinstance(getattr_static(of, name, None), _Missing)]


class _Missing:
    """An attribute that a class does not have: to get it raises AttributeError, so `hasattr` is false."""

    def __init__(self, name: str, ours: str) -> None:
        self._name = name
        self._ours = ours

    def __get__(self, obj: object, kind: type) -> NoReturn:
        # Without `obj=None`, a traceback would add a name that only looks alike.
        raise AttributeError(f"{kind.__name__} has no {self._name!r}: use {self._ours}", name=self._name, obj=None)
