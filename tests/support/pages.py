"""The blocks of README.md and docs/. As a program it writes their Python to a folder, for type checkers to read.

A page's console session is one module. A program is one by itself.
"""

from __future__ import annotations

import doctest
import re
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TUTORIALS = ROOT / "docs" / "tutorials"
"""Their commands and sessions run in the folder where the reader is, with the files that the reader has saved."""


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}: {self.text.strip().splitlines()[0][:50]}"


def blocks(*languages: str) -> list[Block]:
    found = []
    for page in PAGES:
        for language, text in re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE):
            if not languages or language in languages:
                found.append(Block(page, language, text))
    return found


def folder_of(page: Path) -> Path:
    """Return the folder where a page's commands run."""
    return ROOT / "examples" / "tutorial" if page.parent == TUTORIALS else ROOT


def name_of(page: Path) -> str:
    """Return a page's name, as part of a module's name."""
    return re.sub(r"\W", "_", str(page.relative_to(ROOT).with_suffix("")).removeprefix("docs/"))


def session(page: Path) -> str:
    """Return what a page types at a console, as it is run by the tests."""
    return "\n".join(block.text for block in blocks("pycon") if block.page == page)


def modules() -> dict[str, str]:
    """Return the Python of all pages: by a module's name, its text."""
    found = {}
    for page in PAGES:
        examples = doctest.DocTestParser().get_examples(session(page))
        found[name_of(page)] = "".join(example.source for example in examples)
    for number, block in enumerate(blocks("python")):
        found[f"{name_of(block.page)}_{number}"] = block.text
    return {f"page_{name.lower()}": text for name, text in found.items() if text}


def write_modules(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.py"):
        old.unlink()
    for name, text in modules().items():
        (folder / f"{name}.py").write_text(text)


if __name__ == "__main__":
    write_modules(Path(sys.argv[1]))
