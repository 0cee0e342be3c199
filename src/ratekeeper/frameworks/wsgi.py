"""WSGI: limits for any application that is called. Knows no framework; `flask` and `django` are built on it.

The application's result passes through as it is: a stream is not read, a file is left to the server, and the server
calls `close`. The middleware only adds headers to a response, and answers a refused request.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from functools import lru_cache, partial
from http import HTTPStatus
from os import PathLike
from typing import Any, TypeAlias, Unpack
from urllib.parse import quote

from ratekeeper.errors import BadRequestError, RatekeeperError
from ratekeeper.http.endpoints import check_endpoints, views_of
from ratekeeper.http.exchange import CURRENT, Exchange
from ratekeeper.http.header_lines import MOST_BYTES, text_of
from ratekeeper.http.limiter import REFUSALS, RequestLimiter
from ratekeeper.http.options import Options, check_application, wrong_rejection
from ratekeeper.http.paths import USUAL_PATH
from ratekeeper.http.rate_limit import rate_limit
from ratekeeper.http.request_limits import LIMITS, KeptLimits, RequestLimits
from ratekeeper.http.responses import Response
from ratekeeper.http.workers import warn_if_limits_multiply
from ratekeeper.policy.model import Policy
from ratekeeper.stores.base import Store

__all__ = ["RateLimitMiddleware", "RequestLimits", "rate_limit"]

Environ: TypeAlias = dict[str, Any]
StartResponse: TypeAlias = Callable[..., Any]
App: TypeAlias = Callable[[Environ, StartResponse], Iterable[bytes]]

_NOT_HTTP = frozenset({"CONTENT_TYPE", "CONTENT_LENGTH"})


class RateLimitMiddleware:
    """Decide each request by a policy, and tell the client its limits.

    `policy` is a `Policy`, or the name of its file. Without one, only the functions' own limits count (`rate_limit`).
    `store` is a store, or its string, such as "redis://localhost"; the default is the policy's, or else the process's
    memory. The options are `ratekeeper.http.options.Options`. Their functions get the environ. `rejection` returns
    a WSGI application.

    A refused request gets a 429 with a problem body (RFC 9457), or a 503 if the store does not answer. A request whose
    rules let it wait is held until its turn, in its thread. A `rate_limit` counts while the application is called, and
    not in a generator that it returns.
    """

    def __init__(
        self,
        app: App,
        policy: Policy | str | PathLike[str] | None = None,
        *,
        store: Store | str | None = None,
        **options: Unpack[Options],
    ) -> None:
        check_application(app, 'RateLimitMiddleware(app, "policy.toml")')
        self.app = app
        self.limiter = RequestLimiter(policy, store=store, routes=False, **options)
        self._checked = False

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if not self._checked:
            check_endpoints(views_of(self.app), self.limiter.policy_of)
            warn_if_limits_multiply(self.limiter.store, bool(environ.get("wsgi.multiprocess")))
            self._checked = True
        environ["ratekeeper"] = LIMITS
        exchange = EnvironExchange(self.limiter, environ)
        reply = _Reply(exchange, start_response)
        token = CURRENT.set(exchange)
        try:
            refusal = self.limiter.charge(exchange)
            if refusal is None:
                body = self.app(environ, reply.start)
                if reply.dropped is None:
                    exchange.error = None  # a response that begins later is not a refusal
                    if isinstance(body, Generator):  # it runs after this call
                        environ["ratekeeper"] = KeptLimits(exchange)
                    return body
                refusal = reply.dropped
                if (close := getattr(body, "close", None)) is not None:
                    close()
        except REFUSALS as error:  # from a function's limit, or from the application's own limiter
            if reply.started:
                raise
            refusal = error
        finally:
            CURRENT.reset(token)
        answer = self.limiter.answer(exchange, refusal)
        if not (isinstance(answer, Response) or callable(answer)):
            raise wrong_rejection(answer, "a WSGI application")
        app: Any = partial(_answer, answer) if isinstance(answer, Response) else answer
        return app(environ, partial(start_limited, exchange, start_response))  # type: ignore[no-any-return]


def start_limited(
    exchange: Exchange, start_response: StartResponse, status: str, headers: list[tuple[str, str]], *exc_info: Any
) -> Any:
    """Begin a response, with the headers about limits."""
    exchange.limiter.answered(exchange, int(status[:3]))
    told = exchange.limit_headers()
    if "Retry-After" in dict(told):  # a response may have one, and ours is exact
        headers = [header for header in headers if header[0].lower() != "retry-after"]
    return start_response(status, headers + told, *exc_info)


class _Reply:
    """Starts the application's response, or notes the refusal that takes its place."""

    __slots__ = ("_exchange", "_start_response", "dropped", "started")

    def __init__(self, exchange: Exchange, start_response: StartResponse) -> None:
        self._exchange = exchange
        self._start_response = start_response
        self.started = False
        """Whether the application has begun its response."""
        self.dropped: RatekeeperError | None = None
        """The refusal in place of which the application has begun a 500."""

    def start(self, status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
        # Some frameworks, and mounted applications, make a 500 of an error that they do not know.
        if self._exchange.error is not None and not self.started and status.startswith("500"):
            self.dropped = self._exchange.error
            return _write_nothing
        self.started = True
        return start_limited(self._exchange, self._start_response, status, headers, *exc_info)


def _write_nothing(data: bytes) -> None:
    """Ignore the data of a dropped response."""


class EnvironExchange(Exchange):
    """A request, as its WSGI environ has it. A framework that knows more has a subclass.

    A repeated header is as the server has joined it.
    """

    def __init__(self, limiter: Any, environ: Environ) -> None:
        self.limiter = limiter
        self.decisions = []
        self.around = CURRENT.get()
        mounted = environ.get("SCRIPT_NAME")  # its bytes as characters, as in `path`
        self.prefix = mounted.encode("latin-1", "replace").decode("utf-8", "replace") if mounted else ""
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
        """The path, encoded again. The server has decoded it, and its characters are bytes (PEP 3333).

        Without that it would be decoded twice, and "%2561" would be read as "a".
        """
        path = self._environ.get("SCRIPT_NAME", "") + self._environ.get("PATH_INFO", "")
        return (_encoded if len(path) <= USUAL_PATH else _encoded.__wrapped__)(path)

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


@lru_cache(maxsize=1024)
def _encoded(path: str) -> str:
    return quote(path, "/", "latin-1")


@lru_cache(maxsize=256)
def _environ_key(name: str) -> str:
    key = name.upper().replace("-", "_")
    return key if key in _NOT_HTTP else f"HTTP_{key}"


def _answer(response: Response, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    length = ("Content-Length", str(len(response.body)))
    start_response(f"{response.status} {HTTPStatus(response.status).phrase}", [*response.headers, length])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [response.body]
