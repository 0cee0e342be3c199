"""PolicyNews: the policy as it was written, now and before, and how its file was last read. Knows no server.

The process that watches the file makes them, and hands them to all others: so a worker that is replaced knows them too.
"""

from __future__ import annotations

import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass

from ratekeeper.errors import PolicyError
from ratekeeper.policy.model import Policy
from ratekeeper.stores.redis.urls import hide_secrets_in


@dataclass(frozen=True, slots=True)
class PolicyText:
    """The text of a policy that was in use, without secrets, and when that began, in seconds since 1970."""

    version: str
    text: str
    loaded_at: float

    @classmethod
    def of(cls, policy: Policy) -> PolicyText:
        """Return the text of a policy that comes into use now."""
        return cls(policy.version, _shown(policy), time.time())


@dataclass(frozen=True, slots=True)
class PolicyNews:
    """The policy now and before; when its file was last read, and its mistakes then, or None."""

    now: PolicyText
    read_at: float
    before: PolicyText | None = None
    error: str | None = None

    @classmethod
    def first(cls, policy: Policy) -> PolicyNews:
        """Return the news of a policy that comes into use now, before any other."""
        return cls(PolicyText.of(policy), time.time())


class PolicyReporter:
    """Makes the news, in the process that watches the policy's file. `tell` hands them to the processes that serve."""

    def __init__(self, policy: Policy, tell: Callable[[PolicyNews], object]) -> None:
        self._taken = policy
        self._news = PolicyNews.first(policy)
        self._tell = tell

    def taken(self, policy: Policy) -> None:
        """Note that all processes decide by another policy."""
        self._taken = policy

    def judged(self, mistakes: PolicyError | None) -> None:
        """Note that the file was read, and tell it. See `watch_policy`."""
        last, error = self._news, None if mistakes is None else str(mistakes)
        now, before = last.now, last.before
        if self._taken.version != now.version:
            now, before = PolicyText.of(self._taken), now
        self._news = PolicyNews(now, time.time(), before, error)
        self._tell(self._news)


def _shown(policy: Policy) -> str:
    """Return the text of a policy for people: without a user and a password in the URL of a store."""
    text, store = hide_secrets_in(policy.text), policy.store
    if store is None or store.shown == store.url:
        return text
    told = tomllib.loads(text).get("store", {}).get("url")
    if told in (None, store.shown):
        return text
    return "(not shown: the URL of its store has a secret, and is written with escapes or quotes)\n"
