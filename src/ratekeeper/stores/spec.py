"""StoreSpec: a store as a policy, a command line or a limiter names it. A value, which can open the store."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from ratekeeper.decision import OnError
from ratekeeper.errors import StoreError, did_you_mean
from ratekeeper.secret_file import read_secret
from ratekeeper.stores.base import AsyncStore, Store, is_async
from ratekeeper.stores.memory import MemoryStore
from ratekeeper.stores.redis import AsyncRedisStore, RedisStore
from ratekeeper.stores.redis.fallback import NODES_NEEDED
from ratekeeper.stores.redis.urls import SCHEMES, hide_secrets
from ratekeeper.stores.shared_memory import SharedMemoryStore, path_of
from ratekeeper.stores.table_store import MAX_KEYS

S = TypeVar("S", RedisStore, AsyncRedisStore)

MEMORY, SHARED = "memory", "shared:"
FORMS = "memory, shared:NAME, or the URL of a server such as redis://host:6379/0"

_log = logging.getLogger("ratekeeper")


@dataclass(frozen=True, slots=True)
class StoreSpec:
    """The name of a store: `memory` (this process), `shared:NAME` (this host), or a server's URL (see `RedisStore`).

    `max_keys` is for the first two; None is 1,000,000. A shared table that exists keeps its size, and the log tells it.
    All else is for servers.
    `expected_nodes` is the number of stores that share the limits, one in each process; `on_error` "local" needs it.
    `secret_file` has the secret that keys the names of buckets. It is read when the store is opened, or before: see
    `settled`. Then `secret` has it.
    """

    url: str = field(repr=False)  # it may hold a password
    max_keys: int | None = None
    prefix: str = "ratekeeper:"
    timeout: float = 0.05
    on_error: OnError = "raise"
    expected_nodes: int | None = None
    secret_file: str | None = None
    secret: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        scheme, colon, rest = self.url.partition(":")
        if self.url != MEMORY and not (rest and scheme + colon == SHARED) and not (colon and scheme in SCHEMES):
            hint = did_you_mean(scheme[:40], (MEMORY, "shared", *SCHEMES)) if scheme else ""
            if scheme in SCHEMES:
                hint = f": write {scheme}://host:6379/0"
            elif scheme in (MEMORY, "shared"):
                hint = f": write {MEMORY if scheme == MEMORY else 'shared:NAME'}"
            raise StoreError(f"a store is {FORMS}; there is none called {scheme[:40]!r}{hint}")
        if self.url.startswith(SHARED + "//"):  # else a name in a URL's form would be a file in the root directory
            raise StoreError(f"{self.url!r} is not a shared table: write shared:NAME, or with a path shared:/PATH")
        if self.url.startswith(SHARED):
            try:
                path_of(rest)
            except ValueError as error:
                raise StoreError(str(error)) from None
        if self.on_server and self.on_error == "local" and self.expected_nodes is None:
            raise StoreError(NODES_NEEDED)

    @property
    def on_server(self) -> bool:
        """Whether the store is on a server: it can fail, and hosts share it."""
        return self.url != MEMORY and not self.url.startswith(SHARED)

    @property
    def clustered(self) -> bool:
        """Whether its buckets are spread over the slots of a cluster."""
        return self.url.partition(":")[0].endswith("+cluster")

    @property
    def shown(self) -> str:
        """The URL without secrets."""
        return hide_secrets(self.url)

    def settled(self) -> StoreSpec:
        """Return the specification with its secret, for stores that are opened later. Raise `StoreError`.

        If the file changed meanwhile, a later store would have other names, and so other buckets.
        """
        if self.secret_file is None or self.secret is not None or not self.on_server:
            return self
        try:
            return replace(self, secret=read_secret(self.secret_file))
        except ValueError as error:
            raise StoreError(f"secret_file: {error}") from None

    def open(self) -> Store:
        """Return the store, opened. Raises `StoreError`, `MissingExtraError`."""
        if self.url == MEMORY:
            return MemoryStore(self.max_keys or MAX_KEYS)
        if not self.on_server:
            return self._open_table(path_of(self.url.removeprefix(SHARED)))
        return self._open_on_server(RedisStore)

    def _open_table(self, path: Path) -> SharedMemoryStore:
        if not path.exists():
            return SharedMemoryStore(path, self.max_keys or MAX_KEYS)
        store = SharedMemoryStore.open(path)
        if self.max_keys is not None and self.max_keys != (kept := store.stats().max_keys):
            _log.warning(
                "the shared table %s keeps its room for %d live buckets: max_keys = %d needs a table of another name",
                path, kept, self.max_keys,
            )  # fmt: skip
        return store

    def open_async(self) -> Store | AsyncStore:
        """Return the store for asyncio, opened. A store on a server must be awaited."""
        return self._open_on_server(AsyncRedisStore) if self.on_server else self.open()

    def _open_on_server(self, kind: type[S]) -> S:
        return kind(
            self.url, prefix=self.prefix, secret=self.settled().secret, timeout=self.timeout,
            on_error=self.on_error, expected_nodes=self.expected_nodes,
        )  # fmt: skip


def opened(
    store: Store | AsyncStore | str | None, opening: Callable[[StoreSpec], Store | AsyncStore]
) -> Store | AsyncStore:
    """Return a given store, or open the one that a string names; None is memory.

    Raises TypeError for anything else, with the right forms, and `StoreError`.
    """
    if store is None or isinstance(store, str):
        return opening(StoreSpec(MEMORY if store is None else store))
    parts = all(hasattr(store, part) for part in ("clock", "wait_queue", "decide"))
    if isinstance(store, type) or not parts or not (is_async(store) or hasattr(store, "bind")):
        what = f"the class {store.__name__}" if isinstance(store, type) else type(store).__name__
        raise TypeError(f"store must be a store, such as MemoryStore(), or a string: {FORMS}; not {what}")
    return store
