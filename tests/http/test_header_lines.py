"""The value of a header, in C and by its definition: the same for any lines, and in C for all that are usual."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ratekeeper import core
from ratekeeper.errors import BadRequestError
from ratekeeper.http.header_lines import MOST_BYTES, MOST_LINES, defined_value, header_value

pytestmark = pytest.mark.skipif(core.find_header is None, reason="the C core is not in use")

NAMES = ["x-user", "x-forwarded-for", "cookie", "authorization", "x_user", "via", "", "é"]
SPELLINGS = [b"X-User", b"x-user", b"x_user", b"X_USER", b"x-user ", b"X-FORWARDED-FOR", b"x-forwarded_for", b"Cookie",
             b"Authorization", b"Via", b"", b"\xe9", b"\xc9", b"x-usep", b"x\xadaser", b"@-User"]  # fmt: skip
BYTES = [b" ", b"\t", b"\n", b"\x0b", b"\x0c", b"\r", b"\x1c", b"\x1f", b"\x1e", b"\x1b", b"\x00", b",", b"a", b"B",
         b"=", b"\x7f", b"\x85", b"\xa0", b"\xc2\xa0", b"\xe2\x80\x83", b"\xff", b"k-1"]  # fmt: skip


def outcome(read: Callable[..., Any], lines: Any, name: str) -> object:
    try:
        return read(lines, name)
    except BadRequestError as error:
        return error.status, str(error)


def found(lines: Any, name: str, is_list: bool = False) -> object:
    assert core.find_header is not None
    return core.find_header(lines, name, is_list)


def some_lines(chance: random.Random) -> list[tuple[bytes, bytes]]:
    return [
        (chance.choice(SPELLINGS), b"".join(chance.choices(BYTES, k=chance.choice([0, 1, 1, 2, 3, 5]))))
        for _ in range(chance.choice([0, 1, 1, 2, 3, 8]))
    ]


@pytest.mark.parametrize("seed", range(8))
def test_any_lines_are_read_as_the_definition_reads_them(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(2_000):
        lines, name = some_lines(chance), chance.choice(NAMES)
        assert outcome(header_value, lines, name) == outcome(defined_value, lines, name), (lines, name)


@pytest.mark.parametrize("first", range(256))
def test_each_byte_is_read_as_the_definition_reads_it(first: int) -> None:
    one = bytes([first])
    for name in ("x-user", "via"):
        for value in (one, one + b"a", b"a" + one, one + one, b" " + one + b"\t", b"a" + one + b"a"):
            for lines in ([(name.encode(), value)], [(b"x-use" + one, b"1")], [(one + b"ia", b"1")]):
                assert outcome(header_value, lines, name) == outcome(defined_value, lines, name), (lines, name)


@pytest.mark.parametrize(
    ("value", "text"), [(b"alice", "alice"), (b" \ta b\t ", "a b"), (b"", None), (b"  \t", None), (b"\x1fa\x1c", "a")]
)
def test_the_usual_header_is_found_in_c(value: bytes, text: str | None) -> None:
    lines = [(b"Host", b"x"), (b"X-User", value), (b"x-usher", b"b")]
    assert [found(lines, "x-user"), found(tuple(lines), "x-user", True), found(lines, "x-none")] == [text, text, None]


@pytest.mark.parametrize(
    "lines",
    [
        [(b"x-user", b"a"), (b"X-User", b"a")],
        [(b"x_user", b"a")],
        [(b"x-user", b"a,b")],
        [(b"x-user", b"\xc3\xa9")],
        [(b"x-user", b"\x1f")],
        [(b"x-user", b"a" * (MOST_BYTES + 1))],
        [(b"a", b"b")] * (MOST_LINES + 1),
        [[b"x-user", b"a"]],
        [(b"x-user", b"a", b"b")],
        [(b"x-user", "a")],
        [("x-user", b"a")],
        [(b"x-user", None)],
        [None],
        iter([(b"x-user", b"a")]),
        None,
    ],
)
def test_unusual_lines_are_left_to_the_definition(lines: Sequence[Any]) -> None:
    assert found(lines, "x-user", is_list=True) is NotImplemented


@pytest.mark.parametrize("name", [b"x-user", None, 7, "x-usér", "\udc80"])
def test_a_name_that_is_not_ascii_is_left_to_the_definition(name: Any) -> None:
    assert found([(b"x-user", b"a")], name) is NotImplemented


def test_the_most_bytes_and_lines_are_read() -> None:
    value = b"a" * MOST_BYTES
    assert found([(b"a", b"b")] * (MOST_LINES - 1) + [(b"x-user", value)], "x-user") == value.decode()


@pytest.mark.parametrize("arguments", [(), ([], "a"), ([], "a", True, 1)])
def test_a_wrong_number_of_arguments_is_an_error(arguments: tuple[Any, ...]) -> None:
    assert core.find_header is not None
    with pytest.raises(TypeError):
        core.find_header(*arguments)
