"""Prometheus: a counter of decisions, by rule and outcome. Knows no framework and no key."""

from __future__ import annotations

from ratekeeper.errors import MissingExtraError
from ratekeeper.policy.decision import PolicyDecision

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter
except ModuleNotFoundError:
    raise MissingExtraError("ratekeeper.metrics.prometheus", "prometheus") from None

__all__ = ["DecisionCounter"]


class DecisionCounter:
    """Counts `ratekeeper_decisions_total{rule, outcome}`: `on_decision=DecisionCounter()` in any middleware.

    Each rule that a request meets is counted: "allowed", "delayed", "refused" or "shadow_refused", as the rule alone
    decides. A request without a required attribute is "refused" by the rule "".

    `registry` is the registry of the metric, by default Prometheus' own. A registry takes it once, as any metric.
    Without a middleware, call it:

    >>> from ratekeeper import Keeper, Policy
    >>> count = DecisionCounter(CollectorRegistry())
    >>> keeper = Keeper(Policy.parse('[[rules]]\\nname = "all"\\nlimit = "1/hour"'))
    >>> request = {"method": "GET"}
    >>> count(request, keeper.try_acquire(request))
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._counter = Counter(
            "ratekeeper_decisions", "Decisions of each rule of the rate limiter's policy.", ["rule", "outcome"],
            registry=registry or REGISTRY,
        )  # fmt: skip

    def __call__(self, request: object, decision: PolicyDecision) -> None:
        for rule, outcome in decision.outcomes:
            self._counter.labels(rule, outcome).inc()
