"""The meaning of a client library's errors: an outage, or a mistake in the configuration.

An outage passes by itself, and `on_error` decides requests meanwhile. A mistake in the configuration lasts
until a person mends it. It is a `StoreError`, whatever `on_error` says: to pass or refuse requests because of it would
hide it for ever.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ratekeeper.errors import StoreError, StoreUnavailable

_PASSING = re.compile(r"(?:^|-)(?:LOADING|READONLY|CLUSTERDOWN|MASTERDOWN|OOM|TRYAGAIN|NOREPLICAS|MISCONF|BUSY)\b")
"""How a server says that it cannot answer now, but may soon. In a script's error it may stand behind a '-'."""

_LEFT_MEANWHILE = "non local key in a cluster node"
"""In a script's error: while a slot moves, its bucket was there when it was called, and full again when it was read.

The script reads all buckets of a request before it writes to any, so nothing was charged.
"""

_ONE_OF_A_CLUSTER = "the server is a node of a cluster: write redis+cluster:// in its URL, or hand in a RedisCluster"

_RIGHTS = (
    "allow the user EVALSHA, EVAL, TIME, GET, SET and DEL on the keys that begin with the store's prefix; for "
    "reset_all and reset_rule also SCAN and UNLINK; on a cluster CLUSTER, COMMAND and ASKING; for another database "
    "than 0 SELECT; for the option client_name CLIENT|SETNAME"
)

_MENDS = (
    (r"NOPERM|[Nn]o permission", _RIGHTS),  # first, as a cluster's client says "not enabled" for it
    (r"cluster support disabled|Cluster mode is not enabled", "the server is not a cluster: write redis:// in its URL"),
    (r"\A(MOVED|ASK|CROSSSLOT) |hash to the same slot", _ONE_OF_A_CLUSTER),
    (
        r"WRONGPASS|NOAUTH|invalid username-password|Authentication required|must be called with the client already",
        "the server refuses the user: write the right name and password in its URL, redis://user:password@host:6379/0",
    ),
    (r"Too many connections", "the client's pool is used up: give it more connections than threads that ask at once"),
    (r"unknown command '?SENTINEL", "the server is not a Sentinel: write redis:// in its URL"),
    (
        r"[Uu]nknown (?:(?:Redis|Valkey) )?command",
        "the store needs a server of which it may use EVALSHA, EVAL, TIME, GET, SET and DEL, and for reset_all and "
        "reset_rule also SCAN and UNLINK",
    ),
    (r"NOPROTO|protocol must be", "protocol is 2 or 3"),
    (r"DB index is out of range", "the server has no database of this number"),
    (r"protected mode", "let the server be reached from other hosts, best with a password"),
    (
        r"WRONGTYPE|wrong kind of value|is not a bucket",
        "something else uses the bucket's name: give the store another prefix",
    ),
    (r"WRONG_VERSION_NUMBER|record layer failure", "the server does not speak TLS: write redis:// in its URL"),
    (r"CERTIFICATE_VERIFY_FAILED", "the server's certificate is not trusted: see the option ssl_ca_certs"),
    (
        r"Protocol [Ee]rror",
        "what listens there is not Redis or Valkey, or it speaks TLS: then write rediss:// in its URL",
    ),
)
"""Mistakes that last, by words of an error, and their mends. A cluster's client hides them in another error."""

_SECRETS = re.compile(r"(://)[^\s@]*(@)|(\b(?:username|password)['\"]?\s*[=:]\s*)('[^']*'|\"[^\"]*\"|[^\s,)>]+)")
_ARGUMENTS = re.compile(r",? ?with args beginning with:.*", re.DOTALL)
"""The part of a command that a server without EVALSHA repeats. It has names of buckets."""


