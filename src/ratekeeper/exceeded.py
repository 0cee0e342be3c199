"""RateLimitExceeded: the error of a refused request, with the decision that refused it. Knows no store."""

from __future__ import annotations

from typing import Protocol

from ratekeeper.decision import RuleDecision
from ratekeeper.errors import RatekeeperError
from ratekeeper.limits import Limit


class AnyDecision(Protocol):
    """The common part of a limiter's `Decision` and a keeper's `PolicyDecision`.

    `rules` are the decisions of each rule, `missing` the attribute for want of which a policy refused.
    """

    @property
    def allowed(self) -> bool: ...
    @property
    def missing(self) -> str | None: ...
    @property
    def rules(self) -> tuple[RuleDecision, ...]: ...
    @property
    def limit(self) -> Limit | None: ...
    @property
    def remaining(self) -> float: ...
    @property
    def retry_after(self) -> float: ...
    @property
    def retry_after_seconds(self) -> int | None: ...
    @property
    def reset_after(self) -> float: ...
    @property
    def delay(self) -> float: ...
    @property
    def refusal(self) -> str: ...


class RateLimitExceeded(RatekeeperError):
    """A request was refused. `decision` says by which limit, and when to come back."""

    def __init__(self, decision: AnyDecision, /) -> None:
        self.decision = decision  # `args` has it too, by `__new__`. A call of the base class takes longer

    @property
    def retry_after(self) -> float:
        """Seconds after which the same request would be allowed; `inf` if it never will be."""
        return self.decision.retry_after

    def __str__(self) -> str:
        # Celery's result backends keep an error's arguments as strings, and make the error again from these.
        return self.decision if isinstance(self.decision, str) else self.decision.refusal
