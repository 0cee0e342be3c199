"""Rates: a number, or a string such as "300/minute" -> tokens per second, exactly; and back to a string.

Knows no limit and no bucket.
"""

from __future__ import annotations

import re
from fractions import Fraction
from math import inf, isfinite
from typing import TypeAlias

from ratekeeper.errors import LimitError, did_you_mean

Rate: TypeAlias = int | float | Fraction | str

_UNITS = {
    "millisecond": Fraction(1, 1000), "second": Fraction(1), "minute": Fraction(60),
    "hour": Fraction(3600), "day": Fraction(86_400), "week": Fraction(604_800),
}  # fmt: skip
_SHORT = {
    "millisecond": ("ms",), "second": ("s", "sec", "secs"), "minute": ("m", "min", "mins"),
    "hour": ("h", "hr", "hrs"), "day": ("d",), "week": ("w", "wk", "wks"),
}  # fmt: skip
_WORDS = {word: _UNITS[unit] for unit, short in _SHORT.items() for word in (unit, unit + "s", *short)}
_CALENDAR = {"month": "30 days", "year": "365 days"}
_LONGEST_TEXT = 100
_NUMBER = r"\d+(?:_\d+)*(?:\.\d+)?"
_NOUN = r"(?:req(?:uest)?s?\b\s*)?"
_PERIOD = rf"\s*({_NUMBER})?\s*((?!burst)[a-z]+)|/\s*({_NUMBER})"
RATE = re.compile(rf"({_NUMBER})\s*{_NOUN}(?:(?:/|per){_PERIOD})", re.IGNORECASE | re.ASCII)
"""A count, maybe "requests", "/" or "per", and a period.

Groups: the count; a number, if any, and its unit; or else seconds alone.
"""
_WINDOW = re.compile(
    rf"at\s+most\s+({_NUMBER})\s*{_NOUN}(?:(?:/|per|in\s+(?:any\s+)?){_PERIOD})", re.IGNORECASE | re.ASCII
)
"""The most in every window of a length: "at most 100 in any minute", or "in 60s". The groups are those of `RATE`."""


def parse_rate(rate: Rate) -> Fraction:
    """Return a rate in tokens per second, exactly. Takes a number, or a string such as "5/10s" or "300 per minute".

    A float means the decimal that it prints as. 0 is a rate too: that of a limit of nothing. Raises `LimitError`.
    """
    if isinstance(rate, str):
        match = RATE.fullmatch(trimmed(rate))
        if match is None:
            raise unreadable(rate)
        return _in_range(count_of(match) / _period(match), rate)
    if isinstance(rate, bool) or not isinstance(rate, int | float | Fraction):
        raise LimitError(f"a rate is a number of tokens per second, or a string such as '300/minute', not {rate!r}")
    if isinstance(rate, float):
        if not isfinite(rate):
            raise LimitError(f"a rate must be finite, not {rate!r}")
        return _in_range(Fraction(float.__repr__(rate)), rate)
    return _in_range(Fraction(rate), rate)


def rate_text(rate: Fraction) -> str:
    """Return the shortest string that `parse_rate` reads as `rate`: "5/s", "100/minute", or else "3/7s"."""
    for unit, suffix in (("second", "s"), ("minute", "minute"), ("hour", "hour"), ("day", "day")):
        if (rate * _UNITS[unit]).denominator == 1:
            return f"{rate * _UNITS[unit]}/{suffix}"
    return f"{rate.numerator}/{rate.denominator}s"


def count_of(match: re.Match[str]) -> Fraction:
    """Return the count before the period."""
    return Fraction(match[1].replace("_", ""))


def _period(match: re.Match[str]) -> Fraction:
    """Return the seconds of a match's period: the optional number times its unit, or a number of seconds."""
    word = (match[3] or "seconds").lower()
    singular = word.removesuffix("s")
    if singular in _CALENDAR or word in ("mo", "y", "yr"):
        calendar = "year" if word[0] == "y" else "month"
        raise LimitError(
            f"{match[0]!r}: a {calendar} has no fixed length, so a limit by it could not be exact: "
            f"say how many days you mean, such as '{match[1]}/{_CALENDAR[calendar]}'"
        )
    if word not in _WORDS:
        raise LimitError(f"{match[0]!r}: unknown unit of time {match[3]!r}{did_you_mean(word, _WORDS)}")
    number = Fraction((match[2] or match[4] or "1").replace("_", ""))
    if number == 0:
        raise LimitError(f"{match[0]!r}: the period must be longer than 0 {word}")
    return number * _WORDS[word]


def rate_within(most: int, seconds: float | Fraction, burst: int) -> Fraction:
    """Return the rate at which a bucket of `burst` tokens admits at most `most` in every window of so many seconds.

    Raises `LimitError`.
    """
    for name, tokens in (("most", most), ("burst", burst)):
        if not isinstance(tokens, int) or isinstance(tokens, bool):
            raise LimitError(f"within: {name} must be a whole number of tokens, not {tokens!r}")
    if not 0 < burst < most:
        raise LimitError(f"within: burst must be at least 1, and less than {most}, the most in a window, not {burst}")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float | Fraction):
        raise LimitError(f"within: seconds must be a number, not {seconds!r}")
    if not seconds > 0 or seconds == inf:
        raise LimitError(f"within: seconds must be more than 0, and finite, not {seconds!r}")
    return (most - burst) / (Fraction(float.__repr__(seconds)) if isinstance(seconds, float) else Fraction(seconds))


def match_of(text: str) -> re.Match[str]:
    """Return the window, or the rate, that a string begins with. Raises `LimitError` if it is neither."""
    match = _WINDOW.match(text) or RATE.match(text)
    if match is None:
        raise unreadable(text)
    return match


def window_of(match: re.Match[str]) -> tuple[int, Fraction] | None:
    """Return the most in every window, and the window's seconds; None if a string is a rate. Raises `LimitError`."""
    if match.re is not _WINDOW:
        return None
    most = count_of(match)
    if most.denominator != 1 or most < 2:
        raise LimitError(f"{match[0]!r}: the most in a window must be a whole number, 2 or more")
    return int(most), _period(match)


def _in_range(rate: Fraction, given: Rate) -> Fraction:
    if rate < 0:
        raise LimitError(f"a rate must be positive, not {given!r}")
    if rate > 1_000_000_000:
        raise LimitError(f"a rate must be at most 1,000,000,000 per second, not {given!r}")
    return rate


def trimmed(text: str) -> str:
    """Return a string without the space around it. Raises `LimitError` if it is too long to be a limit."""
    if len(text) > _LONGEST_TEXT:
        raise LimitError(f"a limit has at most {_LONGEST_TEXT} characters, not {len(text)}")
    return text.strip()


def unreadable(text: str) -> LimitError:
    """Return the error that a string is not a limit at all."""
    if re.match(r"\s*at\s+most\b", text, re.IGNORECASE):
        return LimitError(f"{text!r} is not a limit: write, say, 'at most 100 in 60s burst 10'")
    hint = (
        " (a number of tokens per second is written without quotes)"
        if re.fullmatch(_NUMBER, text.strip(), re.ASCII)
        else ""
    )
    return LimitError(f"{text!r} is not a limit{hint}: write a count and a period, such as '100/minute' or '5/10s'")
