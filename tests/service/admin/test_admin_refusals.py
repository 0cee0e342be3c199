"""Requests that the admin API does not carry out: nothing changes, and the log has no key and no token."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from admin_client import TOKEN, Admin, admin_service
from servers import PATIENCE
from service_process import RawClient, Running, running

from ratekeeper.service.pauses import EVERY

pytestmark = pytest.mark.slow

USER = "k-secret-of-a-user"
ATTRIBUTES = {"user": USER, "path": "/api/x"}
CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("reset", {"attributes": ATTRIBUTES}),
    ("refund", {"attributes": ATTRIBUTES}),
    ("grant", {"attributes": ATTRIBUTES, "tokens": 2}),
    ("block", {"attributes": ATTRIBUTES, "seconds": 3600}),
    ("unblock", {"attributes": ATTRIBUTES}),
    ("pause", {"rule": "each user", "seconds": 3600}),
    ("resume", {"rule": "each user"}),
    ("reload", {}),
]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Admin]]:
    with admin_service(tmp_path_factory.mktemp("admin")) as (service, admin):
        assert [admin.check(USER) for _ in range(4)].count(True) == 3
        yield service, admin


def state(admin: Admin) -> Any:
    """Everything that a change could change, but for times that pass."""
    [usage] = admin.do("usage", attributes=ATTRIBUTES)["rules"]
    policy = admin.see("policy")
    return (
        {name: usage[name] for name in ("used", "remaining", "blocked_until")},
        [rule["paused_until"] for rule in admin.see("rules")["rules"]],
        policy["last_reload"],
        policy["now"],
    )


def settled(admin: Admin) -> Any:
    """The state, once it has not changed for longer than the processes take to hear of a change.

    While this machine stalls they hear of nothing, so a look that took long begins the time anew.
    """
    last, since, deadline = state(admin), time.monotonic(), time.monotonic() + 2 * PATIENCE
    while (began := time.monotonic()) < since + 2 * EVERY:
        assert began < deadline
        now = state(admin)
        if now != last or time.monotonic() > began + EVERY:
            last, since = now, time.monotonic()
    return last


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (401, {"authorization": ""}),
        (401, {"authorization": "Bearer"}),
        (401, {"authorization": f"Bearer {TOKEN}x"}),
        (401, {"authorization": f"Bearer {TOKEN[:-1]}"}),
        (401, {"authorization": f"Bearer {TOKEN.upper()}"}),
        (401, {"authorization": f"Bearer {TOKEN} {TOKEN}"}),
        (401, {"authorization": f"Basic {TOKEN}"}),
        (401, {"authorization": TOKEN}),
        (401, {"authorization": "", "cookie": f"token={TOKEN}"}),
        (403, {"origin": "http://evil.example"}),
        (403, {"origin": "null"}),
        (403, {"origin": "http://evil.example", "authorization": ""}),
        (400, {"idempotency_key": ""}),
        (400, {"idempotency_key": "short-1"}),
        (400, {"idempotency_key": "a" * 65}),
        (400, {"idempotency_key": "with space"}),
    ],
    ids=str,
)
def test_a_request_that_may_not_be_changes_nothing(
    service: tuple[Running, Admin], status: int, headers: dict[str, str]
) -> None:
    _, admin = service
    before = state(admin)
    for name, body in CHANGES:
        answer = admin.send("POST", name, body, **headers)
        assert (answer.status_code, answer.json()["status"]) == (status, status)
        assert ("www-authenticate" in answer.headers) == (status == 401)
    assert state(admin) == before


def test_an_answer_is_not_stored_and_sets_no_cookie(service: tuple[Running, Admin]) -> None:
    for answer in (service[1].send("GET", "rules"), service[1].send("GET", "rules", authorization="")):
        assert answer.headers["cache-control"] == "no-store"
        assert not {"set-cookie", "access-control-allow-origin"} & answer.headers.keys()


def test_a_page_of_the_service_itself_may_ask(service: tuple[Running, Admin]) -> None:
    running_service, admin = service
    assert admin.send("GET", "rules", origin=running_service.url).status_code == 200
    answer = admin.send("GET", "rules", origin=running_service.url, host="ratekeeper.internal")
    assert answer.status_code == 403
    assert "a proxy has changed its header Host: let the proxy hand the header on" in answer.json()["detail"]


@pytest.mark.parametrize(
    "lines",
    [
        f"Authorization: Bearer {TOKEN}\r\nAuthorization: Bearer {TOKEN}\r\n",
        f"Authorization: Bearer {TOKEN}\r\nAuthorization: Bearer wrong-token-of-nobody\r\n",
        f"Authorization: Bearer {TOKEN}\r\nauthorization: Basic x\r\n",
        f"Authorization: Bearer {TOKEN}\r\nOrigin: http://a\r\nOrigin: http://a\r\n",
        f"Authorization: Bearer {TOKEN}\r\nIdempotency-Key: abcdefgh\r\nIdempotency-Key: abcdefgi\r\n",
        f"Authorization: Bearer {TOKEN}\r\nAccess-Control-Request-Method: POST\r\n",
    ],
)
def test_a_header_that_is_repeated_changes_nothing(service: tuple[Running, Admin], lines: str) -> None:
    running_service, admin = service
    before = state(admin)
    body = '{"rule": "each user", "seconds": 3600}'
    head = f"POST /v1/admin/pause HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n"
    answer = RawClient(running_service.address)
    answer.send(f"{head}{lines}\r\n{body}".encode())
    assert answer.answer().startswith(b"HTTP/1.1 400 ")
    assert state(admin) == before


@pytest.mark.parametrize("verb", ["GET", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_another_method_changes_nothing(service: tuple[Running, Admin], verb: str) -> None:
    admin = service[1]
    before = state(admin)
    for name, body in CHANGES:
        answer = admin.send(verb, name, body, idempotency_key=f"by-{verb}-{name}")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert state(admin) == before


def test_a_change_that_is_sent_again_is_done_once_by_any_process(service: tuple[Running, Admin]) -> None:
    _, admin = service
    for name, body in CHANGES:
        admin.send("POST", name, body, idempotency_key=f"once-{name}")
    admin.do("reset", attributes=ATTRIBUTES)
    admin.do("resume", rule="each user")
    settled(admin)
    assert [admin.check(USER) for _ in range(4)].count(True) == 3
    before = settled(admin)
    for name, body in [*CHANGES, *CHANGES]:
        assert admin.send("POST", name, body, idempotency_key=f"once-{name}").status_code == 409
    assert settled(admin) == before


def test_of_many_equal_requests_at_once_one_is_carried_out(service: tuple[Running, Admin]) -> None:
    admin = service[1]
    asked = {"attributes": {"user": "u-many", "path": "/api/x"}, "tokens": 1}
    assert [admin.check("u-many") for _ in range(3)] == [True] * 3
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        sent = [threads.submit(admin.send, "POST", "grant", asked, idempotency_key="many-at-once") for _ in range(24)]
    assert sorted(one.result().status_code for one in sent) == [200] + [409] * 23
    assert [admin.check("u-many") for _ in range(3)].count(True) == 1


def test_the_log_tells_who_did_what_and_no_key_and_no_token(service: tuple[Running, Admin]) -> None:
    running_service, admin = service
    bob = Admin(running_service.url, "another-token-of-an-admin")
    bob.do("grant", attributes=ATTRIBUTES, tokens=1)
    bob.error("grant", 400, attributes={**ATTRIBUTES, "path": "/both"}, tokens=1)
    admin.do("block", attributes={"user": "line\nbreak \x1b[31m", "path": "/api/\n2026 forged"}, seconds=60)
    log = running_service.log
    assert "bob: grant {" in log
    assert "not done: ValueError" in log
    assert "alice: block {" in log
    assert f'"path": "{ATTRIBUTES["path"]}"' in log
    assert not [part for part in (USER, TOKEN, "another-token", "\x1b", "line\nbreak") if part in log]
    assert "\n2026 forged" not in log


def test_without_tokens_there_is_no_admin_api(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("rules = [{name = 'all', limit = '1/s'}]")
    with running(tmp_path / "policy.toml") as service:
        admin = Admin(service.url)
        for name, body in CHANGES:
            answer = admin.send("POST", name, body)
            assert answer.status_code == 404
            assert "--admin-tokens" in answer.json()["detail"]
        assert httpx.get(f"{service.url}/v1/admin/rules").status_code == 404
