"""The words that we do not write, each with its better form. As a program it prints where they are: words.py PLACE...

The reason is in CONTRIBUTING.md: a reader has two minutes, and English may be a second language.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from prose import Passage, passages

LONGEST_SENTENCE = 35
"""In words, on a page. Aim at 20."""
SUFFIXES = {".md", ".py", ".pyi", ".c", ".h", ".lua", ".toml"}

START = r"(?:\A|(?<=[.:;?!] ))"
NO_QUESTION = r"(?![^.]*\?)"
THERE = "".join(rf"(?<![Tt]here{verb} )" for verb in ("", " must", " may", " can", " will", " should"))
NO_COMPARISON = r"(?!longer\b|more\b|less\b|\w+er than\b)"
NO_NOUN = r"(?=\s*(?:[.,;:)]|\Z)| (?:and|or|but|in|on|at|to|for|from|with|by|that|which|is|are|was|were|has|may)\b)"
PREPOSITION = "for|to|by|of|from|with|than|on|at|in|but|about|as|like|before|after|beside"
VERB = r"(is|are|was|were|has|had|can|cannot|may|might|must|will|would|does|did|lies|remains|comes|goes|happens)\b"
ASKS = "Do|Does|Did|Is|Are|Was|Were|Has|Have|Had|Can|May|Must|Will|Would|Should|Who|Whose|What|Which|How|Where|When"


class Pattern(NamedTuple):
    """A regular expression of words that we do not write, and a template of better ones, for these kinds of prose."""

    words: str
    better: str
    kinds: tuple[str, ...] = ("page", "cell", "heading", "docstring", "comment", "message")

    def hits(self, passage: Passage) -> Iterator[tuple[int, str, str]]:
        """Yield where a passage has the words, the words, and what to write instead."""
        if passage.kind in self.kinds:
            for found in re.finditer(self.words, re.sub(r"\s", " ", passage.text)):
                yield passage.line_of(found.start()), found.group(), found.expand(self.better)


SENTENCES = ("page", "cell", "docstring", "comment", "message")
PATTERNS = [
    Pattern(rf"{THERE}\b(is|was|be) no {NO_COMPARISON}(`?\w+`?)", r"\1 not a \2"),
    Pattern(rf"{THERE}\b(are|were) no {NO_COMPARISON}(`?\w+`?)", r"\1 not \2"),
    Pattern(r"\bof (its|their|our|your|my|one's) own\b", r"\1 own"),
    Pattern(r"\bof (our|your|their|her)s\b", r"\1"),
    Pattern(rf"\bof ((?:the |an? )?(?!one's)[\w-]+'s(?: own)?){NO_NOUN}", r"\1"),
    Pattern(rf"{START}(?:Who|Whose|Whoever|What|Whatever) {NO_QUESTION}\w+", "The noun that ...", SENTENCES),
    Pattern(r"(?:(?<=[:;] )|(?<=\())who(?:se)? (\w+)", r"the noun that \1"),
    Pattern(rf"(?<=[:;] )what {VERB}", r"the noun that \1"),
    Pattern(r"\b(for|to|by|of|from|with|than|that|and|or|as|if|because|when) who (\w+s)\b", r"\1 the noun that \2"),
    Pattern(rf"\b({PREPOSITION}) what\b", r"\1 the noun that"),
    Pattern(rf"\A(?:{ASKS})\b[^.]*\?", "Return whether ...", ("docstring", "comment")),
    Pattern(r"\b(an?|as) text\b(?! (?:file|message))", r"\1 string"),
    Pattern(r"\btexts\b", "strings"),
    Pattern(r"\bsuch an? one\b", "one"),
    Pattern(r"\bas it were\b", "the field's term"),
    Pattern(r"\bwhichever\b", "any"),
    Pattern(r"\bin so far as\b", "as far as"),
    Pattern(r"\b(?:[Ii]t|[Oo]ne) is told that\b", "it gets a message that"),
    Pattern(r"\bmay not be\b", "must not be, or might not be"),
    Pattern(r"\b([Bb]ehavi|[Cc]ol|[Hh]on|[Ff]av|[Nn]eighb)or(s|ed|ing|able|hood)?\b", r"\1our\2"),
    Pattern(r"\b([Cc]ancel|[Ll]abel|[Tt]ravel|[Mm]odel)(ed|ing)\b", r"\1l\2"),
    Pattern(r"\b([Aa]naly|[Qq]uanti|[Nn]ormali|[Ss]eriali|[Oo]ptimi|[Rr]ecogni)z(e|es|ed|ing|ation)\b", r"\1s\2"),
]


def sentences(passage: Passage) -> Iterator[tuple[int, str]]:
    """Yield the sentences of a passage, each with its line."""
    begun = 0
    for end in re.finditer(r"[.!?][\"')]*\s+|\Z", passage.text):
        yield passage.line_of(begun), passage.text[begun : end.end()]
        begun = end.end()


def long_sentences(passage: Passage) -> Iterator[tuple[int, str, str]]:
    for line, sentence in sentences(passage) if passage.kind == "page" else ():
        words = [word for word in sentence.split() if re.search(r"\w", word)]
        if len(words) > LONGEST_SENTENCE:
            yield line, " ".join(words[:6]) + " ...", f"sentences of {LONGEST_SENTENCE} words or fewer"


def complaints(path: Path) -> list[str]:
    """Return what is to be mended in a file, a line each."""
    found: list[tuple[int, str, str]] = []
    for passage in passages(path):
        for pattern in PATTERNS:
            found += pattern.hits(passage)
        found += long_sentences(passage)
    return [f'{path}:{line}: "{words}": write "{better}" instead' for line, words, better in sorted(found)]


def files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    return sorted(path for path in place.rglob("*") if path.suffix in SUFFIXES)


def main(places: list[str]) -> int:
    """Print the complaints about files and folders. Return 1 if there are any, and else 0."""
    found = [line for place in places for path in files(Path(place)) for line in complaints(path)]
    for line in found:
        print(line)
    return 1 if found or not places else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
