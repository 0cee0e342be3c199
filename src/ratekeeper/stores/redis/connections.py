"""One script call on one connection: take it, send, read the whole answer, give it back.

For threads; `async_connections` is the same for asyncio.

A connection is used again only if its last answer was read to the end, and came from a server that can decide. Anything
else closes it: a timeout, a cancelled task, an exception of a signal handler, wherever it strikes. Otherwise the next
call on it would read an answer that belongs to this one.

That rests on the client library, which is not exact about exceptions of others: while it connects, it may put a
connection back that still owes an answer. So each call has a number, and an answer with another number is an outage.

A cluster's redirects are followed here (see `ClientErrors`). Client libraries do not do it well enough: `redis.asyncio`
sends ASKING and the command over different connections, so a stranger's next command may find a full bucket where it
must not look at all. And a TRYAGAIN is tried sixteen times, with sleeps between.

This file must not know requests, nor whether a server is asked at all (see `call_monitor`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from ratekeeper.errors import StoreUnavailable
from ratekeeper.forks import forget_in_child
from ratekeeper.stores.redis.client_errors import ClientErrors
from ratekeeper.stores.redis.replies import own_answer
from ratekeeper.stores.redis.script import wire
from ratekeeper.stores.redis.urls import ClientMaker

MAX_HOPS = 3
"""Nodes that one request is sent to: an old map's, the slot's, and the one that the slot is moving to."""


class Tries:
    """Tries at one thing, one at a time. A caller that has waited for another's try shares its error.

    If each tried in turn instead, the last of many would wait for the tries of all.
    """

    def __init__(self) -> None:
        self.ended = 0
        self._error: Exception | None = None

    @contextmanager
    def one(self, came: int) -> Iterator[None]:
        """Make a try, unless one has failed meanwhile. `came` is what `ended` was before the caller had to wait."""
        if came != self.ended and self._error is not None:
            raise self._error.with_traceback(None)
        self._error = None
        try:
            yield
        except Exception as error:
            self._error = error
            raise
        finally:
            self.ended += 1


class Hop(NamedTuple):
    """A node of a cluster, its name, and whether the request is to say that it was sent there by an ASK."""

    node: Any
    name: str
    asking: bool = False

    @classmethod
    def to(cls, node: Any, asking: bool = False) -> Hop:
        """Return the hop to a node of a client's map."""
        return cls(node, str(getattr(node, "name", "")), asking)


SINGLE = Hop(None, "")
"""To the only server that there is."""


class Connections:
    """The connections of one store, and its client, which is made when it is first needed."""

    def __init__(self, maker: ClientMaker, errors: ClientErrors, timeout: float) -> None:
        self.maker = maker
        self.errors = errors
        self._timeout = timeout
        self._pool_wants = ("EVALSHA",) if maker.library.__name__ == "valkey" else ()  # a command's name, of old
        self._client: Any = None
        self._parents: list[Any] = []
        self._stale = False  # the map of the cluster is to be read anew before the next request
        self._tries = Tries()  # at reading it
        self._lock = threading.RLock()  # a signal handler of the same thread may ask too
        forget_in_child(self)

    def forget(self) -> None:
        """Have a new client and a new lock, in a forked child. A caller's client is the caller's affair.

        The parent's client is kept: to collect an async one takes its sockets from the epoll that both processes share.
        """
        self._parents.append(self._client)
        self._lock = threading.RLock()
        self.renew()

    def renew(self) -> None:
        """Have a new client, if it is made here: its connections are of a closed event loop, or some may be lost."""
        if self.maker.owned:
            self._client = None

    def client(self) -> Any:
        """Return the client."""
        if self._client is None:
            with self._lock:
                if self._client is None:
                    self._client = self.maker.make()
        return self._client

    def opened(self) -> list[Any]:
        """Return the clients that have been opened here, to be closed: also those that ask sentinels."""
        if self._client is None or not self.maker.owned:
            return []
        manager = getattr(getattr(self._client, "connection_pool", None), "sentinel_manager", None)
        return [self._client, *(manager.sentinels if manager else ())]

    def doubt_map(self) -> None:
        """Have the map of the cluster read anew before it is used."""
        self._stale = True

    def next_hop(self, error: StoreUnavailable, hop: Hop) -> Hop | None:
        """Return where a request is to go that has ended with this error at a hop. None: where a new map says.

        Raises the error if nothing helps.
        """
        cause: Any = error.__cause__
        if cause is not None and self.errors.left_meanwhile(cause):
            return hop  # which knows by now where the bucket is
        if cause is None or isinstance(cause, self.errors.try_again):
            raise error  # not asked at all; or asked the right node
        redirected, moved = isinstance(cause, self.errors.ask), isinstance(cause, self.errors.moved)  # a kind of ASK
        if moved or not redirected:  # a server that does not answer may have been replaced
            self.doubt_map()
        node = self.client().get_node(cause.host, cause.port) if redirected else None
        if node is not None:
            return Hop.to(node, asking=not moved)
        if not moved:
            raise error
        return None


class BlockingConnections(Connections):
    """For threads. Its coroutines block, and never suspend."""

    @property
    def knows_map(self) -> bool:
        """The client of a cluster knows which node has which slot."""
        return self._client is not None and not self._stale

    async def read_map(self) -> None:
        """Ask the cluster which node has which slot."""
        came = self._tries.ended
        with self._lock:
            if self.knows_map:
                return
            with self._tries.one(came):
                client = self.client()  # which asks when it is made
                if self._stale:
                    client.nodes_manager.initialize()
                    self._stale = False

    def pool(self, node: Any = None) -> Any:
        """Return the pool of one node of a cluster, or of the only server that there is."""
        client = self._client if self._client is not None else self.client()  # as it is on the hot path
        if node is not None:
            client = getattr(client, f"get_{self.maker.library.__name__}_connection")(node)
        return client.connection_pool

    def drop_idle(self, node: Any = None) -> None:
        """Close what is open and unused. The next calls look the address up anew."""
        self.pool(node).disconnect(inuse_connections=False)

    async def call(self, hop: Hop, arguments: list[bytes], verb: bytes, script: bytes) -> Any:
        """Send a call once, and return its answer. A client's own way to send tries again after an error."""
        pool = self.pool(hop.node)
        try:
            connection = pool.get_connection(*self._pool_wants)
        except self.errors.known:
            raise
        except BaseException:  # it may stand anywhere in a handshake
            self.renew()
            pool.disconnect(inuse_connections=False)
            raise
        whole = False
        try:
            if hop.asking:  # of the next command of this connection
                connection.send_command("ASKING")
                connection.read_response(disconnect_on_error=True)
            connection.send_packed_command([wire([verb, script, *arguments])])
            # Of itself a connection that Sentinel names stays open: the next would read an answer that was given up.
            answer = own_answer(connection.read_response(disconnect_on_error=True), arguments)
            whole = True
        except self.errors.reply as error:
            whole = self.errors.keeps(error)
            raise
        except self.errors.garbled as error:
            raise ConnectionError(str(error)) from error
        finally:
            try:
                if not whole:
                    connection.disconnect()
            finally:
                pool.release(connection)
        return answer
