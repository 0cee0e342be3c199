"""Flask: an extension. Flask's own error handlers see refusals. Knows no other framework."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from os import PathLike
from typing import Any, Unpack, cast

from ratekeeper.errors import MissingExtraError, RatekeeperError
from ratekeeper.exceeded import RateLimitExceeded
from ratekeeper.frameworks import wsgi
from ratekeeper.http.endpoints import check_endpoints, exempt
from ratekeeper.http.exchange import CURRENT, current
from ratekeeper.http.limiter import REFUSALS, RequestLimiter
from ratekeeper.http.options import Options, check_options
from ratekeeper.http.rate_limit import rate_limit
from ratekeeper.http.request_limits import LIMITS, KeptLimits, RequestLimits
from ratekeeper.http.responses import Response
from ratekeeper.http.workers import warn_if_limits_multiply
from ratekeeper.policy.decision import as_policy_decision
from ratekeeper.policy.model import Policy
from ratekeeper.stores.base import Store

try:
    import flask
    from werkzeug.exceptions import default_exceptions
except ImportError:
    raise MissingExtraError("ratekeeper.frameworks.flask", "flask") from None

__all__ = ["RateLimits", "RequestLimits", "exempt", "rate_limit"]


_SUCH_AS = "write RateLimits(app, 'policy.toml'), or RateLimits(policy='policy.toml') and init_app(app)"


class RateLimits:
    """`RateLimits(app, "policy.toml")`: decide each request by a policy, and tell the client its limits.

    For `policy` and `store` see `ratekeeper.frameworks.wsgi`. The options are `ratekeeper.http.options.Options`.
    Their functions get Flask's request, and are not async. `rejection` returns a value that a view may return. The
    attribute `route` is the URL rule, such as "/items/<int:item>", and `endpoint` is the method and the rule; a request
    without a rule has neither. A view's own limit is `@rate_limit("5/minute")`, under `@app.route`.

    Every request counts, also for static files. A `before_request` charges it; functions that were registered before it
    run first, and so does every `url_value_preprocessor`. A refusal is a `RateLimitExceeded`. The application may
    handle it, or a 429, by an `errorhandler`. If it does not, the client gets a problem body (RFC 9457). A view's limit
    that cannot be used, or that limits nothing, is an error at the first request, as Flask has no hook at its start.

    Each application that is passed to `init_app` has its own buckets, unless `store` is shared.
    """

    def __init__(
        self,
        app: flask.Flask | None = None,
        policy: Policy | str | PathLike[str] | None = None,
        *,
        store: Store | str | None = None,
        **options: Unpack[Options],
    ) -> None:
        check_options(policy, options)
        self._has_policy = policy is not None
        self._make_limiter = partial(RequestLimiter, policy, store=store, **options)
        if app is not None:
            self.init_app(app)

    def init_app(self, app: flask.Flask) -> None:
        """Limit the requests to an application. Raises RuntimeError if something does so already."""
        if not isinstance(app, flask.Flask):
            hint = "a rule's match limits the paths of a blueprint" if isinstance(app, flask.Blueprint) else _SUCH_AS
            raise TypeError(f"RateLimits is for an application of Flask, not for {app!r}: {hint}")
        if "ratekeeper" in app.extensions:
            raise RuntimeError(f"{app!r} has RateLimits already: a second would charge each request twice")
        middleware = _Middleware(app, self._make_limiter())
        # Flask raises here if it has answered a request already. So nothing else is done before.
        # It takes the handler of the nearest class: the application's, for RateLimitExceeded, comes before ours.
        app.register_error_handler(RatekeeperError, middleware.handle_error)
        if self._has_policy:
            app.before_request(_charge)
        app.extensions["ratekeeper"] = middleware
        app.wsgi_app = middleware  # type: ignore[method-assign]  # Flask's way to wrap an application
        # On the class, so that no request pays for it.
        app.app_ctx_globals_class = cast("Any", type)("Globals", (app.app_ctx_globals_class,), {"ratekeeper": LIMITS})


def _charge() -> None:
    """Charge a request. Now the route is known, and Flask handles errors."""
    exchange = current()
    if (refusal := exchange.limiter.charge(exchange)) is not None:
        exchange.refuse(refusal)


class _Middleware:
    """The WSGI middleware around the application, and its handler of errors."""

    def __init__(self, app: flask.Flask, limiter: RequestLimiter) -> None:
        self.limiter = limiter
        self._flask = app
        self._app = app.wsgi_app
        self._checked = False

    def __call__(self, environ: wsgi.Environ, start_response: wsgi.StartResponse) -> Iterable[bytes]:
        if not self._checked:
            check_endpoints(self._flask.view_functions.values(), self.limiter.policy_of)
            warn_if_limits_multiply(self.limiter.store, bool(environ.get("wsgi.multiprocess")))
            self._checked = True
        exchange = _Exchange(self.limiter, environ)
        token = CURRENT.set(exchange)
        try:
            return self._app(environ, partial(_start, exchange, start_response))
        finally:
            CURRENT.reset(token)

    def handle_error(self, error: RatekeeperError) -> Any:
        if not isinstance(error, REFUSALS):
            raise error
        answer = self.limiter.answer(current(), error)
        if not isinstance(answer, Response):
            return answer
        response = flask.Response(answer.body, answer.status, list(answer.headers))
        own = as_policy_decision(error.decision).message if isinstance(error, RateLimitExceeded) else None
        raised = default_exceptions[answer.status](own or str(error), response)
        handled = flask.current_app.handle_http_exception(raised)
        return response if handled is raised else handled  # Flask would run the error as an application


def _start(exchange: _Exchange, start_response: wsgi.StartResponse, status: str, headers: Any, *exc_info: Any) -> Any:
    """Begin a response. A stream is sent after the call of the application, and may still use the request's limits."""
    if not any(name.lower() == "content-length" for name, _ in headers) and flask.has_app_context():
        answering = flask.current_app.extensions.get("ratekeeper")  # another application may be mounted inside
        if isinstance(answering, _Middleware) and answering.limiter is exchange.limiter:
            flask.g.ratekeeper = KeptLimits(exchange)
    return wsgi.start_limited(exchange, start_response, status, headers, *exc_info)


class _Exchange(wsgi.EnvironExchange):
    """A request, as Flask reads it."""

    @property
    def native(self) -> flask.Request:
        request: flask.Request = self._environ["werkzeug.request"]
        return request

    def cookie(self, name: str, /) -> str | None:
        return self.native.cookies.get(name) or None

    def route(self) -> str | None:
        rule = self.native.url_rule
        return None if rule is None else rule.rule

    def functions(self) -> tuple[Any, ...]:
        request = self.native
        rule = request.url_rule
        if rule is None or (request.method == "OPTIONS" and getattr(rule, "provide_automatic_options", False)):
            return ()  # no view answers
        return (flask.current_app.view_functions[rule.endpoint],)
