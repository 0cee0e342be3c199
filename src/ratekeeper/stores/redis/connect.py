"""From a URL, or a client of the caller's, to a client. Client libraries are loaded here, when one is used."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from urllib.parse import SplitResult, unquote

from ratekeeper.errors import MissingExtraError
from ratekeeper.forks import forget_in_child
from ratekeeper.stores.redis.urls import bad_url, has_tls, hosts_of, read_url

LIBRARIES = ("redis", "valkey")
"""Client libraries: all that is used here has the same name in both."""

MOST_CONNECTIONS = 10_000
"""Of one process: as many as there are threads that ask at once. A server refuses before that."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class Link:
    """A client, opened when it is first needed, and what has to be known of it."""

    make: Callable[[], Any]
    library: Any
    clustered: bool
    asynchronous: bool
    owned: bool  # made here, so closed here
    pool_wants: tuple[str, ...] = ()  # what a pool's `get_connection` is given: it used to take a command's name
    _client: Any = None
    _lock: Any = field(default_factory=threading.RLock)  # a signal handler of the same thread may ask too
    _parents: list[Any] = field(default_factory=list)
    _closing: set[asyncio.Future[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.library.__name__ == "valkey":
            self.pool_wants = ("EVALSHA",)
        forget_in_child(self)

    def forget(self) -> None:
        """Have a client and a lock of its own, in a forked child. A client of the caller's is the caller's affair.

        The parent's is kept: who collects one of asyncio takes its sockets from the epoll that both processes share.
        """
        self._parents.append(self._client)
        self._lock = threading.RLock()
        self._closing = set()
        self.renew()

    def renew(self) -> None:
        """Have a new client, if it is made here: its connections are of a closed event loop, or some may be lost."""
        if self.owned:
            self._client = None

    def client(self) -> Any:
        if self._client is None:
            with self._lock:
                if self._client is None:
                    self._client = self.make()
        return self._client

    def pool(self, node: Any = None) -> Any:
        """Return the pool of a blocking client: that of one node of a cluster, or of the only server that there is."""
        client = self.client()
        if node is not None:
            client = getattr(client, f"get_{self.library.__name__}_connection")(node)
        return client.connection_pool

    async def take(self, node: Any = None) -> tuple[Any, Callable[[Any], Awaitable[None]]]:
        """Return a connection of an awaited client, and what takes it back."""
        if node is None:
            pool = self.client().connection_pool
            return await pool.get_connection(*self.pool_wants), pool.release
        return node.acquire_connection(), partial(_back_to, node)

    def drop_idle(self, node: Any = None) -> None:
        """Close what an awaited client has open and unused, soon. Its next calls look the address up anew."""
        if node is None:
            closing = self.client().connection_pool.disconnect(inuse_connections=False)
        else:
            closing = _close_all(tuple(node._free))
        task = asyncio.ensure_future(closing)
        self._closing.add(task)
        task.add_done_callback(self._closed)

    def _closed(self, task: asyncio.Future[None]) -> None:
        self._closing.discard(task)
        if not task.cancelled():
            task.exception()  # a connection that could not be closed in peace is closed all the same

    @property
    def is_open(self) -> bool:
        return self._client is not None

    def opened(self) -> list[Any]:
        """Return the clients that have been opened here, to be closed: also those that ask sentinels."""
        if self._client is None or not self.owned:
            return []
        manager = getattr(getattr(self._client, "connection_pool", None), "sentinel_manager", None)
        return [self._client, *(manager.sentinels if manager else ())]


def link(where: Any, timeout: float, asynchronous: bool) -> Link:
    """Return the link that a URL or a client says. Raises `StoreError` for a URL that is none."""
    if not isinstance(timeout, int | float) or isinstance(timeout, bool) or not timeout > 0:
        raise ValueError(f"timeout must be more than 0 seconds, not {timeout!r}")
    return _from_url(where, timeout, asynchronous) if isinstance(where, str) else _from_client(where, asynchronous)


def _from_client(client: Any, asynchronous: bool) -> Link:
    bases = {base.__module__.partition(".")[0] for base in type(client).__mro__}
    found = next((name for name in LIBRARIES if name in bases), None)
    if found is None:
        raise TypeError(f"a Redis store takes a URL, or a client of redis or valkey, not {client!r}")
    library = import_module(found)
    awaited = isinstance(client, library.asyncio.Redis | library.asyncio.RedisCluster)
    if awaited != asynchronous:
        use, other = ("RedisStore", "AsyncRedisStore")[:: -1 if asynchronous else 1]
        raise TypeError(f"{type(client).__module__}.{type(client).__name__} is for {other}, not for {use}")
    clustered = isinstance(client, library.RedisCluster | library.asyncio.RedisCluster)
    return Link(lambda: client, library, clustered, asynchronous, owned=False)


def _from_url(url: str, timeout: float, asynchronous: bool) -> Link:
    try:
        parts = read_url(url)
        kind = parts.scheme.partition("+")[2]
        library = _library()
        near = library.asyncio if asynchronous else library
        options = _options(library, near, timeout)
        if kind:
            options |= {"username": _text(parts.username), "password": _text(parts.password)}
            options |= {"ssl": True} if has_tls(parts) else {}
            make = (_cluster if kind == "cluster" else _sentinel)(library, near, parts, options)
        else:
            make = _single(url, near, parts, options)
    except ValueError as error:
        raise bad_url(url, str(error)) from None
    return Link(make, library, kind == "cluster", asynchronous, owned=True)


def _options(library: Any, near: Any, timeout: float) -> dict[str, Any]:
    """Return how clients are made here. They never try again: an answer that was lost may be one to a charge made."""
    retry = import_module(f"{near.__name__}.retry").Retry
    return {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "max_connections": MOST_CONNECTIONS,
        "retry": retry(import_module(f"{library.__name__}.backoff").NoBackoff(), 0),
    }


def _single(url: str, near: Any, parts: SplitResult, options: dict[str, Any]) -> Callable[[], Any]:
    """Return what makes the client of a server, by its URL in the words that client libraries know."""
    if parts.scheme != "unix":
        url = ("rediss" if has_tls(parts) else "redis") + url[len(parts.scheme) :]
    return lambda: near.Redis.from_url(url, **options)


def _cluster(library: Any, near: Any, parts: SplitResult, options: dict[str, Any]) -> Callable[[], Any]:
    """Return what makes a cluster's client: the blocking one asks the cluster at once, so it is made when needed."""
    hosts = hosts_of(parts, 6379)
    if parts.path.strip("/"):
        raise ValueError("a cluster has no databases to choose from")
    node = import_module(f"{near.__name__}.cluster").ClusterNode
    if library.__name__ == "valkey":
        options |= {"cluster_error_retry_attempts": 0}
    return lambda: near.RedisCluster(startup_nodes=[node(*host) for host in hosts], **options)


def _sentinel(_: Any, near: Any, parts: SplitResult, options: dict[str, Any]) -> Callable[[], Any]:
    """Return what makes the client of the server that sentinels watch."""
    hosts = hosts_of(parts, 26379)
    service, _, db = parts.path.strip("/").partition("/")
    if not service or not (db or "0").isdigit():
        raise ValueError("after the hosts goes the service's name, and then may go a database's number")
    to_sentinels = _without_login(options)
    to_server = options | {"db": int(db or 0)}
    return lambda: near.Sentinel(hosts, sentinel_kwargs=to_sentinels).master_for(unquote(service), **to_server)


def _without_login(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options for the sentinels themselves: the login is the server's."""
    return {name: value for name, value in options.items() if name not in ("username", "password", "db")}


def _library() -> Any:
    for name in LIBRARIES:
        if find_spec(name) is not None:
            return import_module(name)
    raise MissingExtraError("RedisStore", "redis")


async def _back_to(node: Any, connection: Any) -> None:
    """Give a connection back to a node of an awaited cluster, for which older clients have no function."""
    (getattr(node, "release", None) or node._free.append)(connection)


async def _close_all(connections: Iterable[Any]) -> None:
    for connection in connections:
        await connection.disconnect(nowait=True)


def _text(part: str | None) -> str | None:
    return None if part is None else unquote(part)
