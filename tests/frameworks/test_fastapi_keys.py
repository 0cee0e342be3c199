"""A limit in FastAPI whose key is the value of a dependency, as a decorator and as a dependency."""

from __future__ import annotations

import runpy
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from uuid import UUID

import pytest
from asgi_servers import serving
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Security
from fastapi.security import APIKeyHeader
from raw_client import RawClient
from starlette_apps import limited

from ratekeeper import Policy
from ratekeeper.frameworks.fastapi import rate_limit
from ratekeeper.testing import frozen

EACH = Policy.parse('[[rules]]\nname = "each"\nkey = ["client"]\nlimit = "9/hour"')
api_key = APIKeyHeader(name="X-User", auto_error=False)
EXAMPLE = Path(__file__).parents[2] / "examples" / "frameworks" / "fastapi_keys_app.py"
calls: list[str | None] = []


def current_user(user: Annotated[str | None, Security(api_key)]) -> str | None:
    calls.append(user)
    if user == "nobody":
        raise HTTPException(401)
    return user


def as_decorator(limit: Any, app: FastAPI, own: Any) -> None:
    app.get("/")(limit(own))


def as_dependency(limit: Any, app: FastAPI, own: Any) -> None:
    app.get("/", dependencies=[Depends(limit)])(own)


def of_a_router(limit: Any, app: FastAPI, own: Any) -> None:
    router = APIRouter(dependencies=[Depends(limit)])
    router.get("/")(own)
    app.include_router(router)


def answer() -> Any:
    """Return an endpoint: another one each time, as a limit is noted on its function."""

    async def answer(text: str = "", who: str | None = Depends(current_user)) -> str:
        return f"{text} of {who}"

    return answer


def in_a_thread() -> Any:
    def answer(text: str = "", who: str | None = Depends(current_user)) -> str:
        return f"{text} of {who}"

    return answer


class Way(NamedTuple):
    put: Any
    own: Any


PUTS = (as_decorator, as_dependency, of_a_router)
WAYS = {f"{put.__name__}, {own.__name__}": Way(put, own) for put in PUTS for own in (answer, in_a_thread)}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    calls.clear()
    return WAYS[request.param]


def application(way: Way, **options: Any) -> FastAPI:
    app: FastAPI = limited(FastAPI(), policy=EACH)
    way.put(rate_limit("2/hour", key=Depends(current_user), **options), app, way.own())
    return app


def ask(app: FastAPI, *users: str) -> list[int]:
    with serving(app) as url, closing(RawClient(url)) as client:
        return [client.send("/?text=a", *[(b"X-User", user.encode())] * bool(user)).status for user in users]


def test_the_value_of_a_dependency_is_the_key_and_it_is_called_once_in_a_request(way: Way) -> None:
    assert ask(application(way), "alice", "alice", "alice", "bob", "nobody") == [200, 200, 429, 200, 401]
    assert calls == ["alice", "alice", "alice", "bob", "nobody"]


def test_what_the_endpoint_gets_and_what_openapi_shows_stay_as_they_are(way: Way) -> None:
    plain = FastAPI()
    plain.get("/")(way.own())
    app = application(way)
    with serving(app) as url, closing(RawClient(url)) as client:
        assert client.send("/?text=a", (b"X-User", b"alice")).body == b'"a of alice"'
    assert app.openapi()["paths"] == plain.openapi()["paths"]
    assert app.openapi()["components"] == plain.openapi()["components"]


def test_openapi_shows_the_parameters_of_a_dependency_that_only_the_limit_has() -> None:
    def tenant(x_tenant: Annotated[str, Header()]) -> str:
        return x_tenant

    app: FastAPI = limited(FastAPI())

    @app.get("/")
    @rate_limit("1/hour", key=Depends(tenant))
    async def own(text: str = "") -> str:
        return text

    parameters = app.openapi()["paths"]["/"]["get"]["parameters"]
    assert {one["name"]: one["required"] for one in parameters} == {"x-tenant": True, "text": False}
    assert ask(app, "alice") == [422], "the dependency refuses a request without the header"


def test_without_a_key_all_share_a_bucket_or_as_missing_says(way: Way) -> None:
    assert ask(application(way), "", "", "", "alice") == [200, 200, 429, 200]
    assert ask(application(way, missing="skip"), *[""] * 4) == [200] * 4


def test_two_limits_of_one_endpoint_may_have_keys_from_dependencies() -> None:
    def first_letter(user: Annotated[str | None, Security(api_key)]) -> str:
        return (user or "-")[0]

    app: FastAPI = limited(FastAPI())

    @app.get("/")
    @rate_limit("3/hour", key=Depends(first_letter))
    @rate_limit("1/day", key=Depends(current_user))
    async def own(text: str = "") -> str:
        return text

    assert ask(app, "alice", "alice", "anna", "adam", "axel", "bob") == [200, 429, 200, 200, 429, 200]


@pytest.mark.parametrize("value", [7, UUID(int=7), "seven"])
def test_a_key_may_be_a_number_or_a_uuid(value: Any) -> None:
    app: FastAPI = limited(FastAPI())
    as_decorator(rate_limit("1/hour", key=Depends(lambda: value)), app, answer())
    assert ask(app, "a", "b") == [200, 429]


def test_a_test_may_override_the_dependency_and_the_limit() -> None:
    app = application(WAYS["as_dependency, answer"])
    app.dependency_overrides[current_user] = lambda: "one"
    assert ask(app, "alice", "bob", "carol") == [200, 200, 429]


def test_an_object_that_is_no_key_is_an_error_and_not_one_bucket_for_all() -> None:
    app: FastAPI = limited(FastAPI())
    as_decorator(rate_limit("1/hour", key=Depends(object)), app, answer())
    assert ask(app, "alice") == [500]


def test_what_cannot_be_is_an_error_with_the_mend() -> None:
    with pytest.raises(TypeError, match=r"key=Depends\(\) has no dependency: write, say, key=Depends"):
        rate_limit("1/hour", key=Depends())
    with pytest.raises(TypeError, match="a key from a dependency is not known when rules are replaced"):
        rate_limit("1/hour", key=Depends(current_user), replaces=["each"])


def test_a_function_that_fastapi_does_not_call_has_no_key_which_is_an_error() -> None:
    app: FastAPI = limited(FastAPI())
    inner = rate_limit("1/hour", key=Depends(current_user))(answer())

    @app.get("/")
    async def own() -> None:
        await inner("", "alice")

    assert ask(app, "alice") == [500]


def test_the_example_limits_each_user_and_not_the_health_check() -> None:
    app = runpy.run_path(str(EXAMPLE))["app"]
    with frozen(), serving(app) as url, closing(RawClient(url)) as client:
        statuses = [client.send("/search", (b"X-Api-Key", key)).status for key in (*[b"k-1"] * 9, b"k-2", b"k-3")]
        assert client.statuses("/healthz") == [200]
    assert statuses == [200] * 5 + [429] * 4 + [200, 401]
