"""Attributes read from header lines in C, and by their definition: the same for any lines; the usual ones in C."""

from __future__ import annotations

import random
from typing import Any

import pytest

from ratekeeper import core
from ratekeeper.errors import BadRequestError
from ratekeeper.http.attributes import AttributeReader
from ratekeeper.http.line_steps import Step
from ratekeeper.policy.sources import AppSource, BearerSource, ClientIP, CookieSource, HeaderSource, PathSource, Source
from ratekeeper.service.http.exchange import GatewayExchange

pytestmark = pytest.mark.skipif(core.line_reader is None, reason="the C core is not in use")

USUAL = [
    (b"Host", b"a"),
    (b"X-Forwarded-Method", b"HEAD"),
    (b"X-Forwarded-Uri", b"/api/search?q=1"),
    (b"X-Forwarded-For", b"203.0.113.9, 192.0.2.7:4711"),
    (b"X-Api-Key", b" k-1\t"),
    (b"Accept", b"text/plain"),
]
SOURCES: list[dict[str, Source]] = [
    {},
    {"api_key": HeaderSource("x-api-key"), "accepts": HeaderSource("Accept")},
    {"client": ClientIP(trusted_proxies=2, ipv4_prefix=24, ipv6_prefix=48), "from": HeaderSource("forwarded")},
    {"client": ClientIP(trusted_proxies=1000), "key": HeaderSource("x_odd_key")},
    {"other": ClientIP(trusted_proxies=1, ipv4_prefix=8), "where": PathSource()},
    {"hops": HeaderSource("x-forwarded-for")},
]
NAMES = [name for name, _ in USUAL] + [b"x-forwarded-for", b"X_Forwarded-For", b"x-forwarded_uri", b"x-odd-key",
                                       b"X_Odd_Key", b"x-api-kez", b"", b"\xe9"]  # fmt: skip
VALUES = [b"", b" ", b"GET", b"get", b"HEAD", b"OTHER", b"BREW", b"/", b"/a/b", b"/a//b", b"/a/../b", b"/%61",
          b"a", b"/a?b#c", b"http://h/x", b"/" + b"a" * 300, b"/\xc3\xa9", b"/\xff", b"192.0.2.1",
          b"192.0.2.1, 10.0.0.1", b",", b",,", b" , 10.1.2.3 ,", b"[2001:db8::1]:80", b"2001:db8::7", b"unknown",
          b"1" * 101, b"1" * 100, b"a,b", b"\x1f", b"a\x1c", b"\x0b10.0.0.1\x0b,\x1f", b"fe80::1%eth0",
          b"::ffff:10.0.0.1"]  # fmt: skip
PEERS = ["10.9.9.9", "::1", None, "", "x" * 101]


def reader_of(sources: dict[str, Source]) -> AttributeReader:
    return AttributeReader(sources, ClientIP(1), {"method", "path", "client", *sources})


def exchange(lines: Any, peer: str | None) -> GatewayExchange:
    return GatewayExchange(None, peer, b"GET", b"/check", lines)  # type: ignore[arg-type]  # nothing is charged


def read_in_c(reader: AttributeReader, lines: Any, peer: Any = "10.9.9.9") -> dict[str, str] | None:
    assert reader.read_lines is not None
    return reader.read_lines(lines, peer)


def check_same(reader: AttributeReader, lines: list[tuple[bytes, bytes]], peer: str | None) -> bool:
    """Compare what C reads, if it reads it, with the definition. Return whether it read it."""
    found = read_in_c(reader, lines, peer)
    if found is not None:
        asked = exchange(lines, peer)
        assert asked.header("x-forwarded-method"), lines
        assert asked.header("x-forwarded-uri"), lines
        expected = reader.read(asked)
        assert (found, [*found]) == (expected, [*expected]), lines
        assert {type(value) for value in found.values()} == {str}
    return found is not None


@pytest.mark.parametrize("sources", SOURCES[:-1])
def test_a_usual_request_is_read_in_c(sources: dict[str, Source]) -> None:
    for lines in (USUAL, USUAL[::-1], [line for line in USUAL if line[0] != b"X-Forwarded-For"]):
        for peer in PEERS[:-1]:
            assert check_same(reader_of(sources), lines, peer)


def test_the_attributes_of_a_usual_request() -> None:
    found = {"method": "GET", "path": "/api/search", "client": "192.0.2.7", "api_key": "k-1", "accepts": "text/plain"}
    assert read_in_c(reader_of(SOURCES[1]), USUAL) == found


