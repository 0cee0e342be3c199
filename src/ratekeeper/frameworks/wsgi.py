"""WSGI: limits for any application that is called. Knows no framework: Flask's own is `flask`, Django's `django`.

What the application returns passes through as it is: a stream is not read, a file is left to the server, and `close` is
called by who called us. Only the headers of a response are added to, and a refused request is answered here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from http import HTTPStatus
from os import PathLike
from typing import Any, TypeAlias, Unpack
from urllib.parse import quote

from ratekeeper.errors import BadRequestError, RatekeeperError
from ratekeeper.http.exchange import CURRENT, Exchange
from ratekeeper.http.header_lines import MOST_BYTES, text_of
from ratekeeper.http.limiter import REFUSALS, RequestLimiter
from ratekeeper.http.options import Options
from ratekeeper.http.rate_limit import rate_limit
from ratekeeper.http.response import Response
from ratekeeper.http.workers import warn_if_limits_multiply
from ratekeeper.policy.model import Policy
from ratekeeper.stores.base import Store

__all__ = ["RateLimitMiddleware", "rate_limit"]

Environ: TypeAlias = dict[str, Any]
StartResponse: TypeAlias = Callable[..., Any]
App: TypeAlias = Callable[[Environ, StartResponse], Iterable[bytes]]

_NOT_HTTP = frozenset({"CONTENT_TYPE", "CONTENT_LENGTH"})


class RateLimitMiddleware:
    """Decide each request by a policy, and tell the client its limits.

    `policy` is the name of its file, or a `Policy`; without one, only functions' own limits count (`rate_limit`).
    `store` is where buckets live, a store or its string, such as "redis://localhost"; by default the policy's, or else
    the process's memory. For the options see `ratekeeper.http.options`; their functions are given the environ.
    `rejection` returns a WSGI application.

    A refusal is 429 with a problem body (RFC 9457), or 503 if the store does not answer. A request whose rules let it
    wait is held until its turn, in its thread. A `rate_limit` counts while the application is called: in a generator
    that it returns there is no request any more.
    """

    def __init__(
        self,
        app: App,
        policy: Policy | str | PathLike[str] | None = None,
        *,
        store: Store | str | None = None,
        **options: Unpack[Options],
    ) -> None:
        self.app = app
        self.limits = RequestLimiter(policy, store=store, routes=False, **options)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        warn_if_limits_multiply(self.limits.store, bool(environ.get("wsgi.multiprocess")))
        exchange = EnvironExchange(self.limits, environ)
        reply = _Reply(exchange, start_response)
        token = CURRENT.set(exchange)
        try:
            refusal = self.limits.charge(exchange)
            if refusal is None:
                body = self.app(environ, reply.start)
                if reply.dropped is None:
                    exchange.error = None  # a response that begins later is not a refusal
                    return body
                refusal = reply.dropped
                if hasattr(body, "close"):
                    body.close()
        except REFUSALS as error:  # of a function's limit, or of a limiter of the application's own
            if reply.started:
                raise
            refusal = error
        finally:
            CURRENT.reset(token)
        answer = self.limits.answer(exchange, refusal)
        app: App = partial(_answer, answer) if isinstance(answer, Response) else answer
        return app(environ, partial(start_limited, exchange, start_response))


def start_limited(
    exchange: Exchange, start_response: StartResponse, status: str, headers: list[tuple[str, str]], *exc_info: Any
) -> Any:
    """Begin a response, with the headers about limits."""
    exchange.limits.answered(exchange, int(status[:3]))
    return start_response(status, headers + exchange.limit_headers(), *exc_info)


class _Reply:
    """What an application answers: whether it has begun to, and the refusal that takes its place."""

    __slots__ = ("_exchange", "_start_response", "dropped", "started")

    def __init__(self, exchange: Exchange, start_response: StartResponse) -> None:
        self._exchange = exchange
        self._start_response = start_response
        self.started = False
        self.dropped: RatekeeperError | None = None

    def start(self, status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
        # What does not know our error makes a 500 of it: some frameworks do, and mounted applications.
        if self._exchange.error is not None and not self.started and status.startswith("500"):
            self.dropped = self._exchange.error
            return _write_nothing
        self.started = True
        return start_limited(self._exchange, self._start_response, status, headers, *exc_info)


def _write_nothing(data: bytes) -> None:
    """Take what an application writes into a response that is dropped."""


class EnvironExchange(Exchange):
    """A WSGI environ, of which nothing is read before it is asked for. A framework that knows more has a subclass.

    A header that is repeated is as the server has joined it.
    """

    def __init__(self, limits: Any, environ: Environ) -> None:
        super().__init__(limits)
        self.prefix = environ.get("SCRIPT_NAME", "")
        self._environ = environ

    @property
    def native(self) -> Any:
        return self._environ

    @property
    def method(self) -> str:
        method: str = self._environ["REQUEST_METHOD"]
        return method

    @property
    def path(self) -> str:
        """The path, encoded again. A server has decoded it, and hands on its bytes as characters (PEP 3333).

        Read as a request line's it would be decoded twice, and what was "%2561" would pass for "a".
        """
        return quote(self._environ.get("SCRIPT_NAME", "") + self._environ.get("PATH_INFO", ""), "/", "latin-1")

    @property
    def peer(self) -> str | None:
        return self._environ.get("REMOTE_ADDR")

    def header(self, name: str, /) -> str | None:
        value: str | None = self._environ.get(_environ_key(name))
        if not value:
            return None
        if len(value) > MOST_BYTES:
            raise BadRequestError(f"the header {name!r} is longer than {MOST_BYTES} bytes", 431)
        return text_of(value.encode("latin-1", "replace")) or None


@lru_cache(maxsize=256)
def _environ_key(name: str) -> str:
    key = name.upper().replace("-", "_")
    return key if key in _NOT_HTTP else f"HTTP_{key}"


def _answer(response: Response, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    length = ("Content-Length", str(len(response.body)))
    start_response(f"{response.status} {HTTPStatus(response.status).phrase}", [*response.headers, length])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [response.body]
