"""RedisStore: buckets that many hosts share, on Redis or Valkey. AsyncRedisStore shares all but the sending with it.

A decision goes this way: `fallback` asks by `questions`, which packs requests (`script`) and sends them here; each call
is watched (`call_monitor`) and made on a connection (`connections`); `replies` makes decisions of the answer. All
of it is coroutines. Here they block, and never suspend, so `run_sync` runs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import isawaitable
from typing import Any, ClassVar, NamedTuple

from ratekeeper.clock import Clock, SystemClock
from ratekeeper.coroutines import run_sync
from ratekeeper.decision import Charge, Decision, OnError, combine
from ratekeeper.errors import StoreUnavailable
from ratekeeper.forks import OfOneProcess
from ratekeeper.limits import TICKS_PER_SECOND, Limit
from ratekeeper.stores.base import Answer, ChargeGate, Gate, WaitForTurn, checked_keys
from ratekeeper.stores.redis.async_connections import AsyncConnections
from ratekeeper.stores.redis.call_monitor import CallMonitor, MonitoredCall
from ratekeeper.stores.redis.client_errors import ClientErrors
from ratekeeper.stores.redis.connections import MAX_HOPS, SINGLE, BlockingConnections, Hop
from ratekeeper.stores.redis.fallback import Fallback
from ratekeeper.stores.redis.questions import Question, Questions, Send
from ratekeeper.stores.redis.replies import DenialCache, Reply, ServerClock, read_replies
from ratekeeper.stores.redis.script import SERVER_TIME, BucketNames, Request, arguments, clock_at, load_script
from ratekeeper.stores.redis.urls import checked_seconds, client_maker
from ratekeeper.waiting.wait_queue import WaitQueue

MAX_BATCH = 128
"""Requests in one script call: the server does nothing else meanwhile, for half a millisecond or so."""


class RedisStats(NamedTuple):
    """The counts of a store. `calls` are round trips, of which each carries one or more `requests`.

    `remembered` are denials that cost no round trip. `scripts_sent` counts how often a server did not have the script.
    `failures` are calls that a server did not answer; `opened` counts how often a circuit breaker opened.
    `fallbacks` are requests that were answered by `on_error`, without the server. `open` are the circuit breakers that
    are open now: one on a single server, one for each node of a cluster.

    >>> RedisStats(calls=2, requests=9, remembered=1, scripts_sent=1).failures
    0
    """

    calls: int
    requests: int
    remembered: int
    scripts_sent: int
    failures: int = 0
    fallbacks: int = 0
    opened: int = 0
    open: int = 0


class RedisStoreBase(OfOneProcess):
    """A store whose buckets are on a server: its parts, and one script call. `RedisStore` documents the arguments."""

    _instead = "make one in each process, with the same URL and prefix"
    _connections_of: ClassVar[type[BlockingConnections | AsyncConnections]]

    def __init__(
        self,
        where: Any,
        *,
        prefix: str = "ratekeeper:",
        secret: str | bytes | None = None,
        timeout: float = 0.05,
        remember_denials: bool = True,
        clock: Clock | None = None,
        on_error: OnError = "raise",
        expected_nodes: int | None = None,
        retry: float = 0.5,
    ) -> None:
        checked_seconds("retry", retry)
        self._maker = client_maker(where, timeout, asynchronous=self._connections_of is AsyncConnections)
        self._clustered = self._maker.clustered
        self._prefix = prefix
        self._errors = ClientErrors(self._maker.library, self._clustered)
        self._connections = self._connections_of(self._maker, self._errors, timeout)
        self._script = load_script()
        self._server_clock = ServerClock()
        self._given_clock = clock
        self.clock: Clock = self._server_clock if clock is None else clock
        local = self._server_clock.local if clock is None else clock.ticks
        self._monitor = CallMonitor(self._errors, max(1, round(retry * TICKS_PER_SECOND)), local)
        self._denials = DenialCache(local) if remember_denials else None
        self._questions = Questions(BucketNames(prefix, secret), self._denials, self._clustered, self._sender())
        self._fallback = Fallback(self._questions, self.clock.ticks, on_error, expected_nodes)
        self.knows_nodes = expected_nodes is not None  # `on_error` "local" needs it
        self._calls = self._requests = self._scripts_sent = 0
        self._begin()

    def _begin(self) -> None:
        """Set up the parts that only one kind of store has."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._maker.shown}, prefix={self._prefix!r})"

    @property
    def where(self) -> str:
        """Where the server is, without secrets."""
        return self._maker.shown.strip("'")

    def stats(self) -> RedisStats:
        """Count what this store has done, in this process."""
        remembered = self._denials.recalled if self._denials else 0
        return RedisStats(
            self._calls, self._requests, remembered, self._scripts_sent,
            self._monitor.failures, self._fallback.count, self._monitor.opened, self._monitor.open(),
        )  # fmt: skip

    async def _find_nodes(self) -> None:
        if not self._connections.knows_map:
            with MonitoredCall(self._monitor):
                await self._connections.read_map()

    async def _reset_scope(self, scope: str) -> None:
        if self._clustered:
            self._connections.doubt_map()  # it may lack a new node
            await self._find_nodes()
        nodes = self._connections.client().get_primaries() if self._clustered else [None]
        await self._fallback.reset_scope(scope, self._ask, nodes)

    async def _ask(self, command: str, *arguments: Any, **named: Any) -> Any:
        """Send a command that is not the script, by the client's own way."""
        with MonitoredCall(self._monitor):
            answer = getattr(self._connections.client(), command)(*arguments, **named)
            return await answer if isawaitable(answer) else answer

    def _sender(self) -> Send:
        """Return what sends requests, each of whose buckets are in one slot, and returns their replies."""
        raise NotImplementedError

    # No `async def` here or there, as each costs a decision a few hundred ns.
    def _call(self, requests: Sequence[Request]) -> Answer[list[Reply]]:
        """Call the script once, for requests whose buckets are all in one slot."""
        by_server = self._given_clock is None and SystemClock.held is None
        words = arguments(requests, SERVER_TIME if by_server else clock_at(self.clock.ticks()))
        return self._call_node(requests, words) if self._clustered else self._call_at(SINGLE, requests, words)

    async def _call_node(self, requests: Sequence[Request], words: list[bytes]) -> list[Reply]:
        """Call the node of a cluster that has the buckets, or the one that it names."""
        hop: Hop | None = None
        for hops in range(MAX_HOPS, 0, -1):
            hop = hop or Hop.to(await self._node(words[1]))
            try:
                return await self._call_at(hop, requests, words)
            except StoreUnavailable as error:
                hop = self._connections.next_hop(error, hop)
                if hops == 1:
                    raise
        raise AssertionError("unreachable")

    async def _call_at(self, hop: Hop, requests: Sequence[Request], words: list[bytes]) -> list[Reply]:
        call = MonitoredCall(self._monitor, hop.name)
        try:
            with call as sent:
                try:
                    text = await self._connections.call(hop, words, b"EVALSHA", self._script.sha)
                except self._errors.no_script:
                    self._scripts_sent += 1
                    text = await self._connections.call(hop, words, b"EVAL", self._script.text)  # which also keeps it
                replies = read_replies(text, requests, sent)
        finally:
            if call.opened:  # the next call is to look the address up anew
                self._connections.drop_idle(hop.node)
        self._server_clock.learn(replies[0].now, sent)
        self._calls += 1
        self._requests += len(requests)
        return replies

    async def _node(self, name: bytes) -> Any:
        """Return the node of a cluster that has a bucket. Raises as a call does: a cluster is first looked up."""
        await self._find_nodes()
        return self._monitor.named(self._connections.client().get_node_from_key, name)


