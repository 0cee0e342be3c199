"""Route: how the questions at a path are answered. Knows no path and no question.

A route returns its answer, or a coroutine. The wire runs the coroutine until it suspends, and only the rest in a task.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, TypeAlias

from ratekeeper.service.core import Core
from ratekeeper.service.http.answer import Answer
from ratekeeper.service.http.exchange import GatewayExchange

Answering: TypeAlias = Answer | Coroutine[Any, Any, Answer]
"""An answer, or a coroutine that returns it."""


class Route(NamedTuple):
    """How the questions at a path are answered."""

    answer: Callable[[Core, GatewayExchange], Answering]
    reads_body: bool = False
    """Whether the body of a request is kept for it. Others are dropped as they come."""
