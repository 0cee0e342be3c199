"""The body of a request to the admin API: one JSON object with the names that the operation knows. Pure functions.

A body with two readings is an error: a repeated name, NaN, a number that no float can hold, bytes beyond UTF-8.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, NamedTuple

from ratekeeper.errors import BadRequestError, did_you_mean

MOST_TOKENS = 10**12
"""The highest number of tokens of one operation."""
MOST_SECONDS = 9 * 365 * 86_400
"""The longest time, in seconds: that of a block."""
MOST_NAMES = 100
"""The rules that one operation may name."""

_SHOWN = 40
_MOST_DIGITS = 1_000
"""The characters of a whole number: Python itself refuses those of thousands of digits, in words about Python."""


class Field(NamedTuple):
    """A name of a body: whether its value is right, what would be, and whether it may be missing."""

    right: Callable[[Any], bool]
    form: str
    required: bool = False


def parse_fields(body: bytes, fields: Mapping[str, Field]) -> dict[str, Any]:
    """Return the names and values of a body. Raise `BadRequestError`, which says what would be right."""
    given = _parse_object(body)
    for name, value in given.items():
        field = fields.get(name)
        if field is None:
            right = did_you_mean(name[:_SHOWN], fields) if fields else ": send an empty object, {}"
            raise BadRequestError(f"unknown name {_shown(name)}{right}")
        if not field.right(value):
            raise BadRequestError(f"{name} must be {field.form}")
    for name, field in fields.items():
        if field.required and name not in given:
            raise BadRequestError(f"{name} is missing: it must be {field.form}")
    return given


def _parse_object(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_no_number,
            parse_float=_finite,
            parse_int=_whole,
        )
    except UnicodeDecodeError:
        raise BadRequestError("the body is not UTF-8") from None
    except RecursionError:
        raise BadRequestError("the body is nested too deep") from None
    except ValueError as error:
        raise BadRequestError(f"the body is not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise BadRequestError("the body must be a JSON object")
    return parsed


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    parsed = dict(pairs)
    if len(parsed) < len(pairs):
        repeated, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the name {_shown(repeated)} is repeated")
    return parsed


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is not a number in JSON")


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"the number {text[:_SHOWN]}... is too large")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError(f"the number {text[:_SHOWN]} is too large")
    return number


def _shown(name: str) -> str:
    return repr(name[:_SHOWN])


# Tests of values


def is_whole(value: Any) -> bool:
    """Return whether a value is a whole number of tokens."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS


def is_positive(value: Any) -> bool:
    """Return whether a value is a whole number of tokens, 1 or more."""
    return is_whole(value) and value > 0


def is_number(value: Any) -> bool:
    """Return whether a value is a number that a float can hold."""
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53)


def is_length(value: Any) -> bool:
    """Return whether a value is a length of time in seconds."""
    return is_number(value) and 0 < value <= MOST_SECONDS


def is_strings(value: Any) -> bool:
    """Return whether a value is an object whose values are strings."""
    return isinstance(value, dict) and all(isinstance(one, str) for one in value.values())


def is_name(value: Any) -> bool:
    """Return whether a value is a string."""
    return isinstance(value, str)


def is_names(value: Any) -> bool:
    """Return whether a value is a string, or a list of some strings."""
    return is_name(value) or (isinstance(value, list) and 1 <= len(value) <= MOST_NAMES and all(map(is_name, value)))
