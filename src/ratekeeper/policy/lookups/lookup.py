"""Lookup and LookupFunction: a rule's limit that the application looks up, and the function that does so.

Values, checked once. `cache` keeps the answers. Nothing here knows a policy, a store or a clock.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from inspect import isawaitable
from pkgutil import resolve_name
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from ratekeeper.errors import PolicyError, RatekeeperError, did_you_mean
from ratekeeper.limits import Limit, parse_limits

LookupAnswer: TypeAlias = Limit | str | Sequence[Limit | str] | None
"""The limit of a bucket, or several: all count. None is the rule's own limit."""

LimitFunction: TypeAlias = Callable[[Mapping[str, str]], LookupAnswer | Awaitable[LookupAnswer]]
"""A function of the attributes of a rule's key. It may be async, for `AsyncKeeper` and what is built on it."""

OnLookupError: TypeAlias = Literal["last known", "default", "deny"]
ON_LOOKUP_ERROR: tuple[OnLookupError, ...] = get_args(OnLookupError)

MOST_LIMITS = 8
"""The most limits that one answer may have."""

LONGEST_TTL = 366 * 86_400.0
"""The longest time, in seconds, for which an answer is good."""

LONGEST_TIMEOUT = 3600.0

NAME = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class Lookup:
    """A rule's limit that a function of the application gives. The rule's own limit is its default.

    name      names the function: a keeper's or a middleware's `limits={name: function}`
    ttl       seconds after which an answer is looked up again, in the background
    on_error  the limit while the look-up fails: the "last known" one, the rule's "default", or none: "deny" the request

    Raise `PolicyError` for a mistake.

    >>> Lookup("plan", ttl=5).on_error
    'last known'
    """

    name: str
    ttl: float = 60.0
    on_error: OnLookupError = "last known"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise PolicyError(
                f"a look-up's name is letters, digits, '_', '-' and '.', such as 'plan', not {self.name!r}"
            )
        if isinstance(self.ttl, bool) or not isinstance(self.ttl, int | float) or not 0 < self.ttl <= LONGEST_TTL:
            raise PolicyError(f"ttl must be seconds, more than 0 and at most a year, not {self.ttl!r}")
        if self.on_error not in ON_LOOKUP_ERROR:
            raise PolicyError(f"on_error of a look-up cannot be {self.on_error!r}{_nearest(self.on_error)}")


def _nearest(word: object) -> str:
    return did_you_mean(str(word), ON_LOOKUP_ERROR)


@dataclass(frozen=True, slots=True)
class LookupFunction:
    """A function that looks limits up, with its bounds: `limits={"plan": LookupFunction(plan_of, timeout=0.2)}`.

    function  gets the attributes of the rule's key, and returns a limit, its string, several in a list, or None
    timeout   the most seconds that a request waits for a look-up, if nothing is known of its bucket
    max_keys  the answers that are kept for one rule; the oldest are forgotten first
    at_once   the look-ups that may run at a time

    >>> LookupFunction(lambda attributes: "500/minute", timeout=0.2).max_keys
    100000
    """

    function: LimitFunction
    timeout: float = 1.0
    max_keys: int = 100_000
    at_once: int = 8

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"a look-up must be a function of the attributes of a rule's key, not {self.function!r}")
        number = self.timeout if isinstance(self.timeout, int | float) and not isinstance(self.timeout, bool) else -1
        if not 0 < number <= LONGEST_TIMEOUT:
            raise ValueError(f"timeout must be seconds, more than 0 and at most an hour, not {self.timeout!r}")
        for name, value, least in (("max_keys", self.max_keys, 16), ("at_once", self.at_once, 1)):
            if value.__class__ is not int or value < least:
                raise ValueError(f"{name} must be a whole number, at least {least}, not {value!r}")


LimitFunctions: TypeAlias = Mapping[str, LimitFunction | LookupFunction]
"""The functions that look limits up, by the name that a policy's rules have for them."""


class LookupStats(NamedTuple):
    """The counts of the look-ups of one name since their start.

    hits       decisions by an answer that was known and not older than its ttl
    lookups    look-ups that were begun
    errors     look-ups that failed, and those that could not begin as too many were under way
    timeouts   look-ups that a request gave up waiting for
    known      the buckets with a known answer now
    under_way  the look-ups that are not done

    >>> from ratekeeper import Keeper, Policy
    >>> policy = Policy.parse('rules = [{name = "all", limit = "app:plan", default = "1/s"}]')
    >>> keeper = Keeper(policy, limits={"plan": lambda attributes: "500/minute"})
    >>> decision = keeper.try_acquire({})
    >>> keeper.lookups["plan"].lookups
    1
    """

    hits: int
    lookups: int
    errors: int
    timeouts: int
    known: int
    under_way: int


def limits_of_answer(answer: Any, default: Limit) -> tuple[Limit, ...]:
    """Return the limits that a look-up's answer stands for. Raise TypeError, ValueError or `LimitError` for another."""
    if answer is None:
        return (default,)
    if isinstance(answer, Limit):
        return (answer,)
    if isinstance(answer, str):
        limits = _parsed(answer)
    elif isinstance(answer, list | tuple):
        limits = ()
        for one in answer:
            limits += (one,) if isinstance(one, Limit) else _parsed(one)
    else:
        if isawaitable(answer) and (close := getattr(answer, "close", None)) is not None:
            close()
        raise TypeError(f"a look-up returns a limit, its string, a list of them, or None, not {type(answer).__name__}")
    if not 1 <= len(limits) <= MOST_LIMITS:
        raise ValueError(f"a look-up returns 1 to {MOST_LIMITS} limits, or None for the default, not {len(limits)}")
    return limits


@lru_cache(maxsize=1024)
def _parse(text: str) -> tuple[Limit, ...]:
    return parse_limits(text)


def _parsed(text: object) -> tuple[Limit, ...]:
    if not isinstance(text, str):
        raise TypeError(f"a look-up's list holds limits and strings, not {type(text).__name__}")
    return _parse(text)  # the limits of one plan are the same objects for all its buckets


def function_of(name: object, given: object) -> LookupFunction:
    """Return what `limits=` gives for a name. Raise TypeError if it is not a function."""
    if not isinstance(name, str):
        raise TypeError(f"limits must name each function by a string, not {name!r}")
    return given if isinstance(given, LookupFunction) else LookupFunction(given)  # type: ignore[arg-type]  # it checks


def import_function(name: str, where: str) -> Any:
    """Return the function at "package.module:function" for a name, as `--limits` of the commands has them.

    The folder where the command was called is looked at too, as for `python -m`. Raise `RatekeeperError`.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return resolve_name(where)
    except (ImportError, AttributeError, ValueError) as error:
        raise RatekeeperError(f"--limits {name}={where}: {error}") from None
