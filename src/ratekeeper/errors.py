"""The errors that ratekeeper raises, and the words they use. Knows nothing of limits or stores."""

from __future__ import annotations

import difflib
import queue
from collections.abc import Iterable


class RatekeeperError(Exception):
    """Base of all errors that ratekeeper defines."""


class LimitError(RatekeeperError, ValueError):
    """A limit is impossible: its string cannot be read, or its numbers are out of range."""


class PolicyError(RatekeeperError, ValueError):
    """A policy that cannot be used. Its text names the file, the table, the key, and what would be right."""


class CostError(RatekeeperError, ValueError):
    """A request's attribute that should be its cost is not a whole number."""


class BadRequestError(RatekeeperError):
    """An HTTP request cannot be judged, as it is wrong in itself. Its text says what would be right.

    `status` is that of the response: 400 unless given.
    """

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


class ClientDisconnected(RatekeeperError):
    """A client hung up while its request waited for its turn. There is nobody to answer."""


class StoreError(RatekeeperError):
    """A store cannot be opened, or cannot answer. Its text says why, and what would be right."""


class QueueFull(RatekeeperError, queue.Full):
    """A `LeakyQueue` has no place left for an item."""


class QueueEmpty(RatekeeperError, queue.Empty):
    """No item of a `LeakyQueue` had its turn before the timeout."""


class QueueClosed(RatekeeperError):
    """A `LeakyQueue` takes no more items, or has none left and will get none."""


class StoreUnavailable(StoreError):
    """A store does not answer, or not in time. The request may have been carried out, or not.

    The store is not asked again for `retry_after` seconds.
    """

    def __init__(self, text: str, retry_after: float = 0.0) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class LimitUnavailable(StoreUnavailable):
    """A rule's limit cannot be looked up, and the rule denies its requests meanwhile: `on_lookup_error = "deny"`."""


class MissingExtraError(RatekeeperError, ImportError):
    """A part of ratekeeper needs an optional dependency, which is not installed."""

    def __init__(self, part: str, extra: str) -> None:
        super().__init__(f"{part} needs an optional dependency: pip install 'ratekeeper[{extra}]'")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `": did you mean 'x'?"` for the known word nearest to `word`, or the list of known words."""
    known = sorted(known)
    near = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    return f": did you mean {near[0]!r}?" if near else f": use one of {', '.join(known)}"


def why_no_name(name: object) -> str | None:
    """Return why a limiter or a rule cannot have a name, and what would be right; None if it can."""
    if not isinstance(name, str):
        return f"name must be a string, not {type(name).__name__}"
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        return f"name must be a string without halves of characters (lone surrogates), not {name!r}"
    return None


def why_unread(error: OSError | UnicodeDecodeError) -> str:
    """Return why a file cannot be used, without the file's name: the caller says it."""
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8: byte 0x{error.object[error.start]:02x}"
    return error.strerror or str(error)
