"""sweep(): remove all buckets of a scope from a server, in bounded steps. No I/O; it must not know clients.

A server finds names only by a look at all of them. So the work grows with all names on the server, whatever they are.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

STEP = 1000
"""Names that one SCAN looks at: the server does nothing else meanwhile, for a fraction of a millisecond."""


async def sweep(ask: Callable[..., Awaitable[Any]], nodes: Sequence[Any], pattern: bytes) -> None:
    """Unlink all names that match. `ask` sends a command; `nodes` are a cluster's primaries, or None for one server.

    SCAN returns each name that is there from the first step to the last. So each bucket is full at some moment of it.
    """
    for node in nodes:
        where = {} if node is None else {"target_nodes": node}
        cursor, begun = 0, False
        while cursor or not begun:
            begun = True
            answer, names = await ask("scan", cursor, match=pattern, count=STEP, **where)
            cursor = int(next(iter(answer.values())) if isinstance(answer, dict) else answer)
            if names:
                await ask("unlink", *names)
