"""OpenTelemetry: a counter of decisions, by rule and outcome. Knows no framework, no exporter, and no key."""

from __future__ import annotations

from ratekeeper.errors import MissingExtraError
from ratekeeper.policy.decision import PolicyDecision

try:
    from opentelemetry.metrics import Meter, get_meter
except ModuleNotFoundError:
    raise MissingExtraError("ratekeeper.metrics.opentelemetry", "opentelemetry") from None

__all__ = ["DecisionCounter"]


class DecisionCounter:
    """Counts `ratekeeper.decisions`, with attributes `rule` and `outcome`: `on_decision=DecisionCounter()`.

    The outcomes are those of `ratekeeper.metrics.prometheus`, and it is called in the same way. The default of `meter`
    is named "ratekeeper", of the application's own provider.
    """

    def __init__(self, meter: Meter | None = None) -> None:
        self._counter = (meter or get_meter("ratekeeper")).create_counter(
            "ratekeeper.decisions", "{decision}", "Decisions of each rule of the rate limiter's policy."
        )

    def __call__(self, request: object, decision: PolicyDecision) -> None:
        for rule, outcome in decision.outcomes:
            self._counter.add(1, {"rule": rule, "outcome": outcome})
