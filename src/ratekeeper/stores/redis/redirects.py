"""Redirects: what a cluster's node says of a slot that has moved, or is being moved. Sends nothing.

MOVED     the slot is another node's now, for good: the client's map of the cluster is old
ASK       the slot is being moved, and this bucket is not here (any more): for this once, ask there
TRYAGAIN  of several buckets, some are here and some there, or none is anywhere yet: nobody can decide now

All three say that nothing was executed, so a request that is sent on is charged once. Client libraries follow them too,
but not well enough for this: `redis.asyncio` sends ASKING and the command over different connections, so the command is
sent back, and the ASKING stays behind for a stranger, who may find a full bucket where it must not look at all. And a
TRYAGAIN is tried sixteen times, with sleeps between.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ratekeeper.errors import StoreUnavailable
from ratekeeper.stores.redis.connect import Link
from ratekeeper.stores.redis.faults import Faults

MOST = 3
"""Nodes that one request is sent to: an old map's, the slot's, and the one that the slot is moving to."""


class Hop(NamedTuple):
    """A node of a cluster, its name, and whether the request is to say that it was sent there by an ASK."""

    node: Any
    name: str
    asking: bool = False

    @classmethod
    def to(cls, node: Any, asking: bool = False) -> Hop:
        return cls(node, str(getattr(node, "name", "")), asking)


SINGLE = Hop(None, "")
"""To the only server that there is."""


class Redirects:
    """Where to send next. `stale`: the map of the cluster is to be read anew before the next request."""

    def __init__(self, link: Link, faults: Faults) -> None:
        self._link = link
        self._faults = faults
        self.stale = False

    def after(self, error: StoreUnavailable) -> Hop | None:
        """Return where a request is to go that has ended with this error. None: nowhere, it is decided without."""
        cause = error.__cause__
        if cause is None or isinstance(cause, self._faults.try_again):  # not asked at all; or asked the right node
            return None
        redirected = isinstance(cause, self._faults.ask)
        moved = isinstance(cause, self._faults.moved)  # which is a kind of the other
        if moved or not redirected:  # who does not answer may have been replaced
            self.stale = True
        if not redirected:
            return None
        where: Any = cause
        node = self._link.client().get_node(where.host, where.port)
        return None if node is None else Hop.to(node, asking=not moved)
