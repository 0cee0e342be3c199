"""`make check` finds the words that we do not write, where people read them, and passes their better forms."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT
from prose import Passage
from words import LONGEST_SENTENCE, PATTERNS, complaints, long_sentences, main

# A sentence that a pattern finds, the words that it finds, the form that it proposes, and a sentence that passes.
EXAMPLES = [
    ("'x y' is no name of a table.", "is no name", "is not a name", "There is no name. It is no longer 'x'."),
    ("These lines are no requests.", "are no requests", "are not requests", "There are no requests of this key."),
    ("It runs in a process of its own.", "of its own", "its own", "It runs in its own process."),
    ("It is a deadline of ours.", "of ours", "our", "It is our deadline."),
    ("It calls a function of the user's.", "of the user's", "the user's", "It calls the user's function."),
    ("Whose is past is a full bucket.", "Whose is", "The noun that ...", "A TAT in the past is a full bucket. Whose?"),
    ("It says: who waits goes.", "who waits", "the noun that waits", "It says: a caller that waits goes."),
    ("Wait; what is left goes.", "what is", "the noun that is", "Wait; the rest goes."),
    ("This is for who works here.", "for who works", "for the noun that works", "This is for people who work here."),
    ("It ends by what it reads.", "by what", "by the noun that", "It ends by the answer. See what it reads."),
    ("Is the bucket full?", "Is the bucket full?", "Return whether ...", "Return whether the bucket is full."),
    ("It reads a text.", "a text", "a string", "It reads a string from a text file."),
    ("It reads texts.", "texts", "strings", "It reads strings."),
    ("It makes such a one.", "such a one", "one", "It makes one."),
    ("It is, as it were, a door.", "as it were", "the field's term", "It is a lock."),
    ("Take whichever comes.", "whichever", "any", "Take any."),
    ("It holds in so far as it is read.", "in so far as", "as far as", "It holds as far as it is read."),
    ("It is told that it ended.", "It is told that", "it gets a message that", "The log says that it ended."),
    ("It may not be read.", "may not be", "must not be, or might not be", "It must not be read."),
    ("Its behavior is one.", "behavior", "behaviour", "Its behaviour is one. We honour it."),
    ("It was canceled.", "canceled", "cancelled", "It was cancelled."),
    ("It is quantized once.", "quantized", "quantised", "It is quantised once."),
]


def found(sentence: str) -> list[tuple[str, str]]:
    passage = Passage(1, sentence, "comment")
    return [(words, better) for pattern in PATTERNS for _, words, better in pattern.hits(passage)]


@pytest.mark.parametrize(("written", "words", "better", "passes"), EXAMPLES)
def test_words_are_found_and_their_better_form_passes(written: str, words: str, better: str, passes: str) -> None:
    assert found(written) == [(words, better)]
    assert found(passes) == []


def test_every_pattern_has_an_example() -> None:
    for pattern in PATTERNS:
        assert any([*pattern.hits(Passage(1, written, "comment"))] for written, *_ in EXAMPLES), pattern


def test_a_long_sentence_of_a_page_is_found_at_its_line() -> None:
    longest = " ".join(["Word"] * LONGEST_SENTENCE) + "."
    page = Passage(1, f"A short one.\n{longest}\nAnother {longest}", "page")
    assert [line for line, *_ in long_sentences(page)] == [3]
    assert [*long_sentences(page._replace(kind="cell"))] == []


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        (
            "page.md",
            "It is no\nname.\n\n- is no `x`\n- is `no x`\n\n| cell | is no name |\n\n# It is no name",
            [1, 4, 7, 9],
        ),
        ("code.md", "`is no name`\n\n    is no name\n\n```text\nis no name\n```\n[a](is no name)", []),
        ("file.py", 'x = 1  # is no name\n# It is no\n# name.\n"""A docstring.\n\nIt is no name.\n"""', [1, 2, 6]),
        ("error.py", 'raise ValueError(f"{x} is no {y} name")\nz = "is no name" "of a thing"', [1, 2]),
        ("code.py", "is_no_name = x.is_not(no, name)\n", []),
        ("file.c", '/* It is no\n * name. */\nx = "is no name";  // is no name\nis(no, name);', [1, 3, 3]),
        ("file.lua", "-- It is no\n-- name.\nis_no_name()  -- is no name\n", [1, 3]),
        ("file.toml", "# is no name\nx = 'is no name'  # is no name\n", [1, 2]),
    ],
)
def test_prose_is_read_and_code_is_not(name: str, text: str, lines: list[int], tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert [int(line.split(":")[1]) for line in complaints(path)] == lines


def test_strings_of_tests_are_not_prose(tmp_path: Path) -> None:
    folder = tmp_path / "tests"
    folder.mkdir()
    (folder / "test_x.py").write_text('x = "is no name"\n')
    (folder / "test_x.c").write_text('x = "is no name";\n')
    assert main([str(folder)]) == 0


def test_the_command_says_where_and_what_to_write_and_fails(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("# A page\n\nIt is no\npage.\n")
    command = [sys.executable, str(ROOT / "tests" / "support" / "words.py")]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout == f'{tmp_path}/page.md:3: "is no page": write "is not a page" instead\n'
    assert done.returncode == 1
    (tmp_path / "page.md").write_text("# A page\n\nIt is not a page.\n")
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("", 0)
    assert subprocess.run(command).returncode == 1, "no place would be checked"


def test_make_check_runs_it() -> None:
    done = subprocess.run(["make", "--dry-run", "check"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "python tests/support/words.py docs src README.md " in done.stdout
