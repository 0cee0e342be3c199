"""Forks: state of a process that another must not use as it is: a forked child, or one that gets a pickle of it.

A fork copies one thread. A lock that another one holds is never released in the child, and waiters, calls under way and
the connections of an event loop are the parent's. This module knows nothing of that state.
"""

from __future__ import annotations

import os
from typing import ClassVar, NoReturn, Protocol
from weakref import WeakSet


class Forgetful(Protocol):
    """A part that can begin anew."""

    def forget(self) -> None: ...


class OfOneProcess:
    """An object that lives in one process. To pickle or copy it raises a TypeError, which says what to do instead."""

    _kind: ClassVar[str] = ""
    _instead: ClassVar[str]

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self._kind or type(self).__name__} cannot be pickled or copied: {self._instead}")


_parts: WeakSet[Forgetful] = WeakSet()


def forget_in_child(part: Forgetful) -> None:
    """Have a part forget, in a forked child, what is its parent's: locks that may be held above all."""
    _parts.add(part)


def _forget_all() -> None:
    for part in _parts:
        part.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
