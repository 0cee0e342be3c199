"""A process with impatient callers of several limiters, until its input ends. `test_waiting_use` runs some.

Its arguments are a seed, the seconds between two callers, and the limiters as Python: (name, store, prefix, limits).
Each line that it prints is one departure, with the limiter's name before it.
"""

from __future__ import annotations

import asyncio
import json
import sys

from impatient_callers import Callers, Departure

import ratekeeper
from ratekeeper import AsyncLimiter, AsyncRedisStore, SharedMemoryStore
from ratekeeper.limits import Limit


def callers(name: str, where: str, prefix: str, limits: tuple[Limit, ...], gap: float, seed: str) -> Callers:
    def tell(departure: Departure) -> None:
        print(json.dumps([name, *departure]), flush=True)

    store = AsyncRedisStore(where, prefix=prefix, timeout=30) if "://" in where else SharedMemoryStore(where, 1000)
    return Callers(AsyncLimiter(*limits, store=store, name=name), gap, seed + name, tell)


async def main(seed: str, gap: float, limiters: list[tuple[str, str, str, tuple[Limit, ...]]]) -> None:
    over = asyncio.Event()
    coming = [asyncio.create_task(callers(*limiter, gap, seed).come(over)) for limiter in limiters]
    await asyncio.to_thread(sys.stdin.read)
    over.set()
    await asyncio.gather(*coming)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), eval(sys.argv[3], vars(ratekeeper))))
