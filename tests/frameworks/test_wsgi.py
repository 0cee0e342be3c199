"""Limits in WSGI: what passes through a middleware untouched, and applications as they are deployed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import django_site  # noqa: F401  it sets Django up
import httpx
import pytest
from django.core.wsgi import get_wsgi_application
from django.test import override_settings
from redis_servers import wait_for
from servers import free_port, program, wait_until_answers
from web_sites import flask_app, memory, serving

from ratekeeper import MissingExtraError, Policy, RateLimitExceeded
from ratekeeper.frameworks import wsgi
from ratekeeper.frameworks.flask import RateLimits
from ratekeeper.frameworks.wsgi import RateLimitMiddleware, rate_limit
from ratekeeper.http.attributes import AttributeReader
from ratekeeper.http.limiter import RequestLimiter
from ratekeeper.http.paths import USUAL_PATH, plain_path

EXAMPLES = Path(__file__).parents[2] / "examples" / "frameworks"
EACH = Policy.parse('[[rules]]\nname = "each"\nkey = ["client"]\nlimit = "3/minute"')


class Body:
    """Some bytes, and whether the server has closed them, as it must."""

    closed = False

    def __iter__(self) -> Iterator[bytes]:
        yield b"some "
        yield b"bytes"

    def close(self) -> None:
        self.closed = True


def limited(application: Any) -> RateLimitMiddleware:
    return RateLimitMiddleware(application, EACH, store=memory())


def test_a_body_is_closed_by_the_server_and_is_the_very_object_that_a_file_wrapper_made() -> None:
    body = Body()
    returned: list[Iterable[bytes]] = []

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return (
            environ["wsgi.file_wrapper"](open(EXAMPLES / "flask_app.py", "rb"))
            if environ["PATH_INFO"] == "/file"
            else body
        )

    def watching(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        returned.append(middleware(environ, start_response))
        return returned[-1]

    middleware = limited(application)
    with serving(watching) as client:
        assert client.get("/").content == b"some bytes"
        assert client.get("/file").content == (EXAMPLES / "flask_app.py").read_bytes()
    assert returned[0] is body
    assert body.closed
    assert type(returned[1]).__name__ == "FileWrapper"


def test_an_application_may_begin_anew_with_an_error_and_the_limits_are_told_once() -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        try:
            raise ValueError
        except ValueError:
            start_response("502 Bad Gateway", [("Content-Type", "text/plain")], sys.exc_info())
        return [b"sorry"]

    with serving(limited(application)) as client:
        answer = client.get("/")
    assert (answer.status_code, answer.text) == (502, "sorry")
    assert answer.headers.get_list("ratelimit") == ['"each";r=2;t=20']


def test_a_refusal_has_no_body_where_the_method_has_none() -> None:
    sent: list[Any] = []
    middleware = limited(lambda environ, start_response: [])
    environ = {"REQUEST_METHOD": "HEAD", "PATH_INFO": "/", "REMOTE_ADDR": "192.0.2.7"}
    bodies = [middleware(environ, lambda *head: sent.append(head)) for _ in range(4)]
    assert bodies[-1] == []
    assert sent[-1][0] == "429 Too Many Requests"


def test_a_limit_that_refuses_after_the_response_began_is_an_error_and_no_second_response() -> None:
    @rate_limit("1/hour", name="once")
    def once() -> None:
        pass

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        once()
        write(b"begun")
        once()
        return []

    heads: list[Any] = []

    def start_response(*head: Any) -> Any:
        heads.append(head)
        return lambda data: None

    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "REMOTE_ADDR": "192.0.2.7"}
    with pytest.raises(RateLimitExceeded, match="rule 'once': over the limit"):
        limited(application)(environ, start_response)
    assert [head[0] for head in heads] == ["200 OK"]


@pytest.mark.parametrize("forgiving", [False, True], ids=["raises", "makes a 500 of it"])
def test_a_functions_limit_refuses_with_429_also_where_what_is_in_between_makes_a_500_of_errors(
    forgiving: bool,
) -> None:
    body = Body()

    @rate_limit("1/hour")
    def inner(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"fine"]

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        try:
            return inner(environ, start_response)
        except RateLimitExceeded:
            if not forgiving:
                raise
            start_response("500 Internal Server Error", [])(b"sorry")
            return body

    with serving(limited(application)) as client:
        fine, refused = client.get("/"), client.get("/")
    assert (fine.text, refused.status_code) == ("fine", 429)
    assert refused.json()["violated-policies"] == ["1/hour"]
    assert body.closed is forgiving


def test_a_limit_that_the_application_has_dealt_with_takes_no_later_response_away() -> None:
    @rate_limit("1/hour")
    def once() -> None:
        pass

    def later(start_response: Any) -> Iterator[bytes]:
        start_response("500 Internal Server Error", [])
        yield b"of another kind"

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with suppress(RateLimitExceeded):
            once()
        return later(start_response)

    with serving(limited(application)) as client:
        answers = [client.get("/") for _ in range(2)]
    assert [(one.status_code, one.text) for one in answers] == [(500, "of another kind")] * 2


INSIDE_AND_OUTSIDE = Policy.parse(
    '[[rules]]\nname = "inside"\nmatch.path = "/items/*"\nlimit = "9/hour"\n'
    '[[rules]]\nname = "outside"\nmatch.path = ["/api/items/*", "/café/items/*"]\nlimit = "9/hour"'
)


def mounted(application: Any, name: str) -> Any:
    """Return an application that is mounted below a path, as a dispatcher does it."""
    script_name = name.encode().decode("latin-1")  # PEP 3333

    def mount(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ["SCRIPT_NAME"] = script_name
        environ["PATH_INFO"] = environ["PATH_INFO"].removeprefix(script_name)
        returned: Iterable[bytes] = application(environ, start_response)
        return returned

    return mount


@contextmanager
def mounted_site(framework: str, name: str) -> Iterator[httpx.Client]:
    options: dict[str, Any] = {"policy": INSIDE_AND_OUTSIDE, "store": memory()}
    if framework == "django":
        with override_settings(RATEKEEPER=options), serving(mounted(get_wsgi_application(), name)) as client:
            yield client
    else:
        app: Any = flask_app() if framework == "flask" else RateLimitMiddleware(small, **options)
        if framework == "flask":
            RateLimits(app, **options)
        with serving(mounted(app, name)) as client:
            yield client


def small(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [environ["PATH_INFO"].removeprefix("/items/").encode()]


@pytest.mark.parametrize("name", ["/api", "/café"])
@pytest.mark.parametrize("framework", ["wsgi", "flask", "django"])
def test_a_mounted_application_is_limited_by_its_paths_with_and_without_where_it_is_mounted(
    framework: str, name: str
) -> None:
    with mounted_site(framework, name) as client:
        answer = client.get(f"{name}/items/1")
    assert answer.text == "1"
    assert answer.headers["ratelimit"] == '"inside";r=8;t=400, "outside";r=8;t=400'


SERVED = {
    "flask, gunicorn": ("-m", "gunicorn", "--chdir", EXAMPLES, "--bind", "127.0.0.1:{}", "flask_app:app"),
    "flask, its own": ("-m", "flask", "--app", EXAMPLES / "flask_app.py", "run", "--port", "{}"),
    "django, gunicorn": ("-m", "gunicorn", "--chdir", EXAMPLES, "--bind", "127.0.0.1:{}", "django_app"),
    "django, its own": (EXAMPLES / "django_app.py", "runserver", "--noreload", "{}"),
}


@pytest.mark.parametrize("words", SERVED.values(), ids=SERVED)
def test_the_examples_keep_their_limits_on_real_servers(words: tuple[str | Path, ...]) -> None:
    port = free_port()
    command = [str(word).format(port) for word in words]
    with program(sys.executable, *command, quiet=True) as process:
        wait_until_answers(f"http://127.0.0.1:{port}/", process)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            answers = [client.get("/reports", headers={"x-api-key": "k-1"}).status_code for _ in range(3)]
            other, without = client.get("/reports", headers={"x-api-key": "k-2"}), client.get("/reports")
            # A hundred, as a stall fills its bucket anew with twenty.
            forged = [client.get("/", headers={"x-forwarded-for": f"192.0.2.{n}"}) for n in range(100)]
    assert answers == [200, 200, 429]
    assert other.text == "a report for k-2"
    assert without.status_code == 403
    assert {one.status_code for one in forged} == {200, 429}


PRELOADED = """
from ratekeeper.frameworks.wsgi import RateLimitMiddleware

