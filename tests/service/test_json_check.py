"""A program's question has one reading: no key is there twice, as RK.CHECK has no attribute twice."""

from __future__ import annotations

import pytest

from ratekeeper.errors import BadRequestError
from ratekeeper.service.http.json_check import parse_checks
from ratekeeper.service.limiter import CheckRequest


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ('{"attributes": {"path": "/login", "path": "/healthz"}}', "path"),
        ('{"attributes": {"path": "/login", "p\\u0061th": "/healthz"}}', "path"),
        ('{"attributes": {"path": "/login"}, "attributes": {"path": "/healthz"}}', "attributes"),
        ('[{"attributes": {}}, {"attributes": {}, "cost": 5, "cost": 0}]', "cost"),
    ],
)
def test_a_key_that_is_there_twice_is_refused_by_its_name(body: str, name: str) -> None:
    with pytest.raises(BadRequestError, match=f"the key '{name}' is there twice"):
        parse_checks(body.encode())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_question_is_read_in_any_encoding_of_json(encoding: str) -> None:
    asked = parse_checks('{"attributes": {"user": "é"}}'.encode(encoding))
    assert asked == CheckRequest({"user": "é"})


def test_bytes_that_are_no_text_are_not_json() -> None:
    with pytest.raises(BadRequestError, match="the body is not JSON"):
        parse_checks(b'{"attributes": {"user": "\xff"}}')