class ClientErrors:
    """Tells the errors of one client library (redis or valkey) apart. `clustered`: the store uses a cluster.

    Of a cluster's nodes, three errors say that nothing was executed, so a request that is sent on is charged once:

    MOVED     the slot is another node's now, for good: the client's map of the cluster is old
    ASK       the slot is being moved, and this bucket is not here (any more): for this once, ask there
    TRYAGAIN  of several buckets, some are here and some there, or none is anywhere yet: no node can decide now
    """

    def __init__(self, library: Any, clustered: bool = False) -> None:
        errors = library.exceptions
        self.no_script: type[Exception] = errors.NoScriptError
        self.ask: type[Exception] = errors.AskError
        self.moved: type[Exception] = errors.MovedError
        self.try_again: type[Exception] = errors.TryAgainError
        self.reply: type[Exception] = errors.ResponseError
        self.garbled: type[Exception] = errors.InvalidResponse
        cluster = tuple(
            getattr(errors, name)
            for name in ("RedisClusterException", "ValkeyClusterException")
            if hasattr(errors, name)
        )
        self.known: tuple[type[Exception], ...] = (library.RedisError, OSError, *cluster)
        self._clustered = clustered
        self._of_a_cluster = (errors.AskError, errors.TryAgainError)
        # A caller's pool that is used up is not an outage either: to pass requests for it would be to fail open.
        used_up = (errors.MaxConnectionsError,) if hasattr(errors, "MaxConnectionsError") else ()
        self._lasting = (errors.AuthenticationError, errors.AuthorizationError, errors.InvalidResponse, *used_up)
        self._passing = (
            errors.ConnectionError, errors.TimeoutError, errors.ReadOnlyError, errors.OutOfMemoryError,
            errors.TryAgainError, errors.AskError, errors.ClusterError, errors.ClusterDownError, OSError, *cluster,
        )  # fmt: skip

    def moving(self, error: Exception) -> bool:
        """Return whether a slot is moved, or has been. Such a node answers, and its other slots are as they were."""
        return self._clustered and isinstance(error, self.ask | self.try_again)

    def left_meanwhile(self, error: Exception) -> bool:
        """Return whether a slot is moved, and its bucket ended between the call of the script and its first look."""
        return self._clustered and isinstance(error, self.reply) and _LEFT_MEANWHILE in str(error)

    def keeps(self, error: Exception) -> bool:
        """Return whether the connection of this error reply may be used again. Not if a new one may find a primary.

        After a failover behind one address the old primary still answers on the old connections.
        """
        return isinstance(error, self._of_a_cluster) or not self._passes(error)

    @staticmethod
    def refused(error: BaseException) -> bool:
        """Return whether the connection was refused: no process listens there."""
        if any(isinstance(one, ConnectionRefusedError | FileNotFoundError) for one in _chain(error)):
            return True
        return "Connect call failed" in str(error)  # asyncio's, of several addresses

    def named(self, error: Exception) -> StoreError:
        """Return the error that the caller gets for one of `known`."""
        mend = self._mend(error)
        if mend is None and self._passes(error) and not any(isinstance(one, self._lasting) for one in _chain(error)):
            return StoreUnavailable(f"the Redis store does not answer: {told(error)}")
        return StoreError(f"the Redis store cannot be used: {told(error)}" + (f" -- {mend}" if mend else ""))

    def _passes(self, error: Exception) -> bool:
        text = str(error)
        return isinstance(error, self._passing) or _PASSING.search(text) is not None or _LEFT_MEANWHILE in text

    def _mend(self, error: Exception) -> str | None:
        """Return how a mistake in the configuration is mended; None if the error is not known to be one."""
        if isinstance(error, self._of_a_cluster):
            return None if self._clustered else _ONE_OF_A_CLUSTER
        texts = [str(one) for one in _chain(error)]
        return next((mend for said, mend in _MENDS if any(re.search(said, text) for text in texts)), None)


def told(error: BaseException) -> str:
    """Return an error for people, without secrets: some client libraries put the options of a connection into it."""
    return f"{type(error).__name__}: " + _SECRETS.sub(r"\1\3***\2", _ARGUMENTS.sub("", str(error)))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those behind it: client libraries put the first cause behind their own error."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def is_split(error: BaseException) -> bool:
    """Return whether the buckets of one call were on several nodes. Then nothing was done; each may be asked for."""
    return type(error.__cause__).__name__ == "TryAgainError"  # so in both libraries
