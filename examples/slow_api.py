"""An API client that obeys a published limit of 90,000 tokens and 500 requests a minute, both at once.

    python examples/slow_api.py

The limiter paces the calls: each waits for its turn, and none is sent that the server would have to refuse.
"""

import asyncio

from ratekeeper import AsyncKeeper, ManualClock, MemoryStore, Policy

PUBLISHED = Policy.parse("""
[[rules]]
name = "requests"
limit = "500/minute burst 10"
max_wait = inf

[[rules]]
name = "tokens"
limit = "90000/minute burst 9000"
cost = "tokens"
max_wait = inf
""")


async def call(keeper: AsyncKeeper, tokens: int) -> float:
    """Call the API when both limits allow it; return how long that took."""
    decision = await keeper.acquire({"tokens": str(tokens)})
    return decision.delay  # the request goes here


async def main() -> None:
    # A manual clock, which waiting moves: here it shows a minute's work at once. Leave `clock` out in production.
    clock = ManualClock()
    keeper = AsyncKeeper(PUBLISHED, MemoryStore(clock=clock))
    waited = [await call(keeper, tokens) for tokens in [3000, 3000, 3000, 6000, *[100] * 100]]
    print(f"104 calls, 25,000 tokens: {clock.ticks() / 16e9:.1f} s, the longest wait {max(waited):.1f} s")


if __name__ == "__main__":
    asyncio.run(main())
