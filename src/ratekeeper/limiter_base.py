"""NamedLimits: the common base of both limiters: their limits, their name, and the charges of a request.

It must not ask a store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, Self

from ratekeeper.decision import Charge, Decision, scope_of
from ratekeeper.errors import why_no_name
from ratekeeper.forks import OfOneProcess
from ratekeeper.limits import DEFAULT_WAIT, Limit, Timeout, parse_limit
from ratekeeper.refund import claim_refund
from ratekeeper.stores.base import AsyncStore, Store
from ratekeeper.stores.spec import MEMORY
from ratekeeper.stores.unnamed import join_unnamed
from ratekeeper.usage import Usage


class NamedLimits(OfOneProcess):
    """Limits under a name. A subclass has the store and the verbs."""

    _instead = (
        "make one in each process. They share their limits if they have one name on one SharedMemoryStore or server"
    )
    _alike: Any

    def __init__(
        self, limits: tuple[Limit | str, ...], name: str | None, store: Store | AsyncStore | str | None
    ) -> None:
        if not limits:
            raise ValueError("a limiter needs at least one limit, such as TokenBucket(20, 5) or '100/minute'")
        self.limits = tuple(parse_limit(limit) if isinstance(limit, str) else limit for limit in limits)
        for limit in self.limits:
            if not isinstance(limit, Limit):
                raise TypeError(f"a limit must be a TokenBucket, a LeakyBucket or a string, not {limit!r}")
        if name is not None and (why := why_no_name(name)):
            raise (ValueError if isinstance(name, str) else TypeError)(why)
        self.name = " and ".join(map(str, self.limits)) if name is None else name
        self._opened = store is None or isinstance(store, str)  # so it is this limiter's to close
        if name is None and store is not None and store != MEMORY:
            self._unnamed = join_unnamed(store, self.name, stacklevel=3)
        self._scopes = tuple(scope_of(self.name, place) for place in range(len(self.limits)))
        self._charges = partial(_charges, self._scopes, self.limits)

    def with_limits(self, *limits: Limit | str) -> Self:
        """Return a limiter with other limits for the same buckets: its name and its store are this limiter's.

        So what a key owes stays if its limit changes. Use it where your code already knows a caller's limit. The
        limiters of the last 128 sets of limits are kept, so you may ask for one at each call.

        >>> from ratekeeper import Limiter
        >>> limiter = Limiter("100/minute", name="api")
        >>> limiter.try_acquire("alice", 60).remaining, limiter.with_limits("500/minute").peek("alice").remaining
        (40, 200)
        """
        kind: Any = type(self)
        alike = self._alike if all(isinstance(one, str | Limit) for one in limits) else kind
        other: Self = alike(*limits)
        return other

    def _keep_alike(self, store: Store | AsyncStore) -> None:
        # It does not refer to this limiter, as a cycle would keep a store alive.
        self._alike = lru_cache(maxsize=128)(partial(type(self), store=store, name=self.name))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.limits))}, name={self.name!r})"

    def _to_give_back(self, decision: Decision, cost: int | None) -> list[Charge]:
        """Return the charges that a refund gives back, and note that they are given."""
        if not isinstance(decision, Decision):
            raise TypeError(f"refund takes a decision of this limiter, not {type(decision).__name__}")
        if decision.limit not in self.limits:
            raise ValueError(f"this decision was made for another limiter: {decision.limit} is not among {self.limits}")
        given = claim_refund(decision, cost)
        return [charge for charge in self._charges(decision.key, given) if given and not charge.limit.queues]

    def _usage(self, looks: Sequence[Decision], waiting_at: Callable[[str, str | bytes], int]) -> list[Usage]:
        pairs = zip(self._scopes, looks, strict=True)
        return [Usage.of(str(look.limit), look, waiting_at(scope, look.key)) for scope, look in pairs]


def _charges(
    scopes: tuple[str, ...], limits: tuple[Limit, ...], key: str | bytes, cost: int, timeout: Timeout = DEFAULT_WAIT
) -> list[Charge]:
    bound = zip(scopes, limits, strict=True)
    return [Charge.of(scope, key, limit, cost, timeout) for scope, limit in bound]
