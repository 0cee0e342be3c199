"""`python -m benchmarks.speed`: floors, ratekeeper's verbs, and every contender with the same keys and limits."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic_ns

from benchmarks import results, timing
from benchmarks.contenders import C_CORE, PYTHON_CORE, Contender, Entrant, Rate, our_entrants
from benchmarks.peers import DISTRIBUTIONS, peer_entrants
from benchmarks.results import Table, ratio, table_of, target
from benchmarks.timing import Case, run_rounds
from ratekeeper import AsyncLimiter, LeakyBucket, Limiter, MemoryStore, TokenBucket

FLOORS, HOT, REFUSED, SPREAD, OURS = "floors", "hot key, allowed", "hot key, refused", "many keys, random", "verbs"
THREADS_HOT, THREADS_SPREAD = "8 threads, one key", "8 threads, 8 keys"
NS, PEER = "ns a decision", "x fastest exact peer"

ALWAYS = Rate(100_000_000)
"""Is never used up here, so every request passes."""
LOGGED = Rate(10_000)
"""The same for a library that keeps a log. The log is cleared before each timing, so it has the calls of one timing."""
EACH = Rate(1_000)
"""For many keys. None of them is asked so often here; buckets stay live from round to round."""
NEVER = Rate(1)
"""Is used up before the timing, so no request passes."""

HOT_KEY = "client:10.11.12.13"
THREADS = 8


@dataclass(frozen=True, slots=True)
class Load:
    """How many calls one timing has: enough for some milliseconds."""

    fast: int = 20_000
    slow: int = 500
    batch: int = 1_000
    batches: int = 20
    fast_threads: int = 10_000
    slow_threads: int = 1_000
    logged_threads: int = 400


def random_keys(count: int) -> list[str]:
    """Return the keys in the random order in which all contenders are asked about them."""
    keys = [f"client:{number}" for number in range(count)]
    random.Random(20).shuffle(keys)
    return keys


class _Nothing:
    def method(self) -> None:
        pass


def floor_cases(keys: Sequence[str], load: Load) -> Iterator[Case]:
    """The parts that every limiter needs, and their cost here."""
    ages = dict.fromkeys(sorted(keys), 0)
    calls = load.fast
    yield Case(FLOORS, "an empty loop (in all figures)", partial(timing.empty_loop, calls))
    yield Case(FLOORS, "an empty method", partial(timing.plain, _Nothing().method, calls))
    yield Case(FLOORS, "dict.get, one key", partial(timing.hot, ages.get, keys[0], calls))
    yield Case(FLOORS, CLOCK, partial(timing.plain, monotonic_ns, calls))
    yield Case(FLOORS, "with Lock()", partial(timing.locked, threading.Lock(), calls))
    yield Case(FLOORS, AWAIT, partial(timing.awaited, _empty_coroutine, "", calls))
    yield Case(FLOORS, AWAIT_IN_C, partial(timing.awaited, {"": _done()}.__getitem__, "", calls))
    yield Case(SPREAD, DICT, timing.Walk(ages.get, keys, len(keys)).time)


CLOCK = "time.monotonic_ns()"
DICT = "dict.get"
AWAIT, AWAIT_IN_C = "await an empty coroutine", "await a done asyncio.Future, which is in C"
ACQUIRE, TWO, LEAKY = "acquire, nobody waits", "try_acquire, two limits", "try_acquire, leaky bucket"
AWAITED = "AsyncLimiter.try_acquire, awaited"
BATCH, BATCH_SPREAD = "try_acquire_many, 1,000 keys in cache", "ratekeeper, try_acquire_many"


async def _empty_coroutine(_: str) -> None:
    pass


def _done() -> asyncio.Future[None]:
    """Return a future that has its answer, so that `await` does not suspend."""
    loop = asyncio.new_event_loop()
    future = loop.create_future()
    future.set_result(None)
    loop.close()
    return future


def verb_cases(keys: Sequence[str], load: Load) -> Iterator[Case]:
    """ratekeeper's other verbs and limits, on the default store."""
    limit = TokenBucket(ALWAYS.count, f"{ALWAYS.count}/hour")
    other = TokenBucket(ALWAYS.count, f"{2 * ALWAYS.count}/hour")
    two, leaky = Limiter(limit, other).try_acquire, Limiter(LeakyBucket(ALWAYS.count, "1000000/s")).try_acquire
    asynchronous, batch = AsyncLimiter(limit).try_acquire, Limiter(limit).try_acquire_many
    spread_limit, table = TokenBucket(EACH.count, f"{EACH.count}/hour"), MemoryStore(len(keys))
    spread = Limiter(spread_limit, store=table).try_acquire_many
    calls = load.fast // 2
    yield Case(OURS, ACQUIRE, partial(timing.hot, Limiter(limit).acquire, HOT_KEY, calls))
    yield Case(OURS, TWO, partial(timing.hot, two, HOT_KEY, calls))
    yield Case(OURS, LEAKY, partial(timing.hot, leaky, HOT_KEY, calls))
    yield Case(OURS, AWAITED, partial(timing.awaited, asynchronous, HOT_KEY, calls))
    yield Case(OURS, BATCH, partial(timing.batches, batch, keys[: load.batch], load.batches))
    spread(keys)
    yield Case(SPREAD, BATCH_SPREAD, partial(timing.batches, spread, keys, 1))


