"""Boards: the strings that processes show each other, whole or not at all."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratekeeper.service.live.board import Board, Boards, clear
from ratekeeper.service.metrics.slots import BOARD_BYTES, Slots


@pytest.fixture
def slots() -> Iterator[Slots]:
    made = Slots.make(3)
    yield made
    os.close(made.descriptor)


def test_each_process_reads_what_all_others_show(slots: Slots) -> None:
    first, second = Board(slots[1]), Board(Slots.attach(slots.descriptor)[2])
    first.show("a", lambda: [1, None, "ü\ud800\n"])
    second.show("a", lambda: {"x": 2.5})
    second.show("b", lambda: True)
    boards = Boards(slots)
    assert boards.part("a") == [], "nothing is written before its time"
    first.write()
    second.write()
    assert boards.part("a") == [[1, None, "ü\ud800\n"], {"x": 2.5}]
    assert (boards.part("b"), boards.part("c")) == ([True], [])


def test_a_part_is_read_anew_for_each_writing_and_written_only_if_it_has_changed(slots: Slots) -> None:
    board, values = Board(slots[0]), [1]
    board.show("a", lambda: values[-1])
    board.write()
    boards = Boards(slots)
    [before] = boards.part("a")
    slots[0].board[:4] = b"torn"
    board.write()
    assert bytes(slots[0].board[:4]) == b"torn", "it has written nothing"
    values.append(2)
    board.write()
    assert (before, boards.part("a")) == (1, [2])


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), min_size=1, max_size=20))
def test_a_half_written_text_is_never_read(torn: list[tuple[int, int]]) -> None:
    slots = Slots.alone()
    board, boards, value = Board(slots[0]), Boards(slots), "x" * 50
    board.show("a", lambda: value)
    board.write()
    assert boards.part("a") == [value]
    for place, byte in torn:
        slots[0].board[place] = byte
    assert boards.part("a") in ([value], []), "none only if all of it is cleared"
    value = "y" * 60
    board.write()
    assert boards.part("a") == [value]


def test_a_part_that_does_not_fit_is_left_out_and_told_once(slots: Slots, caplog: pytest.LogCaptureFixture) -> None:
    board, boards = Board(slots[0]), Boards(slots)
    board.show("large", lambda: "x" * BOARD_BYTES)
    board.show("small", lambda: 1)
    board.show("as large as the rest", lambda: "y" * (BOARD_BYTES - 100))
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            board.write()
    assert (boards.part("large"), boards.part("small"), len(boards.part("as large as the rest"))) == ([], [1], 1)
    assert len(caplog.messages) == 1


def test_a_part_may_fill_the_board_to_its_last_byte_but_one(slots: Slots) -> None:
    board, boards, text = Board(slots[0]), Boards(slots), "x" * (BOARD_BYTES - 60)
    board.show("a", lambda: text)
    board.write()
    while boards.part("a"):
        text += "x"
        board.write()
    assert len(bytes(slots[0].board).rstrip(b"\0")) == BOARD_BYTES - 1


def test_a_text_is_gone_when_the_board_of_a_process_that_has_ended_is_cleared(slots: Slots) -> None:
    boards, values = Boards(slots), ["a" * 1000]
    board = Board(slots[1])
    board.show("a", lambda: values[-1])
    board.write()
    assert boards.part("a") == values
    clear(slots[1])
    assert boards.part("a") == []
    after = Board(slots[1])
    after.show("a", lambda: "b")
    after.write()
    assert boards.part("a") == ["b"], "the process in its place shows its own"
