"""A client cannot make its own question an error, at which Envoy lets the request pass by default."""

from __future__ import annotations

import pytest
from rls_messages import RateLimitResponse, rls_request
from test_rls_policy import Service

from ratekeeper.service.grpc.codec import OK, OVER_LIMIT

POLICY = """
[[rules]]
name = "each"
key = ["client"]
limit = "1/hour"

[[rules]]
name = "one path"
match = { path = "/other" }
limit = "1/hour"

[[rules]]
name = "costly"
match = { method = "POST" }
cost = "tokens"
limit = "9/hour"
"""
ENTRIES = {"remote_address": "192.0.2.1", "PATH": "/items/x", "METHOD": "GET"}
LONG = "x" * 59_000


@pytest.mark.parametrize(
    "changed",
    [
        {"PATH": "/items/" + "x" * 8_200},
        {"PATH": "/x%2f..;/\\" * 200},
        {"PATH": "/items/x?" + LONG},
        {"api_key": LONG},
        {"METHOD": "POST", "tokens": "many"},
    ],
)
def test_a_client_over_its_limit_is_refused_whatever_it_sends(changed: dict[str, str]) -> None:
    service = Service(POLICY)
    assert service.ask(ENTRIES).overall_code == OK
    for others in ([], [ENTRIES]):
        answer = service.ask(*others, ENTRIES | changed)
        assert answer.overall_code == OVER_LIMIT
        assert [one.code for one in answer.statuses][-1] == OVER_LIMIT
        assert b'"status"' in answer.raw_body


def test_a_header_that_is_not_utf8_is_read_as_latin_1() -> None:
    service = Service(POLICY)
    asked = rls_request("d", ENTRIES | {"api_key": "secret"}).SerializeToString()
    for value in (b"secret", b"\xe9cret\xff"):
        answer = service.client.call(asked.replace(b"secret", value))
        assert answer.status == 0
    assert RateLimitResponse.FromString(answer.messages[5:]).overall_code == OVER_LIMIT
    assert service.ask({"one": "é"}).overall_code == OK
