"""The other libraries as contenders, each in its fastest way to ask about one key in memory, without blocking.

They are imported by name, because they are optional and some have no type stubs. A missing library is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from operator import itemgetter
from typing import Any

from benchmarks.contenders import Contender, Entrant, Rate


def build_limits(strategy_name: str, rate: Rate) -> Contender:
    """limits: its own thread forgets old windows, every 10 ms while it is used."""
    strategies, storages = import_module("limits.strategies"), import_module("limits.storage")
    item = import_module("limits").RateLimitItemPerSecond(rate.count, rate.seconds)
    storage = storages.MemoryStorage()
    strategy = getattr(strategies, strategy_name)(storage)

    def settle() -> None:
        storage.timer.join()

    return Contender(partial(strategy.hit, item), clear=partial(strategy.clear, item), settle=settle, tidy=settle)


def build_throttled(algorithm: str, rate: Rate) -> Contender:
    """throttled-py: its store keeps 1,024 keys by default, so the number is given."""
    throttled = import_module("throttled")
    quota = throttled.per_duration(timedelta(seconds=rate.seconds), rate.count, burst=rate.count)
    store = throttled.MemoryStore(options={"MAX_SIZE": 2_000_000})
    limiter = throttled.Throttled(using=algorithm, quota=quota, store=store)
    return Contender(limiter.limit, _not_limited)


def _not_limited(result: Any) -> bool:
    return not result.limited


def build_pyrate(algorithm: str, *several: Rate) -> Contender:
    """pyrate-limiter: a bucket for each key needs the user's own factory, as its manual shows. A bucket has all rates.

    Asked with `blocking=False`, which also refuses when another thread holds its lock. Its thread that trims logs every
    ten seconds is left out of the timing, to its advantage; `tidy` does that work.
    """
    pyrate = import_module("pyrate_limiter")
    rates = [pyrate.Rate(rate.count, rate.seconds * 1000) for rate in several]
    buckets: dict[str, Any] = {}

    def new_bucket() -> Any:
        return pyrate.InMemoryBucket(rates) if algorithm == "log" else pyrate.StateBucket(rates, pyrate.GCRA())

    def get(_: Any, item: Any) -> Any:
        bucket = buckets.get(item.name)
        if bucket is None:
            bucket = buckets[item.name] = new_bucket()
        return bucket

    clock = pyrate.MonotonicClock()

    def wrap_item(_: Any, name: str, weight: int = 1) -> Any:
        return pyrate.RateItem(name, clock.now(), weight=weight)

    factory = type("Factory", (pyrate.BucketFactory,), {"get": get, "wrap_item": wrap_item})
    limiter = pyrate.Limiter(factory())

    def clear(key: str) -> None:
        buckets.pop(key, None)

    def tidy() -> None:
        for bucket in buckets.values():
            bucket.leak(clock.now())

    ask = partial(limiter.try_acquire, weight=1, blocking=False)
    return Contender(ask, patient=limiter.try_acquire, clear=clear, tidy=tidy)


def build_token_bucket(rate: Rate) -> Contender:
    token_bucket = import_module("token_bucket")
    limiter = token_bucket.Limiter(rate.count / rate.seconds, rate.count, token_bucket.MemoryStorage())
    return Contender(limiter.consume)


def build_rust(verb: str, rate: Rate) -> Contender:
    """rust-py-rate-limit: a fixed window. `allow` returns only a bool, `check` a dictionary with more."""
    limiter = import_module("rust_py_rate_limit").RateLimiter(limit=rate.count, window_seconds=rate.seconds)
    read = bool if verb == "allow" else itemgetter("allowed")
    return Contender(getattr(limiter, verb), read, clear=limiter.reset, tidy=limiter.cleanup_expired)


_PEERS = {
    "rust_py_rate_limit": [
        Entrant("rust-py-rate-limit, allow", partial(build_rust, "allow")),
        Entrant("rust-py-rate-limit, check", partial(build_rust, "check")),
    ],
    "limits": [
        Entrant("limits, fixed window", partial(build_limits, "FixedWindowRateLimiter")),
        Entrant("limits, moving window", partial(build_limits, "MovingWindowRateLimiter"), log=True),
        Entrant("limits, sliding window", partial(build_limits, "SlidingWindowCounterRateLimiter")),
    ],
    "throttled": [
        Entrant("throttled-py, GCRA", partial(build_throttled, "gcra")),
        Entrant("throttled-py, token bucket", partial(build_throttled, "token_bucket")),
        Entrant("throttled-py, leaky bucket", partial(build_throttled, "leaking_bucket")),
    ],
    "pyrate_limiter": [
        Entrant("pyrate-limiter, GCRA", partial(build_pyrate, "gcra")),
        Entrant("pyrate-limiter, log", partial(build_pyrate, "log"), log=True),
    ],
    "token_bucket": [Entrant("token-bucket (not exact)", build_token_bucket, exact=False)],
}

DISTRIBUTIONS = ("limits", "throttled-py", "pyrate-limiter", "token-bucket", "rust-py-rate-limit")
"""The packages of all of them: the dependency group `bench`."""


def peer_entrants() -> Mapping[str, Entrant]:
    """Return the peers that are installed, by name."""
    return {
        entrant.name: entrant
        for module, entrants in _PEERS.items()
        if find_spec(module) is not None
        for entrant in entrants
    }
