"""`python -m benchmarks.live_keys`: a decision's cost by the number of live keys, to 10 million, beside `dict.get`.

The keys are asked in random order. Each table is sized to its keys. Only a sample of a million keys is kept here.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from benchmarks import results, timing
from benchmarks.results import Table, table_of
from benchmarks.timing import Case, run_rounds
from ratekeeper import Limiter, MemoryStore, TokenBucket

COUNTS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
OURS, DICT = "Live keys: ratekeeper", "Live keys: dict.get"
LIMIT = TokenBucket(1_000, "100/day")
"""One request keeps a bucket live for 14 minutes, and no key is used up here."""
SAMPLE, STRIDE, CHUNK = 1_000_000, 10_000, 10_000


def sample_of(count: int) -> list[str]:
    """Return up to a million of the keys, in the random order in which they are asked."""
    numbers = random.Random(22).sample(range(count), min(count, SAMPLE))
    return [f"client:{number}" for number in numbers]


def cases(counts: tuple[int, ...]) -> Iterator[Case]:
    for count in counts:
        results.say(f"filling a table with {count:,} keys")
        name, sample = f"{count:,} keys", sample_of(count)
        limiter = Limiter(LIMIT, store=MemoryStore(count))
        for begin in range(0, count, CHUNK):
            limiter.try_acquire_many([f"client:{number}" for number in range(begin, min(begin + CHUNK, count))])
        yield Case(OURS, name, timing.Walk(limiter.try_acquire, sample, STRIDE).time)
        if count <= SAMPLE:  # a larger dictionary would take gigabytes
            yield Case(DICT, name, timing.Walk(dict.fromkeys(sorted(sample), 0).get, sample, STRIDE).time)


def measure(quick: bool) -> list[Table]:
    found = list(cases(COUNTS[:3] if quick else COUNTS))
    run_rounds(found, 8 if quick else 60, results.say_round("live keys"))
    lookups = {case.name: case for case in found if case.group == DICT}
    ours = [case for case in found if case.group == OURS]
    return [
        table_of(OURS, "ns a decision", ours, {f"x {ours[0].name}": ours[0]}),
        table_of(DICT, "ns a look-up", lookups.values(), {f"x {ours[0].name}": lookups[ours[0].name]}),
    ]


if __name__ == "__main__":
    results.main("live_keys", measure, ())
