"""The service's metrics: their names, and the place of each number in the cells of a process. Knows no I/O.

A process counts in cells, which are whole numbers of 64 bits. First come the families below, one cell for each
combination of labels. Then come the histograms, and then a row for each rule of the policy.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import product
from typing import Literal, NamedTuple, TypeAlias, get_args

from ratekeeper.decision import Outcome

Protocol: TypeAlias = Literal["http", "grpc", "resp"]
"""A protocol of the service."""
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)

RESULTS = ("allowed", "refused", "failed")
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


class Family(NamedTuple):
    """One metric of Prometheus. `labels` has the values of each label; a gauge ends with its process."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    labels: dict[str, tuple[str, ...]]

    def combinations(self) -> list[tuple[str, ...]]:
        """Return the values of the labels, for each cell in turn."""
        return list(product(*self.labels.values()))


_BY_PROTOCOL: dict[str, tuple[str, ...]] = {"protocol": PROTOCOLS}

FAMILIES = (
    Family(
        "ratekeeper_requests", "counter",
        "Questions that were answered: allowed, refused by a limit, or failed, as the question or the store was bad.",
        {**_BY_PROTOCOL, "result": RESULTS},
    ),
    Family("ratekeeper_connections", "gauge", "Open connections.", _BY_PROTOCOL),
    Family("ratekeeper_connections_opened", "counter", "Connections that were accepted.", _BY_PROTOCOL),
    Family("ratekeeper_waiting_requests", "gauge", "Requests that wait for their turn now.", {}),
    Family("ratekeeper_processes", "gauge", "Processes that serve.", {}),
    Family("ratekeeper_store_calls", "counter", "Round trips to the store's server.", {}),
    Family("ratekeeper_store_failures", "counter", "Round trips that the store's server did not answer.", {}),
    Family("ratekeeper_store_fallbacks", "counter", "Requests that were decided by on_error, without the store.", {}),
    Family("ratekeeper_store_circuits_opened", "counter", "How often a circuit breaker opened.", {}),
    Family(
        "ratekeeper_store_circuits_open", "gauge",
        "Circuit breakers that are open now. Each process has one for each server of the store.", {},
    ),
    Family("ratekeeper_access_log_dropped", "counter", "Lines of the access log that were not written.", {}),
    Family(
        "ratekeeper_policy_reloads", "counter", "Readings of the policy file: the first, and one after each change.",
        {"result": ("success", "failure")},
    ),
    Family(
        "ratekeeper_policy_last_reload_successful", "gauge",
        "1 if the policy file was taken when it was last read; 0 if it has mistakes.", {},
    ),
    Family(
        "ratekeeper_envoy_config_reloads", "counter",
        "Readings of the folder of --envoy-config: the first, and one after each change.",
        {"result": ("success", "failure")},
    ),
    Family(
        "ratekeeper_envoy_config_last_reload_successful", "gauge",
        "0 if a file of --envoy-config has mistakes, as it was last read; else 1.", {},
    ),
)  # fmt: skip


BOUNDS = tuple(float(f"{step}e{power}") for power in range(-6, 2) for step in (1, 2.5, 5))
"""The upper bounds of the histogram, in seconds; one more bucket has all that is longer."""

_BUCKETS = len(BOUNDS) + 1
_HISTOGRAM = _BUCKETS + 1  # and the sum, in nanoseconds


def _places() -> tuple[dict[str, int], int]:
    places, next_cell = {}, 0
    for family in FAMILIES:
        places[family.name] = next_cell
        next_cell += len(family.combinations())
    return places, next_cell


_PLACES, _HISTOGRAMS = _places()

VERSION_CELL = _HISTOGRAMS + _HISTOGRAM * len(PROTOCOLS)
"""The cell with the first eight bytes of the digest of the policy that the process decides by; 0 for none."""
RELOADED_CELL = VERSION_CELL + 1
"""The cell with the time when a policy file was last taken, in milliseconds since 1970."""
FIXED_CELLS = RELOADED_CELL + 1
"""The number of all cells but those of rules."""

RULES = 1024
"""The rules of a process that are counted apart, those of earlier policies too. Further ones share the first row."""
RULE_CELLS = 2 + len(OUTCOMES)
"""A rule's cells: the length of its name in bytes, its decisions by outcome, and those near the limit."""
ALL_CELLS = FIXED_CELLS + RULES * RULE_CELLS


def cell_of(family: str, *labels: str) -> int:
    """Return the cell of a family, for these values of its labels."""
    [found] = [one for one in FAMILIES if one.name == family]
    return _PLACES[family] + found.combinations().index(labels)


def gauge_cells() -> list[int]:
    """Return the cells that end with their process: all that are not counters."""
    gauges = [
        range(_PLACES[family.name], _PLACES[family.name] + len(family.combinations()))
        for family in FAMILIES
        if family.kind == "gauge"
    ]
    return [*(cell for cells in gauges for cell in cells), VERSION_CELL, RELOADED_CELL]


def histogram_cells(protocol: Protocol) -> range:
    """Return the cells of a protocol's histogram: each bucket's count, and then the sum in nanoseconds."""
    first = _HISTOGRAMS + _HISTOGRAM * PROTOCOLS.index(protocol)
    return range(first, first + _HISTOGRAM)


_BOUNDS_NS = tuple(round(bound * 1e9) for bound in BOUNDS)


def bucket_of(nanoseconds: int) -> int:
    """Return the bucket of a duration, by its place in the histogram."""
    return bisect_left(_BOUNDS_NS, nanoseconds)
