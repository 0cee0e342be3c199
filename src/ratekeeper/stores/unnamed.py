"""A warning for limiters without a name that share buckets by accident.

This file must not know limiters, nor keep a store alive.
"""

from __future__ import annotations

import threading
import warnings
from weakref import WeakValueDictionary

from ratekeeper.forks import forget_in_child


class Unnamed:
    """The living limiters with the same limits on one store. Each of them holds this object, and nothing else does."""

    __slots__ = ("__weakref__", "warned")

    def __init__(self) -> None:
        self.warned = False


class _Groups:
    """All of them."""

    def __init__(self) -> None:
        self.alike: WeakValueDictionary[tuple[object, str], Unnamed] = WeakValueDictionary()
        self.forget()
        forget_in_child(self)

    def forget(self) -> None:
        """Have a free lock. A signal handler of the same thread may make a limiter too."""
        self.lock = threading.RLock()


_groups = _Groups()


def join_unnamed(store: object, text: str, stacklevel: int) -> Unnamed:
    """Return the object that a limiter without a name must hold. Warns if another limiter holds it already.

    `store` is the store that the limiter was given, or the string that names it.
    """
    where = store if isinstance(store, str) else id(store)  # each limiter keeps its store, so the id is not used again
    with _groups.lock:
        group = _groups.alike.get((where, text))
        if group is None:
            _groups.alike[where, text] = group = Unnamed()
            return group
        warn, group.warned = not group.warned, True
    if warn:
        warnings.warn(
            f"two limiters without a name have the limits {text!r} on one store, so they share their buckets, and each "
            "counts the requests of both. Give each its own name=, or both the same one if they are to share",
            stacklevel=stacklevel + 1,
        )
    return group
