"""For tests: `frozen` holds the time of every store, and `StoreConformance` has what every store promises."""

from ratekeeper.testing.changes import charge
from ratekeeper.testing.conformance import StoreConformance
from ratekeeper.testing.frozen_time import FrozenTime, frozen

__all__ = ["FrozenTime", "StoreConformance", "charge", "frozen"]