@pytest.mark.parametrize("seed", range(8))
def test_any_lines_are_read_as_the_definition_reads_them(seed: int) -> None:
    chance, read = random.Random(seed), 0
    readers = [reader_of(sources) for sources in SOURCES]
    for _ in range(3_000):
        lines = [(name, value if chance.random() < 0.6 else chance.choice(VALUES)) for name, value in USUAL]
        for _ in range(chance.choice([0, 0, 1, 2])):
            lines.insert(chance.randrange(len(lines) + 1), (chance.choice(NAMES), chance.choice(VALUES)))
        if chance.random() < 0.3:
            del lines[chance.randrange(len(lines))]
        read += check_same(chance.choice(readers), lines, chance.choice(PEERS))
    assert 300 < read < 2_700


@pytest.mark.parametrize("byte", range(256))
def test_each_byte_of_a_value_is_read_as_the_definition_reads_it(byte: int) -> None:
    one, reader = bytes([byte]), reader_of(SOURCES[1])
    for place in range(1, len(USUAL)):
        for value in (one, one + b"a", b"a" + one, USUAL[place][1] + one, one + USUAL[place][1]):
            lines = [*USUAL]
            lines[place] = USUAL[place][0], value
            try:
                check_same(reader, lines, "10.9.9.9")
            except BadRequestError:
                pytest.fail(f"C has read what is refused: {lines}")


@pytest.mark.parametrize(
    "lines",
    [USUAL * 2, [*USUAL, (b"X-Api_Key", b"k-2")], USUAL[2:], USUAL[:2] + USUAL[3:], [*USUAL, (b"Accept", b"a,b")]],
)
def test_an_unusual_request_is_left_to_the_definition(lines: list[tuple[bytes, bytes]]) -> None:
    assert read_in_c(reader_of(SOURCES[1]), lines) is None


@pytest.mark.parametrize(
    "lines", [None, 7, b"", "x", [None], [()], [(b"x-api-key",)], [("x-api-key", "k")], iter(USUAL)]
)
@pytest.mark.parametrize("peer", [None, "10.0.0.1", 7, b"10.0.0.1"])
def test_anything_else_is_left_to_the_definition(lines: Any, peer: Any) -> None:
    assert read_in_c(reader_of({}), lines, peer) is None


def test_a_peer_that_is_not_a_string_is_left_to_the_definition() -> None:
    assert read_in_c(reader_of({}), [line for line in USUAL if line[0] != b"X-Forwarded-For"], 7) is None


@pytest.mark.parametrize(
    "sources",
    [
        {"key": BearerSource()},
        {"key": CookieSource("session")},
        {"key": HeaderSource("authorization")},
        {"key": AppSource()},
        {"key": HeaderSource("x-é")},
        {"client": ClientIP()},
        {"path": PathSource(ignore_case=True)},
        {"path": HeaderSource("x-path")},
        {"method": HeaderSource("x-method")},
    ],
)
def test_attributes_that_only_python_can_read_are_not_read_in_c(sources: dict[str, Source]) -> None:
    assert reader_of(sources).read_lines is None


def test_a_function_may_change_the_lines_while_it_converts_a_value() -> None:
    lines = [(b"a", b"1"), (b"b", b"2")]

    def convert(value: str) -> str:
        lines.clear()
        return value * 2

    steps = (Step("first", "a", False, False, convert=convert), Step("second", "b", False, False))
    assert core.line_reader is not None
    assert core.line_reader(steps).read(lines, None) == {"first": "11"}


def test_an_error_of_a_function_is_raised() -> None:
    def fail(value: str, more: int) -> str:
        raise ValueError(f"{value} and {more}")

    step = Step("first", "a", False, False, convert=fail, more=(99,))
    assert core.line_reader is not None
    with pytest.raises(ValueError, match="1 and 99"):
        core.line_reader((step,)).read([(b"a", b"1")], None)


@pytest.mark.parametrize(
    "steps",
    [
        7,
        [],
        (7,),
        ((),),
        (("a", "b", False, False, 0, 9, None),),
        (("a", b"b", False, False, 0, 9, None, ()),),
        (("a", "é", False, False, 0, 9, None, ()),),
        (("a", "b", False, False, 0, 9, None, []),),
        (("a", "b", False, False, 0, 9, None, (1, 2, 3)),),
        (("a", "b", False, False, 2**70, 9, None, ()),),
    ],
)
def test_steps_that_are_wrong_are_an_error(steps: Any) -> None:
    assert core.line_reader is not None
    with pytest.raises((TypeError, ValueError, OverflowError)):
        core.line_reader(steps)


@pytest.mark.parametrize("arguments", [(), ([],), ([], None, 1)])
def test_a_wrong_number_of_arguments_is_an_error(arguments: tuple[Any, ...]) -> None:
    assert core.line_reader is not None
    with pytest.raises(TypeError):
        core.line_reader(()).read(*arguments)