class RedisStore(RedisStoreBase):
    """Keep buckets on a Redis or Valkey server, or on a cluster, for all processes that use the same limits.

    `where` is a URL (redis://, rediss://, unix://, valkey://, redis+cluster://, redis+sentinel://) or your own
    client. The time is the server's. A decision is one round trip, for all limits of a request together. On a cluster,
    limits whose keys differ may take several (see docs/fleet.md).

    prefix            begins each bucket's name, and belongs to its identity. Names hold no key, only digests
    secret            keys the digests; the same in all processes, and not empty
    timeout           seconds until a connection or an answer is given up, by default 50 ms. No request is sent twice: a
                      lost answer may be one to a charge that was made. Give your own client no retries
    remember_denials  deny a repeated request from memory, if it comes too early, for a second at most: without a round
                      trip. Refunds, resets and grants of other processes are then seen up to a second later
    clock             for tests: the time, in place of the server's
    on_error          what becomes of a request if the server does not answer. A charge's own setting goes before it; of
                      several charges, the strictest counts. "raise": `StoreUnavailable`. "deny": denied, until the
                      server is to be asked again. "local": decided here, by this store's own table, which has its part
                      of each limit. "allow": passes, and nothing is charged
    expected_nodes    the number of stores like this one in the whole fleet; "local" needs it, and divides each
                      limit by it. A limit with less capacity than `expected_nodes` denies all
    retry             after three failures in a row, or a refused connection, the server (of a cluster, the node) is not
                      asked for so many seconds; then one request is sent to try it

    In an outage, decisions say `source` "fallback". They charge nothing that could be given back: a refund of one does
    nothing, now or later. A refund of the server's charge is lost if the server does not answer, which refills in time;
    with "raise" it raises. A waiter keeps its turn, or moves up. A change by hand (reset, grant, block) raises whatever
    `on_error` says, as nothing can stand for it. A mistake in the configuration (a password, a key of another type)
    always raises `StoreError`.

    Over a time that spans an outage, the fleet admits at most the limit by the server, and what is admitted without it:
    with "local" the limit once more, for all `expected_nodes` together. Decisions made here are not told to the server
    later. A server that comes back empty has forgotten its debts, and begins with full buckets.

    Thread-safe; a forked child makes its own connections. Raises `StoreUnavailable` if the server does not answer in
    time, `StoreError` for a bad URL or a server that cannot decide.

    >>> with RedisStore("redis://127.0.0.1:6379/0") as store:  # connects when it is first asked
    ...     store.stats().calls
    0
    """

    _connections_of = BlockingConnections
    blocks = True

    def _begin(self) -> None:
        self.wait_queue = WaitQueue(self, self.clock)

    def decide(self, charges: Sequence[Charge], *, commit: bool = True) -> list[Decision]:
        """Decide the charges of one request, and make all or none, in one round trip. See `Store.decide`."""
        return run_sync(self._fallback.decide(charges, commit))

    def decide_many(self, requests: Sequence[Sequence[Charge]]) -> list[list[Decision]]:
        """Decide requests in order, each by itself as `decide` does: in one round trip, unless it is a cluster."""
        if self._clustered:  # where hardly two keys share a slot, and one may fail alone
            return [self.decide(charges) for charges in requests]
        questions = [self._questions.question(self._fallback.checked(charges), True) for charges in requests]
        asked = [question for question in questions if isinstance(question, Question)]
        try:
            replies = run_sync(self._call([question.request() for question in asked])) if asked else []
            answers = iter([self._questions.answer(*both) for both in zip(asked, replies, strict=True)])
        except StoreUnavailable as error:
            answers = iter([self._fallback.instead(error, question.charges, True) for question in asked])
        return [next(answers) if isinstance(question, Question) else question for question in questions]

    def refund(self, charges: Sequence[Charge], at_ticks: int) -> None:
        """Give back charges that were made at `at_ticks`. See `Store.refund`."""
        run_sync(self._fallback.refund(charges, at_ticks))

    def rewind(self, scope: str, key: str | bytes, expected_ticks: int, tat_ticks: int) -> bool:
        """Set a bucket's TAT back, if it is still `expected_ticks`. See `Store.rewind`."""
        return run_sync(self._fallback.rewind(scope, key, expected_ticks, tat_ticks))

    def adjust(self, scope: str, key: str | bytes, back_ticks: int, block_ticks: int | None) -> None:
        """Change a bucket by hand. See `Store.adjust`. Raise `StoreUnavailable` if the server does not answer."""
        run_sync(self._fallback.adjust(scope, key, back_ticks, block_ticks))

    def reset_scope(self, scope: str) -> None:
        """Forget all buckets of a scope. See `Store.reset_scope`. Each step looks at some names on the server."""
        run_sync(self._reset_scope(scope))

    def bind(self, scopes: tuple[str, ...], limits: tuple[Limit, ...], wait: WaitForTurn) -> Gate:
        """Return the hot path of one limiter."""
        return ManyGate(self, scopes, limits, wait)

    def close(self) -> None:
        """Close the connections. A client that you gave is left open."""
        for client in self._connections.opened():
            client.close()

    def __enter__(self) -> RedisStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _sender(self) -> Send:
        return self._send_each if self._clustered else self._call

    async def _send_each(self, requests: Sequence[Request]) -> list[Reply]:
        return [(await self._call([request]))[0] for request in requests]


class ManyGate(ChargeGate):
    """The gate of a store on a server: many keys are few calls."""

    def __init__(
        self, store: RedisStore, scopes: tuple[str, ...], limits: tuple[Limit, ...], wait: WaitForTurn
    ) -> None:
        super().__init__(store, scopes, limits, wait)
        self._decide_many = store.decide_many

    def try_acquire_many(self, keys: Sequence[str | bytes], cost: int = 1) -> list[bool]:
        """Ask once for each key, in order, MAX_BATCH in one script call."""
        keys = checked_keys(keys, cost)
        allowed: list[bool] = []
        for first in range(0, len(keys), MAX_BATCH):
            requests = [self._charges(key, cost) for key in keys[first : first + MAX_BATCH]]
            allowed += [combine(decisions).allowed for decisions in self._decide_many(requests)]
        return allowed
