"""Limits in Flask: its own ways to make endpoints, to handle errors, and to test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import flask
import httpx
import pytest
from flask.views import MethodView
from web_sites import flask_app, memory, serving

from ratekeeper import Policy, RateLimitExceeded
from ratekeeper.frameworks.flask import RateLimits, rate_limit
from ratekeeper.http.exchange import CURRENT
from ratekeeper.testing import frozen

EACH = Policy.parse('[[rules]]\nname = "each"\nkey = ["client"]\nlimit = "3/minute"')


def statuses(client: httpx.Client, *paths: str) -> list[int]:
    return [client.get(path).status_code for path in paths]


@pytest.mark.parametrize("handled", [RateLimitExceeded, 429, "before"])
def test_a_refusal_is_the_applications_to_handle_by_class_or_by_status_whichever_came_first(handled: Any) -> None:
    app = flask_app()
    seen: list[Exception] = []

    def own(error: Exception) -> tuple[str, int]:
        seen.append(error)
        return "own page", 429

    if handled == "before":
        app.register_error_handler(RateLimitExceeded, own)
    RateLimits(app, EACH, store=memory())
    if handled != "before":
        app.register_error_handler(handled, own)
    with serving(app) as client:
        *_, by_policy = [client.get("/items/1") for _ in range(4)]
    assert by_policy.text == "own page"
    assert by_policy.headers["retry-after"] == "20"
    assert len(seen) == 1


def test_a_refusal_by_the_policy_is_no_error_of_the_application_and_reaches_no_view() -> None:
    app = flask_app()
    RateLimits(app, EACH, store=memory())
    with serving(app) as client:
        assert statuses(client, *["/boom"] * 4) == [500, 500, 500, 429]


def test_the_applications_error_pages_tell_the_limits_too() -> None:
    app = flask_app()
    RateLimits(app, EACH, store=memory())
    with serving(app) as client:
        answers = [client.get("/none"), client.post("/items/1"), client.get("/boom")]
    assert [one.status_code for one in answers] == [404, 405, 500]
    assert [one.headers["ratelimit"] for one in answers] == [f'"each";r={left};t=20' for left in (2, 1, 0)]


def test_the_url_rule_is_the_route_with_its_blueprints_prefix() -> None:
    policy = Policy.parse(
        '[[rules]]\nname = "items"\nmatch.endpoint = "GET /shop/items/<int:item>"\nlimit = "2/minute"'
    )
    app = flask_app()
    shop = flask.Blueprint("shop", __name__, url_prefix="/shop")
    shop.get("/items/<int:item>", endpoint="item")(lambda item: f"{item}")
    app.register_blueprint(shop)
    RateLimits(app, policy, store=memory())
    with serving(app) as client:
        assert statuses(client, "/shop/items/1", "/shop/items/2", "/shop/items/3", "/items/1") == [200, 200, 429, 200]


def test_a_limit_is_put_on_methods_of_views_and_on_async_views() -> None:
    class Page(MethodView):
        @rate_limit("1/minute")
        def get(self) -> str:
            return "got"

        def post(self) -> str:
            return "posted"

    app = flask_app()
    app.add_url_rule("/page", view_func=Page.as_view("page"))

    @app.get("/async")
    @rate_limit("1/minute")
    async def awaited() -> str:
        return "awaited"

    RateLimits(app, store=memory())
    with serving(app) as client:
        assert statuses(client, "/page", "/page", "/async", "/async") == [200, 429, 200, 429]
        assert client.post("/page").text == "posted"


def test_a_stream_may_use_its_request_to_the_end() -> None:
    app = flask_app()

    @app.get("/echo")
    @rate_limit("1/minute")
    def echo() -> flask.Response:
        def pieces() -> Iterator[str]:
            yield flask.request.args["a"]
            yield flask.request.args["b"]

        return flask.Response(flask.stream_with_context(pieces()))

    RateLimits(app, store=memory())
    with serving(app) as client:
        assert client.get("/echo?a=x&b=y").text == "xy"
        assert statuses(client, "/echo?a=x&b=y") == [429]


def test_a_request_within_a_request_leaves_the_outer_one_its_own_limits() -> None:
    app = flask_app()
    app.testing = True

    @app.get("/outer")
    def outer() -> str:
        inner = flask.current_app.test_client().get("/items/1")
        return f"{inner.headers['ratelimit']}, then {flask.request.path}"

    RateLimits(app, EACH, store=memory())
    with app.app_context(), app.test_client() as client:
        answer = client.get("/outer")
        assert answer.text == '"each";r=1;t=20, then /outer'
        assert answer.headers["ratelimit"] == '"each";r=2;t=20'
    assert CURRENT.get() is None


@frozen()
def test_each_application_that_a_factory_makes_has_its_own_buckets() -> None:
    limits = RateLimits(policy=EACH)
    for _ in range(2):
        app = flask_app()
        limits.init_app(app)
        with serving(app) as client:
            assert statuses(client, *["/items/1"] * 4) == [200, 200, 200, 429]


def test_limits_are_not_put_on_an_application_twice() -> None:
    app = flask_app()
    RateLimits(app, EACH)
    with pytest.raises(RuntimeError, match="has RateLimits already"):
        RateLimits(app, EACH)


def test_limits_that_come_after_the_first_request_change_nothing() -> None:
    app = flask_app()
    with serving(app) as client:
        assert client.get("/items/1").status_code == 200
        with pytest.raises(AssertionError, match="already handled its first request"):
            RateLimits(app, EACH)
        assert "ratekeeper" not in app.extensions
        assert statuses(client, *["/items/1"] * 4) == [200] * 4
