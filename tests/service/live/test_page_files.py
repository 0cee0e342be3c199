"""The page's files: their headers, their names, and what a client may not reach beside them."""

from __future__ import annotations

import re
from importlib import resources

import pytest
from wire_client import HttpAnswer, WireClient, answers_in

from ratekeeper import MemoryStore, Policy
from ratekeeper.service.admin import policies
from ratekeeper.service.bounds import Bounds
from ratekeeper.service.core import Core
from ratekeeper.service.http.page_routes import FILES, TYPES
from ratekeeper.service.http.routes import route_of
from ratekeeper.service.http.wire import HttpWire
from ratekeeper.service.operator_options import OperatorOptions
from ratekeeper.service.recording import what_if_process

CORE = Core(Policy.parse("rules = [{name = 'all', limit = '1000/day'}]"), MemoryStore(100))
CORE.operator = OperatorOptions(recording_bytes=0)
FOLDER = resources.files("ratekeeper.service").joinpath("page")


def ask(target: str, *lines: str, method: str = "GET") -> list[HttpAnswer]:
    client = WireClient(lambda channel: HttpWire(CORE, channel, Bounds()))
    head = "".join(f"{line}\r\n" for line in lines)
    return answers_in(client.send(f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode()), to_head=method == "HEAD")


def test_each_file_of_the_page_is_served_whole_with_careful_headers() -> None:
    assert FILES
    for path in FILES:
        [answer] = ask(path.decode())
        name = path.decode().removeprefix("/page/").replace("/", "page.html")
        assert (answer.status, answer.body) == (200, FOLDER.joinpath(name).read_bytes())
        assert answer.headers["content-type"].encode() == TYPES[name[name.rindex(".") :]]
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
        assert policy == {
            "default-src": "'none'",
            "script-src": "'self'",
            "style-src": "'self'",
            "img-src": "'self' data:",
            "connect-src": "'self'",
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
        }
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["connection"] == "close", "else hundreds could be asked for in one piece"


def test_a_file_that_a_browser_has_is_not_sent_again() -> None:
    [answer] = ask("/page/icon.svg")
    tag = answer.headers["etag"]
    for known in (tag, f'"other", W/{tag}'):
        client = WireClient(lambda channel: HttpWire(CORE, channel, Bounds()))
        data = client.send(f"GET /page/icon.svg HTTP/1.1\r\nIf-None-Match: {known}\r\n\r\n".encode())
        assert data.startswith(b"HTTP/1.1 304 ")
        assert data.endswith(b"\r\n\r\n")
        assert b"content-length" not in data, "it would be that of the file"
        assert not client.closed
    [answer] = ask("/page/icon.svg", 'If-None-Match: "other"', "If-None-Match: x")
    assert answer.status == 200


def test_a_head_has_the_length_of_the_file() -> None:
    [answer] = ask("/page/icon.svg", method="HEAD")
    assert int(answer.headers["content-length"]) == len(FOLDER.joinpath("icon.svg").read_bytes())


@pytest.mark.parametrize(
    "target",
    [
        "/page", "/page/", "/page//icon.svg", "/page/./icon.svg", "/page/../page/icon.svg", "/page/%2e%2e/icon.svg",
        "/page/..%2f..%2fcore.py", "/page/../core.py", "/page/__init__.py", "/page/icon.svg/", "/page/icon.svg%00",
        "/page/ICON.SVG", "/page/etc/passwd", "/page//etc/passwd", "/page/page.html", "//", "/page/uplot.LICENSE",
    ],
)  # fmt: skip
def test_no_other_path_leads_to_a_file(target: str) -> None:
    [answer] = ask(target)
    assert answer.status == 404


def test_a_name_may_be_percent_encoded_and_have_a_query() -> None:
    assert ask("/page/%69con.svg")[0].status == ask("/page/icon.svg?v=1")[0].status == 200
    assert route_of(b"/page/icon.svg") is FILES[b"/page/icon.svg"]


def test_the_page_waits_for_an_answer_longer_than_the_service_takes() -> None:
    text = FOLDER.joinpath("session.js").read_text("utf-8")
    waits = {name: int(ms.replace("_", "")) / 1000 for name, ms in re.findall(r"const (PATIENCE\w*) = ([\d_]+)", text)}
    assert waits["PATIENCE"] > policies._PATIENCE
    assert waits["PATIENCE_TO_COMPUTE"] > what_if_process.SECONDS
    assert 'session.compute("v1/admin/what-if"' in FOLDER.joinpath("what_if.js").read_text("utf-8")
