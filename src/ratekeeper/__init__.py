"""ratekeeper: an exact rate limiter at the price of reading the clock. See README.md and docs/."""

from ratekeeper.clock import ManualClock
from ratekeeper.core import IMPLEMENTATION
from ratekeeper.decision import Decision, RuleDecision
from ratekeeper.errors import (
    CostError,
    LimitError,
    LimitUnavailable,
    MissingExtraError,
    PolicyError,
    QueueClosed,
    QueueEmpty,
    QueueFull,
    RatekeeperError,
    StoreError,
    StoreUnavailable,
)
from ratekeeper.exceeded import RateLimitExceeded
from ratekeeper.leaky_queue import LeakyQueue, QueueStats
from ratekeeper.limiter import AsyncLimiter, Limiter
from ratekeeper.limits import Deny, LeakyBucket, Limit, TokenBucket, parse_limit, parse_limits
from ratekeeper.policy.async_keeper import AsyncKeeper
from ratekeeper.policy.decision import PolicyDecision
from ratekeeper.policy.keeper import Keeper
from ratekeeper.policy.lookups.lookup import LookupFunction, LookupStats
from ratekeeper.policy.model import Policy
from ratekeeper.policy.reload import PolicyWatch, watch_policy
from ratekeeper.stores.memory import MemoryStore
from ratekeeper.stores.redis import AsyncRedisStore, RedisStats, RedisStore
from ratekeeper.stores.shared_memory import SharedMemoryStore
from ratekeeper.stores.table_store import StoreStats
from ratekeeper.usage import Usage
from ratekeeper.waiting.turns import Reservation

__version__ = "0.2.0"

__all__ = [
    "IMPLEMENTATION",
    "AsyncKeeper",
    "AsyncLimiter",
    "AsyncRedisStore",
    "CostError",
    "Decision",
    "Deny",
    "Keeper",
    "LeakyBucket",
    "LeakyQueue",
    "Limit",
    "LimitError",
    "LimitUnavailable",
    "Limiter",
    "LookupFunction",
    "LookupStats",
    "ManualClock",
    "MemoryStore",
    "MissingExtraError",
    "Policy",
    "PolicyDecision",
    "PolicyError",
    "PolicyWatch",
    "QueueClosed",
    "QueueEmpty",
    "QueueFull",
    "QueueStats",
    "RateLimitExceeded",
    "RatekeeperError",
    "RedisStats",
    "RedisStore",
    "Reservation",
    "RuleDecision",
    "SharedMemoryStore",
    "StoreError",
    "StoreStats",
    "StoreUnavailable",
    "TokenBucket",
    "Usage",
    "parse_limit",
    "parse_limits",
    "watch_policy",
]
