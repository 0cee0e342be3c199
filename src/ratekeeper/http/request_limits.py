"""RequestLimits and AsyncRequestLimits: the limits of the request under way, for the application's code.

Each is one object without a state: it finds the request as an endpoint's limit does. So a request makes none, and
nothing keeps a request alive.
"""

from __future__ import annotations

from ratekeeper.adjustment import Until
from ratekeeper.coroutines import pending
from ratekeeper.errors import did_you_mean
from ratekeeper.http.exchange import Exchange, combined, current
from ratekeeper.policy.decision import PolicyDecision
from ratekeeper.usage import Usage


class _Limits:
    """The common part of both."""

    __slots__ = ()

    def _exchange(self) -> Exchange:
        """Return the request: the one that is under way."""
        return current()

    @property
    def decisions(self) -> tuple[PolicyDecision, ...]:
        """The decisions about the request so far: that of the policy, and then those of its endpoint's limits."""
        return tuple(self._exchange().decisions)

    @property
    def decision(self) -> PolicyDecision:
        """The decisions about the request as one, as the headers tell them: true if no limit has refused."""
        return combined(self._exchange().decisions)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class RequestLimits(_Limits):
    """The limits of the request under way. Raises RuntimeError outside a request.

    The verbs are a keeper's, for all limits that have decided the request: the policy's and its endpoint's. Shadow
    rules belong to them. A decision stays as it was made, and so do the headers, but after `refund`.
    """

    __slots__ = ()

    def usage(self) -> list[Usage]:
        """Return how much of each limit is used, by the key of this request."""
        exchange = self._exchange()
        return exchange.limiter.run(exchange, _usage(exchange))

    def peek(self) -> PolicyDecision:
        """Return the decision that the same request would get now. Charge nothing."""
        exchange = self._exchange()
        return exchange.limiter.run(exchange, _peek(exchange))

    def refund(self) -> None:
        """Give back the request's charges, less the tokens that have refilled since. Give nothing back twice."""
        exchange = self._exchange()
        exchange.limiter.run(exchange, exchange.limiter.refund_async(exchange))

    def reset(self) -> None:
        """Forget the debts of the request's buckets: they are full again."""
        exchange = self._exchange()
        exchange.limiter.run(exchange, _reset(exchange))

    def grant(self, tokens: int, rule: str) -> None:
        """Give the request's bucket of a rule that many tokens, up to a full bucket: see `Limiter.grant`."""
        exchange = self._exchange()
        exchange.limiter.run(exchange, _adjust(exchange, "grant", rule, tokens))

    def block(self, until: Until, rule: str) -> None:
        """Refuse all requests of the request's bucket of a rule until then: see `Limiter.block`."""
        exchange = self._exchange()
        exchange.limiter.run(exchange, _adjust(exchange, "block", rule, until))

    def unblock(self, rule: str) -> None:
        """End a block of the request's bucket of a rule: see `Limiter.unblock`."""
        exchange = self._exchange()
        exchange.limiter.run(exchange, _adjust(exchange, "unblock", rule))


class AsyncRequestLimits(_Limits):
    """`RequestLimits` for asynchronous frameworks: the same verbs, awaited."""

    __slots__ = ()

    async def usage(self) -> list[Usage]:
        """As `RequestLimits.usage`."""
        return await _usage(self._exchange())

    @pending
    async def peek(self) -> PolicyDecision:
        """As `RequestLimits.peek`."""
        return await _peek(self._exchange())

    async def refund(self) -> None:
        """As `RequestLimits.refund`."""
        exchange = self._exchange()
        await exchange.limiter.refund_async(exchange)

    async def reset(self) -> None:
        """As `RequestLimits.reset`."""
        await _reset(self._exchange())

    async def grant(self, tokens: int, rule: str) -> None:
        """As `RequestLimits.grant`."""
        await _adjust(self._exchange(), "grant", rule, tokens)

    async def block(self, until: Until, rule: str) -> None:
        """As `RequestLimits.block`."""
        await _adjust(self._exchange(), "block", rule, until)

    async def unblock(self, rule: str) -> None:
        """As `RequestLimits.unblock`."""
        await _adjust(self._exchange(), "unblock", rule)


LIMITS = RequestLimits()
ASYNC_LIMITS = AsyncRequestLimits()


class _Kept:
    """The request that is under way no more. It is kept here: only for streams, and after errors."""

    __slots__ = ("_kept",)

    def __init__(self, exchange: Exchange) -> None:
        self._kept = exchange

    def _exchange(self) -> Exchange:
        return self._kept


class KeptLimits(_Kept, RequestLimits):
    """The limits of a request whose response is sent after its call: the body may still use them."""

    __slots__ = ()


class AsyncKeptLimits(_Kept, AsyncRequestLimits):
    """`KeptLimits` for asynchronous frameworks."""

    __slots__ = ()


async def _usage(exchange: Exchange) -> list[Usage]:
    found: list[Usage] = []
    for keeper, attributes, _ in exchange.all_asked():
        found += await exchange.limiter.call(keeper.usage, attributes)
    return found


async def _peek(exchange: Exchange) -> PolicyDecision:
    call, asked = exchange.limiter.call, exchange.all_asked()
    return combined([await call(keeper.peek, attributes, cost) for keeper, attributes, cost in asked])


async def _adjust(exchange: Exchange, verb: str, rule: str, *args: object) -> None:
    """Call a verb of the keeper that has a rule. Raise ValueError if no limit of the request has this name."""
    known: list[str] = []
    for keeper, attributes, _ in exchange.all_asked():
        names = [one.name for one in keeper.policy.rules]
        if rule in names:
            await exchange.limiter.call(getattr(keeper, verb), attributes, *args, rule)
            return
        known += names
    hint = did_you_mean(str(rule), known) if known else ": no limit has decided it"
    raise ValueError(f"no limit of this request is named {rule!r}{hint}")


async def _reset(exchange: Exchange) -> None:
    for keeper, attributes, _ in exchange.all_asked():
        await exchange.limiter.call(keeper.reset, attributes)