def pid(environ, start_response):
    import os
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % os.getpid()]

application = RateLimitMiddleware(pid, "policy.toml")
"""


def test_workers_forked_from_an_application_that_was_loaded_before_watch_its_policys_file_too(tmp_path: Path) -> None:
    policy = '[[rules]]\nname = "each"\nkey = ["client"]\nlimit = "{}/minute"'
    (tmp_path / "preloaded.py").write_text(PRELOADED)
    (tmp_path / "policy.toml").write_text(policy.format(1000))
    url = f"http://127.0.0.1:{(port := free_port())}/"
    command = ("--preload", "--workers", "2", "--chdir", tmp_path, "--bind", f"127.0.0.1:{port}", "preloaded")
    with program(sys.executable, "-m", "gunicorn", *command, quiet=True) as process:
        wait_until_answers(url, process)
        (tmp_path / "policy.toml").write_text(policy.format(2000))
        changed: set[str] = set()

        def every_worker_has_it() -> bool:
            answer = httpx.get(url)
            if ";q=2000;" in answer.headers["ratelimit-policy"]:
                changed.add(answer.text)
            return len(changed) == 2

        wait_for(every_worker_has_it)


@pytest.mark.parametrize(
    ("part", "blocked", "extra"),
    [("flask", "flask", "flask"), ("django", "django.conf", "django"), ("drf", "rest_framework.throttling", "drf")],
)
def test_a_framework_that_is_not_installed_is_named_with_what_to_install(
    part: str, blocked: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, blocked, None)
    monkeypatch.delitem(sys.modules, f"ratekeeper.frameworks.{part}", raising=False)
    with pytest.raises(MissingExtraError, match=rf"pip install 'ratekeeper\[{extra}\]'"):
        importlib.import_module(f"ratekeeper.frameworks.{part}")


def test_a_long_path_takes_no_place_in_a_cache() -> None:
    path = "/" + "a" * USUAL_PATH
    exchange = wsgi.EnvironExchange(RequestLimiter(), {"REQUEST_METHOD": "GET", "PATH_INFO": path})
    before = wsgi._encoded.cache_info().currsize, plain_path.cache_info().currsize
    assert AttributeReader({}, wanted={"path"}).read(exchange) == {"path": path}
    assert (wsgi._encoded.cache_info().currsize, plain_path.cache_info().currsize) == before
