"""Forks: state of a process that its forked child must not use as it is. Knows nothing of that state.

A fork copies one thread. A lock that another one holds is never released in the child, and waiters, calls under way and
the connections of an event loop are the parent's.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Forgetful(Protocol):
    """A part that can begin anew."""

    def forget(self) -> None: ...


_parts: WeakSet[Forgetful] = WeakSet()


def forget_in_child(part: Forgetful) -> None:
    """Have a part forget, in a forked child, what is its parent's: locks that may be held above all."""
    _parts.add(part)


def _forget_all() -> None:
    for part in _parts:
        part.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
