"""What the verbs of other libraries are called here. It knows no limiter and no keeper.

`__getattr__` would say it too, but a type that has one is looked up slowly: on Python 3.11, a call of any verb would
take twice the time.
"""

from __future__ import annotations

from typing import NoReturn, TypeVar

T = TypeVar("T", bound=type)

VERBS = {
    "hit": "try_acquire",
    "allow": "try_acquire",
    "allowed": "try_acquire",
    "is_allowed": "try_acquire",
    "consume": "try_acquire",
    "check": "try_acquire",
    "test": "peek",
    "get_window_stats": "usage",
    "clear": "reset",
}
"""The verbs of limits, token-bucket and others, and ours."""


def with_hints(kind: T) -> T:
    """Return a class whose AttributeError for another library's verb names ours."""
    for verb, ours in VERBS.items():
        setattr(kind, verb, _Missing(verb, ours))
    return kind


class _Missing:
    """An attribute that a class has not: to get it raises AttributeError, so `hasattr` is false."""

    def __init__(self, name: str, ours: str) -> None:
        self._name = name
        self._ours = ours

    def __get__(self, obj: object, kind: type) -> NoReturn:
        # Without `obj=None`, a traceback would add a name that only looks alike.
        raise AttributeError(f"{kind.__name__} has no {self._name!r}: use {self._ours}", name=self._name, obj=None)