def contender_cases(entrants: Mapping[str, Entrant], keys: Sequence[str], load: Load) -> Iterator[Case]:
    """Every contender with one key that passes, one that is refused, many keys, and threads."""
    for entrant in entrants.values():
        fast = entrant.ours and entrant.name != PYTHON_CORE
        calls = load.fast if fast else load.slow
        yield from _hot_cases(entrant, calls)
        yield from _thread_cases(entrant, load.fast_threads if fast else load.slow_threads, load.logged_threads)
        spread = entrant.build(EACH, len(keys)) if entrant.ours else entrant.build(EACH)  # a table for as many as come
        for key in keys:
            spread.ask(key)
        walk = timing.Walk(spread.ask, keys, len(keys) if fast else 4 * calls)
        yield Case(SPREAD, entrant.name, walk.time, after=spread.settle)


def _hot_cases(entrant: Entrant, calls: int) -> Iterator[Case]:
    allowed = entrant.build(LOGGED if entrant.log else ALWAYS)
    before = partial(_clear, allowed, [HOT_KEY]) if entrant.log else None
    run = partial(timing.hot, allowed.ask, HOT_KEY, calls)
    yield Case(HOT, entrant.name, run, before, partial(_expect, allowed, HOT_KEY, True))
    refused = entrant.build(NEVER)
    refused.ask(HOT_KEY)
    run = partial(timing.hot, refused.ask, HOT_KEY, calls)
    yield Case(REFUSED, entrant.name, run, after=partial(_expect, refused, HOT_KEY, False))


def _thread_cases(entrant: Entrant, calls: int, logged_calls: int) -> Iterator[Case]:
    calls = logged_calls if entrant.log else calls
    for group, keys in ((THREADS_HOT, [HOT_KEY] * THREADS), (THREADS_SPREAD, [f"client:{n}" for n in range(THREADS)])):
        contender = entrant.build(LOGGED if entrant.log else ALWAYS)
        before = partial(_clear, contender, keys) if entrant.log else None
        crowd = timing.Crowd(contender.patient or contender.ask, keys, calls)
        yield Case(group, entrant.name, crowd.time, before, partial(_expect, contender, keys[0], True), every=4)


def _clear(contender: Contender, keys: Iterable[str]) -> None:
    """Begin with an empty log, but with the objects of a new key already built."""
    assert contender.clear is not None
    for key in set(keys):
        contender.clear(key)
        contender.ask(key)


