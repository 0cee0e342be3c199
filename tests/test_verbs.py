"""Another library's verb is an AttributeError that names ours."""

from __future__ import annotations

import traceback

import pytest

from ratekeeper.verbs import VERBS, with_hints


@with_hints
class Kept:
    def try_acquire(self) -> bool:
        return True


@pytest.mark.parametrize("verb", VERBS)
def test_the_error_names_our_verb_and_no_other(verb: str) -> None:
    assert not hasattr(Kept(), verb)
    with pytest.raises(AttributeError, match=f"^Kept has no '{verb}': use {VERBS[verb]}$") as raised:
        getattr(Kept(), verb)
    assert "Did you mean" not in "".join(traceback.format_exception(raised.value))


def test_a_class_keeps_what_it_has() -> None:
    assert Kept().try_acquire()
    with pytest.raises(AttributeError, match="'unknown'"):
        Kept().unknown  # type: ignore[attr-defined]  # noqa: B018
