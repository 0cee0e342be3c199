"""Changes by hand of several buckets or scopes of a store: written once for all limiters and keepers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from ratekeeper.adjustment import Adjustment
from ratekeeper.decision import Charge
from ratekeeper.errors import StoreError
from ratekeeper.limits import Limit
from ratekeeper.stores.base import AsyncStore


async def adjust_buckets(store: AsyncStore, charges: Sequence[Charge], adjust: Callable[[Limit], Adjustment]) -> None:
    """Change the bucket of each charge by the adjustment that `adjust` returns for its limit."""
    changes = [partial(store.adjust, charge.scope, charge.key, *adjust(charge.limit)) for charge in charges]
    await _make(store, changes, charges=charges)


async def reset_scopes(store: AsyncStore, scopes: Sequence[str]) -> None:
    """Forget all buckets of each scope."""
    await _make(store, [partial(store.reset_scope, scope) for scope in scopes], scopes=scopes)


async def _make(
    store: AsyncStore,
    changes: Sequence[Callable[[], Awaitable[None]]],
    charges: Sequence[Charge] = (),
    scopes: Sequence[str] = (),
) -> None:
    """Make changes in order. A `StoreError` says how many were made before it.

    In each case the wait queue gives up its spare ranges of these buckets: a change whose answer was lost may have been
    made, and then a newcomer must not take such a range.
    """
    made = 0
    try:
        for change in changes:
            await change()
            made += 1
    except StoreError as error:
        if made:
            error.args = (f"{error}; {made} of the {len(changes)} limits had been changed before",)
        raise
    finally:
        store.wait_queue.reset(charges, scopes)
