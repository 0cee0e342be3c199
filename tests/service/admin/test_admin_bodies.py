"""Hostile bodies: each is an error that says what would be right, in time that is linear in its size."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratekeeper.errors import BadRequestError
from ratekeeper.service.admin.fields import Field, is_name, is_number, is_strings, is_whole, parse_fields

FIELDS = {
    "attributes": Field(is_strings, "an object of strings", required=True),
    "cost": Field(is_whole, "a whole number"),
    "until": Field(is_number, "a time"),
    "rule": Field(is_name, "a name"),
}
RIGHT = b'{"attributes": {"user": "a"}}'

WRONG = [
    (b"", "not JSON"),
    (b"[]", "must be a JSON object"),
    (b"null", "must be a JSON object"),
    (b'"' + RIGHT + b'"', "not JSON"),
    (RIGHT + RIGHT, "not JSON"),
    (RIGHT[:-1] + b', "cost": NaN}', "NaN is not a number"),
    (RIGHT[:-1] + b', "until": Infinity}', "Infinity is not a number"),
    (RIGHT[:-1] + b', "until": -Infinity}', "-Infinity is not a number"),
    (RIGHT[:-1] + b', "until": 1e999}', "1e999 is too large"),
    (RIGHT[:-1] + b', "until": -1e999}', "-1e999 is too large"),
    (RIGHT[:-1] + b', "until": 1' + b"0" * 400 + b"}", "until must be a time"),
    (RIGHT[:-1] + b', "until": 1' + b"0" * 5000 + b"}", "not JSON"),
    (RIGHT[:-1] + b', "cost": 1.0}', "cost must be"),
    (RIGHT[:-1] + b', "cost": true}', "cost must be"),
    (RIGHT[:-1] + b', "cost": -1}', "cost must be"),
    (RIGHT[:-1] + b', "cost": 1000000000001}', "cost must be"),
    (RIGHT[:-1] + b', "cost": null}', "cost must be"),
    (RIGHT[:-1] + b', "until": true}', "until must be"),
    (RIGHT[:-1] + b', "kost": 1}', "unknown name 'kost': did you mean 'cost'?"),
    (RIGHT[:-1] + b', "cost": 1, "cost": 1}', "'cost' is repeated"),
    (b'{"attributes": {"user": "a", "user": "a"}}', "'user' is repeated"),
    (b'{"attributes": {"user": "a", "\\u0075ser": "b"}}', "'user' is repeated"),
    (b'{"attributes": {"user": 1}}', "attributes must be"),
    (b'{"attributes": ["user"]}', "attributes must be"),
    (b"{}", "attributes is missing"),
    (b'{"attributes": ' + b"9" * 5_000 + b"}", "999... is too large"),
    (b"[" * 60_000, "nested too deep"),
    (b'{"attributes":' * 4_000, ""),
    (b'{"attributes": {"user": "\xed\xa0\x80"}}', "not UTF-8"),
    (b'{"attributes": {"user": "\xff"}}', "not UTF-8"),
    (RIGHT.decode().encode("utf-16"), "not UTF-8"),
    (b"\xef\xbb\xbf" + RIGHT, "not JSON"),
    (b'{"attributes": {"user": "a\nb"}}', "not JSON"),
]


def test_a_name_where_none_is_known_is_told_what_to_send() -> None:
    with pytest.raises(BadRequestError, match=r"unknown name 'rule': send an empty object"):
        parse_fields(b'{"rule": "each user"}', {})


@pytest.mark.parametrize(("body", "why"), WRONG, ids=[repr(body[:40]) for body, _ in WRONG])
def test_a_wrong_body_is_told_what_is_wrong(body: bytes, why: str) -> None:
    with pytest.raises(BadRequestError) as raised:
        parse_fields(body, FIELDS)
    assert why in str(raised.value)
    assert len(str(raised.value)) < 500


def test_a_lone_surrogate_is_a_value_as_a_client_may_have_sent_one() -> None:
    assert parse_fields(b'{"attributes": {"user": "\\ud800"}}', FIELDS) == {"attributes": {"user": "\ud800"}}


def test_many_names_take_no_longer_than_their_number() -> None:
    names = {f"n{n}": "x" for n in range(5_000)}
    body = json.dumps({"attributes": names}).encode()
    assert parse_fields(body, FIELDS) == {"attributes": names}
    with pytest.raises(BadRequestError, match="'n4999' is repeated"):
        parse_fields(body[:-2] + b', "n4999": "x"}}', FIELDS)


@given(st.binary(max_size=200))
def test_any_bytes_are_fields_or_an_error(body: bytes) -> None:
    try:
        given_fields = parse_fields(body, FIELDS)
    except BadRequestError:
        return
    assert "attributes" in given_fields


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from([*FIELDS, "more"]), JSON))
def test_any_object_of_json_is_fields_that_are_right_or_an_error(body: dict[str, object]) -> None:
    try:
        given_fields = parse_fields(json.dumps(body).encode(), FIELDS)
    except BadRequestError:
        return
    assert given_fields == body
    assert all(FIELDS[name].right(value) for name, value in given_fields.items())
