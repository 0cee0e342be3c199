"""Route: how the questions at a path are answered. Knows no path and no question.

A route returns its answer, or a coroutine. The wire runs the coroutine until it suspends, and only the rest in a task.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, NamedTuple, TypeAlias

from ratekeeper.http.responses import explained
from ratekeeper.service.core import Core
from ratekeeper.service.http.answer import CLOSE, Answer, answer_of
from ratekeeper.service.http.exchange import GatewayExchange

AnswerNow: TypeAlias = Callable[[Core, Any, "str | None"], Answer | None]
"""Takes the head of a usual request, a `Head` of the C core, and the address of its peer."""

Answering: TypeAlias = Answer | Coroutine[Any, Any, Answer]
"""An answer, or a coroutine that returns it."""


MOST_BODY = 65_536
"""Bytes of the longest body that is kept, unless its route takes a longer one."""


class Route(NamedTuple):
    """How the questions at a path are answered."""

    answer: Callable[[Core, GatewayExchange], Answering]
    reads_body: bool = False
    """Whether the body of a request is kept for it. Others are dropped as they come."""
    most_body: Callable[[Core, GatewayExchange], int] | None = None
    """Returns the bytes of the longest body from the sender of these header lines; None for `MOST_BODY`."""
    answer_now: AnswerNow | None = None
    """Answers a usual request as `answer` does, in fewer steps, or returns None."""


Show: TypeAlias = Callable[[Core, GatewayExchange], Answer]


def to_read(show: Show) -> Show:
    """Return a function that answers GET and HEAD only, by `show`.

    The connection ends if there is a body: it may be large, or take long to make. Else one client could ask for
    hundreds in one piece, and fill the memory or hold up all others for seconds.
    """

    @wraps(show)
    def answer(core: Core, request: GatewayExchange) -> Answer:
        if request.verb not in (b"GET", b"HEAD"):
            return answer_of(explained(405, "ask by GET", ("Allow", "GET, HEAD")))
        shown = show(core, request)
        if shown.body:
            request.connection = CLOSE
        return shown

    return answer