def _expect(contender: Contender, key: str, allowed: bool) -> None:
    """Make sure that the case was what it is called."""
    answer = contender.ask(key)
    if contender.settle:
        contender.settle()
    if contender.allowed(answer) is not allowed:
        raise RuntimeError(f"a request that should have been {'allowed' if allowed else 'refused'} was not")


# ---- the tables ----


def measure(quick: bool) -> list[Table]:
    entrants = {**our_entrants(), **peer_entrants()}
    load, keys = Load(), random_keys(10_000 if quick else 100_000)
    results.say(f"filling tables with {len(keys):,} keys each")
    cases = [*floor_cases(keys, load), *verb_cases(keys, load), *contender_cases(entrants, keys, load)]
    run_rounds(cases, 8 if quick else 40, results.say_round("speed"))
    return tables(cases, entrants, len(keys))


def tables(cases: Sequence[Case], entrants: Mapping[str, Entrant], key_count: int) -> list[Table]:
    found = {(case.group, case.name): case for case in cases}
    groups = {group: [case for case in cases if case.group == group] for group, _ in found}
    clock, nothing, lookups = found[FLOORS, CLOCK], found[FLOORS, AWAIT], found[SPREAD, DICT]
    peers = {group: fastest_exact_peer(groups[group], entrants) for group in groups}
    rows = [_target_rows(found, peers[HOT], key_count)] if (HOT, C_CORE) in found else []
    return [
        *rows,
        table_of("Floors", NS, groups[FLOORS], {"x clock": clock}),
        *(
            table_of(f"One thread, {group}", NS, groups[group], {"x clock": clock, PEER: peers[group]})
            for group in (HOT, REFUSED)
        ),
        table_of(
            "One thread, many keys in random order", NS, groups[SPREAD], {"x dict.get": lookups, PEER: peers[SPREAD]}
        ),
        table_of("ratekeeper's other verbs", NS, groups[OURS], {"x clock": clock, "x empty await": nothing}),
        *(
            table_of(f"{group}: time on the wall, all together", NS, groups[group], {PEER: peers[group]})
            for group in (THREADS_HOT, THREADS_SPREAD)
        ),
    ]


def fastest_exact_peer(cases: Iterable[Case], entrants: Mapping[str, Entrant]) -> Case | None:
    """Return the quickest library that is made to hold its limit."""
    peers = [case for case in cases if case.name in entrants and is_exact_peer(entrants[case.name])]
    return min(peers, key=lambda case: case.best, default=None)


def is_exact_peer(entrant: Entrant) -> bool:
    return entrant.exact and not entrant.ours


def _target_rows(found: Mapping[tuple[str, str], Case], peer: Case | None, key_count: int) -> Table:
    hot, many, batch = found[HOT, C_CORE], found[SPREAD, C_CORE], found[OURS, BATCH]
    clock, spread_batch = found[FLOORS, CLOCK], found[SPREAD, BATCH_SPREAD]
    lookups = ratio(many, found[SPREAD, DICT])
    rows = [
        target("hot key, x time.monotonic_ns(): at most 1.35", ratio(hot, clock), most=1.35),
        target(f"{key_count:,} random keys, x dict.get: at most 1.8", lookups, most=1.8),
        target("batches in cache, M decisions a second: at least 25", (1e3 / batch.best, 1e3 / batch.median), least=25),
        target("the same, x time.monotonic_ns(): at most 0.67", ratio(batch, clock), most=0.67),  # 40 ns of 60
        target("random keys in one batch, x time.monotonic_ns(): at most 1.67", ratio(spread_batch, clock), most=1.67),
        target("AsyncLimiter, awaited, x the sync verb: at most 1.4", ratio(found[OURS, AWAITED], hot), most=1.4),
    ]
    if peer:
        rows.insert(1, target("hot key, x the fastest exact peer: at most 0.5", ratio(hot, peer), most=0.5))
    return Table("Targets, C core", "measured", rows)


if __name__ == "__main__":
    results.main("speed", measure, DISTRIBUTIONS)
