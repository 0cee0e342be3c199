"""What `make mutants` rests on: mutations are as said, and the lines that are written down by hand are still there."""

from __future__ import annotations

import ast

import pytest
from mutants.mutations import mutations_of
from mutants.sample import equivalents, python_files, stale_equivalents, written
from mutants.tree import ROOT

EXAMPLE = '''
@cache
async def take(self, count: int = 1) -> bool:
    """Return whether it is there."""
    if count < 2 and not self.closed:  # a comment
        self.left -= count
    assert isinstance(count, int)
    return await ask(self.left, f"{count + 1}", count)
'''


def test_each_careless_class_has_its_mutations_and_all_else_stays_as_it_is() -> None:
    lines = EXAMPLE.splitlines()
    found = {
        (mutation.kind, changed.splitlines()[mutation.line - 1].strip())
        for mutation in mutations_of(EXAMPLE)
        if (changed := mutation.apply(EXAMPLE))
    }
    comment = ":  # a comment"
    assert found == {
        ("removed decorator", ""),
        ("constant", "async def take(self, count: int = 2) -> bool:"),
        ("comparison", f"if count <= 2 and not self.closed{comment}"),
        ("constant", f"if count < 3 and not self.closed{comment}"),
        ("and/or", f"if (count < 2 or not self.closed){comment}"),
        ("not", f"if count < 2 and self.closed{comment}"),
        ("arithmetic", "self.left += count"),
        ("deleted", "pass"),
        ("return None", "return None"),
        ("not awaited", "return ask(self.left, f'{count + 1}', count)"),
        ("swapped arguments", "return await ask(f'{count + 1}', self.left, count)"),
        ("swapped arguments", "return await ask(self.left, count, f'{count + 1}')"),
    }
    for mutation in mutations_of(EXAMPLE):
        both = zip(lines, mutation.apply(EXAMPLE).splitlines(), strict=True)
        assert [number for number, (old, new) in enumerate(both, 1) if old != new] == [mutation.line]


@pytest.mark.parametrize("file", python_files(ROOT)[::4], ids=lambda file: "/".join(file.parts[2:]))
def test_mutants_are_python(file: object) -> None:
    text = (ROOT / str(file)).read_text()
    for mutation in mutations_of(text)[::50]:
        ast.parse(mutation.apply(text))


def test_every_mutant_that_is_written_by_hand_has_its_line() -> None:
    assert len(written(ROOT, [".c", ".h"])) >= 15
    assert len(written(ROOT, [".lua"])) >= 10


def test_every_equivalent_mutant_is_there_and_has_its_reason() -> None:
    assert stale_equivalents(ROOT) == []
    assert all(equivalent.why for equivalent in equivalents(ROOT))
