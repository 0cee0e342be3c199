"""What an error of a client library means: the server does not answer, or something is wrong that must be mended."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ratekeeper.errors import StoreError, StoreUnavailable

_PASSING = ("LOADING", "READONLY", "CLUSTERDOWN", "MASTERDOWN", "OOM", "TRYAGAIN", "NOREPLICAS", "MISCONF", "BUSY")
"""How a server says that it cannot answer now, but may soon."""


_LEFT_MEANWHILE = "non local key in a cluster node"
"""In a script's error: while a slot moves, its bucket was there when it was called, and full again when it was read."""

_REFUSES_USER = ("WRONGPASS", "NOAUTH", "NOPERM", "invalid username-password", "Authentication required")
"""How a server refuses a user: a cluster's client may put it into the text of another error."""

_MUST_BE_MENDED = (*_REFUSES_USER, "Too many connections")  # so redis 5 says that a pool is used up

_SECRETS = re.compile(r"(://)[^\s@]*(@)|(\b(?:username|password)['\"]?\s*[=:]\s*)('[^']*'|\"[^\"]*\"|[^\s,)>]+)")


class Faults:
    """Tells the errors of one client library (redis or valkey) apart."""

    def __init__(self, library: Any) -> None:
        errors = library.exceptions
        self.no_script: type[Exception] = errors.NoScriptError
        self.ask: type[Exception] = errors.AskError
        self.moved: type[Exception] = errors.MovedError
        self.try_again: type[Exception] = errors.TryAgainError
        cluster = tuple(
            getattr(errors, name)
            for name in ("RedisClusterException", "ValkeyClusterException")
            if hasattr(errors, name)
        )
        self.known: tuple[type[Exception], ...] = (library.RedisError, OSError, *cluster)
        # A pool of the caller's that is used up is no outage either: to pass requests for it would be to fail open.
        used_up = (errors.MaxConnectionsError,) if hasattr(errors, "MaxConnectionsError") else ()
        self._lasting = (errors.AuthenticationError, errors.AuthorizationError, *used_up)
        self._passing = (
            errors.ConnectionError, errors.TimeoutError, errors.ReadOnlyError, errors.OutOfMemoryError,
            errors.TryAgainError, errors.AskError, errors.ClusterError, errors.ClusterDownError, OSError, *cluster,
        )  # fmt: skip

    def moving(self, error: Exception) -> bool:
        """Is it that a slot is moved, or has been? Such a node answers, and its other slots are as they were."""
        return isinstance(error, self.ask | self.try_again)

    @staticmethod
    def refused(error: BaseException) -> bool:
        """Is it that nobody listens there?"""
        if any(isinstance(one, ConnectionRefusedError | FileNotFoundError) for one in _chain(error)):
            return True
        return "Connect call failed" in str(error)  # asyncio's, of several addresses

    def named(self, error: Exception) -> StoreError:
        """Return the error that the caller gets for one of `known`."""
        text = told(error)
        passing = isinstance(error, self._passing) or str(error).startswith(_PASSING) or _LEFT_MEANWHILE in str(error)
        lasting = any(isinstance(one, self._lasting) for one in _chain(error)) or any(
            word in str(error) for word in _MUST_BE_MENDED
        )
        if passing and not lasting:
            return StoreUnavailable(f"the Redis store does not answer: {text}")
        return StoreError(f"the Redis store cannot be used: {text}")


def told(error: BaseException) -> str:
    """Return an error for people. Some client libraries put the options of a connection into it: no secret is shown."""
    return f"{type(error).__name__}: " + _SECRETS.sub(r"\1\3***\2", str(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those behind it: client libraries put the first cause behind an error of their own."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def is_split(error: BaseException) -> bool:
    """Is it that the buckets of one call were not all on one node? Then nothing was done, and each may be asked for."""
    return type(error.__cause__).__name__ == "TryAgainError"  # so in both libraries
