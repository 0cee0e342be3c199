"""RedisStore: buckets that many hosts share, on Redis or Valkey. Only the sending is here; what is sent, in `plans`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from ratekeeper.decision import Charge, Decision
from ratekeeper.errors import StoreUnavailable
from ratekeeper.limits import Limit
from ratekeeper.stores.base import Gate, WaitForTurn
from ratekeeper.stores.redis.connections import ask
from ratekeeper.stores.redis.many import ManyGate
from ratekeeper.stores.redis.plans import Plan, Question
from ratekeeper.stores.redis.redirects import MOST, SINGLE, Hop
from ratekeeper.stores.redis.script import Ask, Reply
from ratekeeper.stores.redis.shared import OnServer
from ratekeeper.waiting.wait_queue import WaitQueue

T = TypeVar("T")


class RedisStore(OnServer):
    """Keep buckets on a Redis or Valkey server, or on a cluster, for all processes that use the same limits.

    `where` is a URL (redis://, rediss://, unix://, valkey://, redis+cluster://, redis+sentinel://) or a client of your
    own. The time is the server's. A decision is one round trip, for all limits of a request together. On a cluster,
    limits whose keys differ may take several (see docs/fleet.md).

    prefix            begins each bucket's name, and belongs to its identity. Names hold no key, only digests
    secret            keys the digests; the same in all processes
    timeout           seconds until a connection or an answer is given up, by default 50 ms. Nothing is tried twice: an
                      answer that is lost may be one to a charge that was made. Give a client of your own no retries
    remember_denials  answer who asks again too early from memory, for a second at most, without a round trip. What
                      other processes refund or reset is then seen so much later
    clock             for tests: the time, in place of the server's
    on_error          what becomes of a request if the server does not answer, unless its charges say it themselves; of
                      several charges, the strictest counts. "raise": `StoreUnavailable`. "deny": refused, until the
                      server is to be asked again. "local": decided here, by a table of this store's own, which has its
                      part of each limit. "allow": passes, and nothing is charged
    expected_nodes    must be given for "local": among how many stores like this one, in all processes of the fleet,
                      limits are then divided. A limit whose capacity is less than that refuses all
    retry             after three failures in a row, or a refused connection, the server (of a cluster, the node) is not
                      asked for so many seconds; then one request is sent to try it

    In an outage. Decisions say `source` "fallback". They charge nothing that could be given back: a refund of one does
    nothing, now or later. A refund of what the server charged is lost if it cannot be told, which refills in time; with
    "raise" it raises. Who waits keeps its turn, or moves up. A reset raises whatever `on_error` says, as nothing
    can stand for it. What is wrong for good (a password, a key of another type) raises `StoreError` always.

    Over a time that spans an outage the fleet admits at most what the server admits, which is the limit, and what is
    admitted without it: with "local" the limit once more, for all `expected_nodes` together. What was decided here is
    not told to the server later. A server that comes back empty has forgotten its debts, and begins with full buckets.

    Thread-safe; a forked child makes its own connections. Raises `StoreUnavailable` if the server does not answer in
    time, `StoreError` for a URL that is none or a server that will not do.
    """

    _asynchronous = False
    blocks = True

    def _begin(self) -> None:
        self.wait_queue = WaitQueue(self, self.clock)

    def decide(self, charges: Sequence[Charge], *, commit: bool = True) -> list[Decision]:
        """Decide the charges of one request, and make all or none, in one round trip. See `Store.decide`."""
        charges = self._fallback.checked(charges)
        try:
            question = self._plans.question(charges, commit)
            if isinstance(question, list):
                return question
            if question.slots:
                return self._run(self._plans.over_slots(question))
            return self._plans.answer(question, self._call([question.ask()])[0])
        except StoreUnavailable as error:
            return self._fallback.instead(error, charges, commit)

    def decide_many(self, requests: Sequence[Sequence[Charge]]) -> list[list[Decision]]:
        """Decide requests in order, each by itself as `decide` does: in one round trip, unless it is a cluster."""
        if self._link.clustered:  # where hardly two keys share a slot, and one may fail alone
            return [self.decide(charges) for charges in requests]
        questions = [self._plans.question(self._fallback.checked(charges), True) for charges in requests]
        asked = [question for question in questions if isinstance(question, Question)]
        try:
            replies = self._call([question.ask() for question in asked]) if asked else []
            answers = iter([self._plans.answer(*both) for both in zip(asked, replies, strict=True)])
        except StoreUnavailable as error:
            answers = iter([self._fallback.instead(error, question.charges, True) for question in asked])
        return [next(answers) if isinstance(question, Question) else question for question in questions]

    def refund(self, charges: Sequence[Charge], at_ticks: int) -> None:
        """Give back charges that were made at `at_ticks`. See `Store.refund`."""
        self._run(self._fallback.refund(charges, at_ticks))

    def rewind(self, scope: str, key: str | bytes, expected_ticks: int, tat_ticks: int) -> bool:
        """Set a bucket's TAT back, if it is still `expected_ticks`. See `Store.rewind`."""
        return self._run(self._fallback.rewind(scope, key, expected_ticks, tat_ticks))

    def reset(self, scope: str, key: str | bytes) -> None:
        """Forget a bucket: it is full again."""
        self._run(self._fallback.reset(scope, key))

    def bind(self, scopes: tuple[str, ...], limits: tuple[Limit, ...], wait: WaitForTurn) -> Gate:
        """Return the hot path of one limiter."""
        return ManyGate(self, scopes, limits, wait)

    def close(self) -> None:
        """Close the connections. A client of the caller's is left open."""
        for client in self._link.opened():
            client.close()

    def __enter__(self) -> RedisStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run(self, plan: Plan[T]) -> T:
        try:
            asks = next(plan)
            while True:
                try:
                    replies = [self._call([ask])[0] for ask in asks] if self._link.clustered else self._call(asks)
                except BaseException as error:
                    asks = plan.throw(error)
                else:
                    asks = plan.send(replies)
        except StopIteration as stop:
            result: T = stop.value
            return result

    def _call(self, asks: list[Ask]) -> list[Reply]:
        """Call the script once, for requests whose buckets are all in one slot."""
        arguments = self._arguments(asks)
        if not self._link.clustered:
            return self._call_at(SINGLE, asks, arguments)
        hop: Hop | None = Hop.to(self._node(arguments))
        for hops in range(MOST, 0, -1):
            assert hop is not None
            try:
                return self._call_at(hop, asks, arguments)
            except StoreUnavailable as error:
                hop = self._redirects.after(error)
                if hop is None or hops == 1:
                    raise
        raise AssertionError("unreachable")

    def _call_at(self, hop: Hop, asks: list[Ask], arguments: list[bytes]) -> list[Reply]:
        attempt = self._attempts.to(hop.name)
        try:
            with attempt as sent:
                try:
                    text = ask(self._link, self._faults, hop, arguments, b"EVALSHA", self._script.sha)
                except self._faults.no_script:
                    self._scripts_sent += 1
                    text = ask(
                        self._link, self._faults, hop, arguments, b"EVAL", self._script.text
                    )  # which also keeps it
                return self._read(text, asks, sent)
        finally:
            if attempt.opened:  # whoever comes next is to look the address up anew
                self._link.pool(hop.node).disconnect(inuse_connections=False)

    def _node(self, arguments: list[bytes]) -> Any:
        """Return the node of a cluster that has the buckets. Raises as a call does: a cluster is first looked up."""
        if not self._link.is_open or self._redirects.stale:
            with self._attempts.to():
                client = self._link.client()
                if self._redirects.stale:
                    client.nodes_manager.initialize()
                    self._redirects.stale = False
        return self._attempts.named(self._link.client().get_node_from_key, arguments[1])
