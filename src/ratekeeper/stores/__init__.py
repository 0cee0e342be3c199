"""All that the author of a store needs: the protocols, the gates and wait queues to use, and the values they pass."""

from ratekeeper.clock import Clock
from ratekeeper.decision import Charge
from ratekeeper.stores.base import AsyncChargeGate, AsyncStore, ChargeGate, Gate, Store
from ratekeeper.waiting.async_wait_queue import AsyncWaitQueue
from ratekeeper.waiting.wait_queue import WaitQueue

__all__ = [
    "AsyncChargeGate",
    "AsyncStore",
    "AsyncWaitQueue",
    "Charge",
    "ChargeGate",
    "Clock",
    "Gate",
    "Store",
    "WaitQueue",
]
