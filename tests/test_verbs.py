"""Another library's verb is an AttributeError that names ours."""

from __future__ import annotations

import traceback

import pytest

from ratekeeper import AsyncLimiter, Limiter
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


def test_it_is_not_offered_for_completion() -> None:
    assert "try_acquire" in dir(Kept())
    assert not VERBS.keys() & set(dir(Kept()))


def test_a_class_keeps_what_it_has() -> None:
    assert Kept().try_acquire()
    with pytest.raises(AttributeError, match="'unknown'"):
        Kept().unknown  # type: ignore[attr-defined]  # noqa: B018

    @with_hints
    class Own:
        def check(self) -> bool:
            return True

    class Derived(Kept):
        def hit(self) -> bool:
            return True

    assert Own().check()
    assert Derived().hit()
    assert "hit" in dir(Derived())


@pytest.mark.parametrize("kind", [Limiter, AsyncLimiter])
@pytest.mark.parametrize("verb", VERBS)
def test_each_limiter_names_its_own_verb(kind: type[Limiter | AsyncLimiter], verb: str) -> None:
    limiter, ours = kind("5/s"), VERBS[verb].split(" ")[0]
    with pytest.raises(AttributeError, match=f"^{kind.__name__} has no '{verb}': use {ours}"):
        getattr(limiter, verb)
    assert callable(getattr(limiter, ours))
