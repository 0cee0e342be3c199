"""Core: the decisions that every protocol of the service asks for. Knows no protocol, no connection and no server.

An answer comes at once if the store is local and nobody has to wait. Then no task and no loop is needed. Otherwise the
answer is a coroutine, which the protocol hands to its channel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ratekeeper.coroutines import begin
from ratekeeper.errors import RatekeeperError
from ratekeeper.http.exchange import Exchange
from ratekeeper.http.header_styles import DEFAULT, HeaderStyles
from ratekeeper.http.limiter import REFUSALS, AwaitedCharge
from ratekeeper.http.request_policy import RequestPolicy
from ratekeeper.policy.async_keeper import AsyncKeeper
from ratekeeper.policy.decision import PolicyDecision
from ratekeeper.policy.lookups.lookup import LimitFunctions
from ratekeeper.policy.model import Policy
from ratekeeper.service.access_log import AccessLog
from ratekeeper.service.envoy.model import EnvoyConfig
from ratekeeper.service.limiter import CheckRequest, ServiceLimiter
from ratekeeper.service.live.events import Live
from ratekeeper.service.live.hitters import HeavyHitters
from ratekeeper.service.metrics.cells import Protocol
from ratekeeper.service.metrics.counters import Metrics, ProtocolMetrics, watch_store
from ratekeeper.service.metrics.of_policy import note_policy
from ratekeeper.service.operator_options import NOTHING, OperatorOptions
from ratekeeper.service.pauses import Pauses
from ratekeeper.service.policy_news import PolicyNews
from ratekeeper.service.recording.recording import Recording
from ratekeeper.stores.base import AsyncStore, Store

if TYPE_CHECKING:
    from ratekeeper.service.metrics.exposition import Exposition

T = TypeVar("T")


class Core:
    """Decides by a policy that may be replaced, on one store.

    The gateway in front is the one trusted proxy unless the policy says otherwise, so a request's `client` is the
    address that the gateway saw. At most `max_waiting` requests wait for their turn at once; more are refused, as if
    no rule let them wait. `headers` are the styles of the headers about limits. `envoy` decides Envoy's questions in
    place of the policy. `password` is what a client must state in a protocol that has passwords. `metrics` counts what
    is decided, and `access_log` shows a share of it.
    """

    def __init__(
        self,
        policy: Policy,
        store: Store | AsyncStore,
        *,
        max_waiting: int | None = None,
        headers: HeaderStyles = DEFAULT,
        limits: LimitFunctions | None = None,
        envoy: EnvoyConfig | None = None,
        password: bytes | None = None,
        metrics: Metrics | None = None,
        access_log: AccessLog | None = None,
    ) -> None:
        self.envoy = envoy
        self.password = password
        self.operator = NOTHING
        self.health_watches = 0
        """The streams of this process that watch its health, of all connections."""
        self.hitters: HeavyHitters | None = None
        """The keys that are refused most; None if no operator can see them. See `operate`."""
        self.recording: Recording | None = None
        """The last minutes of requests; None if they are not recorded."""
        self.metrics = metrics or Metrics()
        self.limiter = ServiceLimiter(
            policy,
            store=store,
            routes=False,
            trusted_proxies=1,
            max_waiting=max_waiting,
            headers=headers,
            limits=limits,
            on_decision=self.metrics.decided,
        )
        self.pauses = Pauses(policy, store, self.limiter.replace)
        self.news = PolicyNews.first(policy)
        """The policy as it was written, now and before, and how its file was last read."""
        self.reload: Callable[[], object] | None = None
        """Has the policy's file read now, and returns before that; None without a file."""
        self.live = Live(self)
        """The status of all processes. It runs while the core is served."""
        self.metrics.watch("ratekeeper_waiting_requests", lambda: self.limiter.waiting)
        watch_store(self.metrics, store)
        note_policy(self.metrics.slot, policy)
        self.changes: set[asyncio.Task[Any]] = set()
        """The changes of admins that are not ended. A loop itself would not keep them alive."""
        self._shared: dict[Callable[[Core], object], object] = {}
        self._access_log = access_log
        if access_log is not None:
            self.metrics.log_to(access_log)

    def shared(self, make: Callable[[Core], T]) -> T:
        """Return what `make` returns for this core. It is made once, for all connections of a protocol."""
        if make not in self._shared:
            self._shared[make] = make(self)
        return cast("T", self._shared[make])

    @cached_property
    def exposition(self) -> Exposition:
        """The metrics of all processes, for scrapes. Made at the first scrape, as its library is large."""
        from ratekeeper.service.metrics.exposition import Exposition  # noqa: PLC0415

        return Exposition(self.metrics, self.store)

    def operate(self, options: OperatorOptions) -> None:
        """Begin to note all that an operator may see by these options."""
        self.operator = options
        if options.page or options.tokens:
            self.hitters = HeavyHitters(self.metrics.slots.secret)
            self.limiter.refused = self.hitters.refused
            self.live.board.show("limited_keys", self.hitters.published)
        if options.recording_bytes:
            slots, keeper = self.metrics.slots, self.policy.keeper
            self.recording = Recording(self.metrics.slot, slots.secret, self.store, keeper)
            self.limiter.recorded = self.recording.decided
            self.live.board.show("recording", self.recording.state)

    @property
    def beside(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        """The functions whose coroutines run beside a server."""
        return [self.live.run, partial(self.pauses.watch, bool(self.operator.tokens))]

    @property
    def policy(self) -> RequestPolicy[AsyncKeeper]:
        """The policy in use. A protocol reads it once for each question."""
        return self.limiter.in_use  # type: ignore[return-value]  # a core has one

    @property
    def loaded(self) -> Policy:
        """The policy as its file has it: a rule that an admin has paused is not in shadow."""
        return self.pauses.policy

    @property
    def store(self) -> Store | AsyncStore:
        """The store of all buckets."""
        return self.limiter.store

    def replace(self, new: Policy | EnvoyConfig) -> None:
        """Decide by another policy, or another configuration of Envoy's limits, from the next request on.

        Raises `PolicyError` if gateways could ask before, and could not any more.
        """
        if isinstance(new, Policy):
            self.pauses.replace(new)
            note_policy(self.metrics.slot, new)
        else:
            self.envoy = new

    def charge(self, exchange: Exchange, protocol: Protocol = "http") -> RatekeeperError | AwaitedCharge | None:
        """Charge a request: return None, or the refusal, one of `REFUSALS`; a coroutine of it if it must wait.

        `protocol` is that by which it was asked.
        """
        counts = self.metrics.protocols[protocol]
        began = counts.begin()
        refusal = self.limiter.charge_now(exchange)
        if refusal is None or isinstance(refusal, RatekeeperError):
            counts.answered(refusal, began, exchange.decisions)
            return refusal
        return self._counted(exchange, refusal, counts, began)

    def decide_now(
        self, policy: RequestPolicy[AsyncKeeper], attributes: dict[str, str], protocol: Protocol, cost: int = 1
    ) -> PolicyDecision | None:
        """Charge a request by attributes that are read, and return the decision: `charge`, with fewer steps.

        Return None if it takes more than that: a store is awaited, the request may wait for its turn, or it cannot be
        decided. Nothing is charged then, and `charge` must be asked.
        """
        if policy.plain is None:
            return None
        decide, tokens = policy.plain
        cost *= tokens
        counts = self.metrics.protocols[protocol]
        began = counts.begin()
        try:
            decision = decide(attributes, cost)
        except REFUSALS:
            counts.take_back(began)
            return None
        allowed = decision.allowed
        if not allowed and policy.waiting_rules and policy.lets_wait(decision):
            counts.take_back(began)
            return None
        counts.decided(decision, began)
        asked, limiter = (policy.keeper, attributes, cost), self.limiter
        if limiter.recorded is not None:
            limiter.recorded(asked, decision)
        if not allowed and limiter.refused is not None:
            limiter.refused(asked, decision)
        return decision

    def decide_question_now(self, asked: CheckRequest, protocol: Protocol) -> PolicyDecision | None:
        """Decide a program's question by `decide_now`; None if `charge` must."""
        policy = self.policy
        if policy.plain is None or not asked.wait:
            return None
        try:
            attributes = policy.reader.respell(asked.attributes)
        except REFUSALS:
            return None
        return self.decide_now(policy, attributes, protocol, asked.cost)

    def charge_together(
        self, exchange: Exchange, asked: Sequence[CheckRequest], protocol: Protocol = "http"
    ) -> RatekeeperError | AwaitedCharge | None:
        """Charge several questions about one request, all or nothing, without waiting. See `charge`.

        The exchange notes a decision for each question, in order.
        """
        counts = self.metrics.protocols[protocol]
        return self._counted(exchange, self.limiter.charge_together(exchange, asked), counts, counts.begin())

    def _counted(
        self, exchange: Exchange, charging: AwaitedCharge, counts: ProtocolMetrics, began: int
    ) -> RatekeeperError | AwaitedCharge | None:
        """Begin to charge, unless the store must be awaited, and count the answer when it comes."""
        refusal = begin(charging) if self.policy.at_once is not None else charging
        if refusal is None or isinstance(refusal, RatekeeperError):
            counts.answered(refusal, began, exchange.decisions)
            return refusal
        return _counted_later(refusal, exchange, counts, began)

    async def ready(self) -> None:
        """Raise `StoreUnavailable` if the store does not answer."""
        await self.limiter.ready()

    async def close(self) -> None:
        """Close the store when the changes of admins are ended. No request may come after this."""
        if self.changes:
            await asyncio.wait(self.changes)
        close = getattr(self.store, "close", None)
        closing = close() if close is not None else None
        if closing is not None:
            await closing
        if self._access_log is not None:
            self._access_log.close()


async def _counted_later(
    charging: AwaitedCharge, exchange: Exchange, counts: ProtocolMetrics, began: int
) -> RatekeeperError | None:
    refusal = await charging
    counts.answered(refusal, began, exchange.decisions)
    return refusal
