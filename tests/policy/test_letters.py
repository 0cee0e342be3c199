"""With `ignore_case`, paths that a regular expression without case takes for one have one spelling, and no others."""

from __future__ import annotations

import re
import sys
from collections import defaultdict

from ratekeeper.policy.sources import PathSource

LETTERS = "".join(
    letter
    for letter in map(chr, range(sys.maxunicode + 1))
    if len({letter, letter.lower(), letter.upper(), letter.casefold()}) > 1
)


def test_letters_are_spelled_alike_if_a_regular_expression_takes_them_for_one() -> None:
    alike: defaultdict[str, set[str]] = defaultdict(set)
    for letter in LETTERS:
        alike[PathSource(ignore_case=True).spelled(letter)].add(letter)
    for letters in alike.values():
        for letter in letters:
            assert letters == set(re.findall(letter, LETTERS, re.IGNORECASE))


def test_a_letters_spelling_does_not_depend_on_its_place_in_a_word() -> None:
    source = PathSource(ignore_case=True)
    assert source.spelled("/ΟΔΟΣ") == source.spelled("/οδος") == source.spelled("/ΟΔΟΣΧ")[:-1]
