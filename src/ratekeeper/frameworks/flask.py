"""Flask: an extension. Flask's own error handlers see what is refused. Knows no other framework."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from os import PathLike
from typing import Any, Unpack

from ratekeeper.errors import MissingExtraError, RatekeeperError
from ratekeeper.frameworks import wsgi
from ratekeeper.http.exchange import CURRENT, current
from ratekeeper.http.limiter import REFUSALS, RequestLimiter
from ratekeeper.http.options import Options
from ratekeeper.http.rate_limit import check_endpoints, rate_limit
from ratekeeper.http.response import Response
from ratekeeper.http.workers import warn_if_limits_multiply
from ratekeeper.policy.model import Policy
from ratekeeper.stores.base import Store

try:
    import flask
    from werkzeug.exceptions import default_exceptions
except ImportError:
    raise MissingExtraError("ratekeeper.frameworks.flask", "flask") from None

__all__ = ["RateLimits", "rate_limit"]


class RateLimits:
    """`RateLimits(app, "policy.toml")`: decide each request by a policy, and tell the client its limits.

    For `policy` and `store` see `ratekeeper.frameworks.wsgi`, for the options `ratekeeper.http.options`; their
    functions are given Flask's request, and are not async. `rejection` returns what a view may return. The attribute
    `route` is the URL rule, such as "/items/<int:item>", and `endpoint` that with the method; what no rule takes has
    neither. A view's own limit is `@rate_limit("5/minute")`, under `@app.route`.

    Every request counts, those for static files too. It is charged by a `before_request`: those that were registered
    earlier run first. A refusal is a `RateLimitExceeded`. The application may handle it, or 429, by an `errorhandler`;
    if it does not, the client is sent a problem body (RFC 9457). A limit on a view that cannot be used, or that limits
    nothing, is an error at the first request: Flask does not tell of a start.

    Each application that `init_app` is given has buckets of its own, unless `store` is shared.
    """

    def __init__(
        self,
        app: flask.Flask | None = None,
        policy: Policy | str | PathLike[str] | None = None,
        *,
        store: Store | str | None = None,
        **options: Unpack[Options],
    ) -> None:
        self._has_policy = policy is not None
        self._limits = partial(RequestLimiter, policy, store=store, **options)
        if app is not None:
            self.init_app(app)

    def init_app(self, app: flask.Flask) -> None:
        """Limit the requests to an application. Raises RuntimeError if something does so already."""
        if "ratekeeper" in app.extensions:
            raise RuntimeError(f"{app!r} has RateLimits already: a second would charge each request twice")
        middleware = app.extensions["ratekeeper"] = _Middleware(app, self._limits())
        app.wsgi_app = middleware  # type: ignore[method-assign]  # Flask's way to wrap an application
        if self._has_policy:
            app.before_request(_charge)
        # Of an error's classes Flask takes the nearest that is handled: who handles RateLimitExceeded comes before us.
        app.register_error_handler(RatekeeperError, middleware.handle_error)


def _charge() -> None:
    """Charge a request: now the route is known, and Flask handles errors."""
    exchange = current()
    if (refusal := exchange.limits.charge(exchange)) is not None:
        exchange.refuse(refusal)


class _Middleware:
    """What stands around the application, and what the application calls."""

    def __init__(self, app: flask.Flask, limits: RequestLimiter) -> None:
        self.limits = limits
        self._flask = app
        self._app = app.wsgi_app
        self._checked = False

    def __call__(self, environ: wsgi.Environ, start_response: wsgi.StartResponse) -> Iterable[bytes]:
        if not self._checked:
            check_endpoints(self._flask.view_functions.values(), self.limits.policy_of)
            warn_if_limits_multiply(self.limits.store, bool(environ.get("wsgi.multiprocess")))
            self._checked = True
        exchange = _Exchange(self.limits, environ)
        token = CURRENT.set(exchange)
        try:
            return self._app(environ, partial(wsgi.start_limited, exchange, start_response))
        finally:
            CURRENT.reset(token)

    def handle_error(self, error: RatekeeperError) -> Any:
        if not isinstance(error, REFUSALS):
            raise error
        answer = self.limits.answer(current(), error)
        if not isinstance(answer, Response):
            return answer
        response = flask.Response(answer.body, answer.status, list(answer.headers))
        return flask.current_app.handle_http_exception(default_exceptions[answer.status](str(error), response))


class _Exchange(wsgi.EnvironExchange):
    """An environ that Flask has put its request into."""

    @property
    def native(self) -> flask.Request:
        request: flask.Request = self._environ["werkzeug.request"]
        return request

    def cookie(self, name: str, /) -> str | None:
        return self.native.cookies.get(name) or None

    def route(self) -> str | None:
        rule = self.native.url_rule
        return None if rule is None else rule.rule
