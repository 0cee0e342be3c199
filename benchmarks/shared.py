"""`python -m benchmarks.shared`: what it costs to share a table, what processes gain by it, and how Redis compares.

Everything is timed in one run, interleaved round by round; ratios count.
That nobody is denied or admitted wrongly is counted by the tests.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks import over_redis, results, timing
from benchmarks.over_redis import Server
from benchmarks.processes import Job, Team
from benchmarks.results import Row, Table, pair, ratio, ratio_row, rounded, say, say_round, table_of, target
from benchmarks.speed import ALWAYS, EACH, HOT_KEY, random_keys
from benchmarks.timing import Case, run_rounds
from ratekeeper import Limiter, MemoryStore, SharedMemoryStore, TokenBucket
from ratekeeper.stores.shared_memory import FOLDER
from ratekeeper.stores.table_store import MAX_KEYS, TableStore

MANY = TokenBucket(ALWAYS.count, f"{ALWAYS.count}/hour")
MORE = TokenBucket(ALWAYS.count, f"{2 * ALWAYS.count}/hour")
SOME = TokenBucket(EACH.count, f"{EACH.count}/hour")
ONE = TokenBucket(1, "1/hour")

CALLS, CALLS_OF_REDIS, CALLS_OF_EACH, LOOPS = 20_000, 400, 50_000, 500_000
BATCH, BATCHES = 1_000, 20


@dataclass(frozen=True, slots=True)
class Size:
    rounds: int = 100
    keys: int = 100_000
    redis_keys: int = 10_000


# ---- one process: a table that is shared, beside one that is not ----

PRIVATE, SHARED = "MemoryStore", "SharedMemoryStore"
ALLOWED, REFUSED, SPREAD, TWO = "hot key, allowed", "hot key, refused", "random keys", "hot key, two limits"
BATCHED, BATCHED_SPREAD = f"batches of {BATCH:,} keys in cache", "random keys, in one batch"
KINDS = (ALLOWED, REFUSED, SPREAD, TWO, BATCHED, BATCHED_SPREAD)


def store_cases(name: str, make: Callable[[int], TableStore], keys: Sequence[str]) -> Iterator[Case]:
    """The same limits and keys on a store of this kind; random keys in a table for as many."""
    default, fitting = make(MAX_KEYS), make(len(keys))
    allowed, refused = Limiter(MANY, store=default).try_acquire, Limiter(ONE, store=default).try_acquire
    two, spread = Limiter(MANY, MORE, store=default).try_acquire, Limiter(SOME, store=fitting)
    batch = Limiter(MANY, store=make(MAX_KEYS)).try_acquire_many
    refused(HOT_KEY)
    spread.try_acquire_many(keys)
    sure = _expect(allowed, True)
    yield Case(ALLOWED, name, partial(timing.hot, allowed, HOT_KEY, CALLS), after=sure)
    yield Case(REFUSED, name, partial(timing.hot, refused, HOT_KEY, CALLS), after=_expect(refused, False))
    yield Case(SPREAD, name, partial(timing.each, spread.try_acquire, keys), after=_expect(spread.try_acquire, True))
    yield Case(TWO, name, partial(timing.hot, two, HOT_KEY, CALLS), after=_expect(two, True))
    yield Case(BATCHED, name, partial(timing.batches, batch, keys[:BATCH], BATCHES))
    yield Case(BATCHED_SPREAD, name, partial(timing.batches, spread.try_acquire_many, keys, 1))


def _expect(ask: Callable[[str], object], allowed: bool) -> Callable[[], None]:
    """Make sure that the case was what it is called."""

    def check() -> None:
        if bool(ask(HOT_KEY)) is not allowed:
            raise RuntimeError(f"a request that should have been {'allowed' if allowed else 'refused'} was not")

    return check


# ---- processes ----

LOOP = "floor: an empty loop"
PRIVATE_HOT, PRIVATE_SPREAD = "floor: MemoryStore, one hot key", "floor: MemoryStore, random keys"
OWN_HOT, OWN_SPREAD = "SharedMemoryStore, a hot key each", "SharedMemoryStore, random keys each"
SAME_HOT = "SharedMemoryStore, the same hot key"
JOBS = (LOOP, PRIVATE_HOT, PRIVATE_SPREAD, OWN_HOT, OWN_SPREAD)
CROWDS = (1, 2, 4)
COUNTS = tuple(count for count in (1, 2, 4, 8) if count <= max(2, os.cpu_count() or 1))
"""How many processes work at once: as many as there are cores, in steps of two."""


def jobs_of(store: SharedMemoryStore, key_count: int, number: int) -> Mapping[str, Job]:
    """Return the jobs of the process of this number. Those that are timed with many keys have their own."""
    name = f"process {number}"  # its own name, and so its own buckets
    some = Limiter(SOME, store=store, name=name).try_acquire
    alone_some = Limiter(SOME, store=MemoryStore(key_count)).try_acquire
    keys = random_keys(key_count if number < max(COUNTS) else 4)
    stride = len(keys) // 4
    for ask in (alone_some, some):
        timing.each(ask, keys)
    return {
        LOOP: _loop,
        PRIVATE_HOT: partial(_hot, Limiter(MANY).try_acquire),
        PRIVATE_SPREAD: partial(_walk, timing.Walk(alone_some, keys, stride), stride),
        OWN_HOT: partial(_hot, Limiter(MANY, store=store, name=name).try_acquire),
        OWN_SPREAD: partial(_walk, timing.Walk(some, keys, stride), stride),
        SAME_HOT: partial(_hot, Limiter(MANY, store=store).try_acquire),
    }


def _loop() -> int:
    timing.empty_loop(LOOPS)
    return LOOPS


def _hot(ask: Callable[[str], object]) -> int:
    timing.hot(ask, HOT_KEY, CALLS_OF_EACH)
    return CALLS_OF_EACH


def _walk(walk: timing.Walk, stride: int) -> int:
    walk.time()
    return stride


@dataclass(slots=True)
class Retries:
    """How often decisions of a crowd on one key began again, in each round."""

    store: SharedMemoryStore
    crowd: int
    before: int = 0
    counts: list[int] = field(default_factory=list)

    def begin(self) -> None:
        self.before = self.store.stats().retries

    def end(self) -> None:
        self.counts.append(self.store.stats().retries - self.before)

    @property
    def per_thousand(self) -> list[float]:
        # The first was the warm-up.
        return [1000 * count / (self.crowd * CALLS_OF_EACH) for count in self.counts[1:]]


def process_cases(team: Team, retries: Iterable[Retries]) -> Iterator[Case]:
    for job in JOBS:
        for crowd in COUNTS:
            yield Case(job, _processes(crowd), partial(team.time, job, crowd))
    for each in retries:
        run = partial(team.time, SAME_HOT, each.crowd)
        yield Case(SAME_HOT, _processes(each.crowd), run, each.begin, each.end)


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"


# ---- Redis ----

OURS, GET = "ratekeeper, SharedMemoryStore", "floor: GET with redis-py"
REDIS_HOT, REDIS_SPREAD = "hot key over Redis", "random keys over Redis"


def redis_cases(server: Server, folder: Path, keys: Sequence[str]) -> Iterator[Case]:
    """limits on Redis beside ratekeeper, with the same limits and keys."""
    ours = Limiter(MANY, store=SharedMemoryStore(folder / "hot")).try_acquire
    yield Case(REDIS_HOT, OURS, partial(timing.hot, ours, HOT_KEY, CALLS), after=_expect(ours, True))
    ours = Limiter(SOME, store=SharedMemoryStore(folder / "spread")).try_acquire
    yield Case(REDIS_SPREAD, OURS, timing.Walk(ours, keys, len(keys)).time, after=_expect(ours, True))
    for key in (HOT_KEY, *keys):
        server.client.set(key, 1)
    yield from _over_redis(GET, server.client.get, server.client.get, keys)
    for name in over_redis.STRATEGIES:
        hot, spread = server.limiter(name, ALWAYS), server.limiter(name, EACH)
        for key in keys:
            spread(key)
        yield from _over_redis(name, hot, spread, keys)


def _over_redis(
    name: str, hot: Callable[[str], object], spread: Callable[[str], object], keys: Sequence[str]
) -> Iterator[Case]:
    yield Case(REDIS_HOT, name, partial(timing.hot, hot, HOT_KEY, CALLS_OF_REDIS), after=_expect(hot, True))
    yield Case(REDIS_SPREAD, name, timing.Walk(spread, keys, CALLS_OF_REDIS).time, after=_expect(spread, True))


# ---- the tables ----

NS, MILLIONS = "ns a decision", "M a second"
APART = "Processes with nothing in common"


class Found:
    """The measurements, by group and name."""

    def __init__(self, cases: Iterable[Case]) -> None:
        self._cases = {(case.group, case.name): case for case in cases}

    def case(self, group: str, name: str) -> Case:
        return self._cases[group, name]

    def ratio(self, group: str, name: str, base: str) -> tuple[float, float]:
        """Return how many times as long as another of the group it took, for each decision."""
        return ratio(self.case(group, name), self.case(group, base))

    def rate(self, group: str, count: int, notes: Mapping[str, str] | None = None) -> Row:
        """Return millions a second of so many processes, beside one."""
        case = self.case(group, _processes(count))
        gain = {"x 1 process": pair(*self.ratio(group, _processes(1), _processes(count)))}
        name = f"{group}, {_processes(count)}"
        return Row(name, rounded(1e3 / case.best), rounded(1e3 / case.median), gain | dict(notes or {}))


def store_table(found: Found) -> Table:
    rows = []
    for kind in KINDS:
        private, common = found.case(kind, PRIVATE), found.case(kind, SHARED)
        rows.append(ratio_row(kind, common, private, {f"{PRIVATE}, ns": private, f"{SHARED}, ns": common}))
    return Table("One process: a table that is shared, beside one that is not", "x private", rows)


def process_tables(found: Found, retries: Iterable[Retries]) -> Iterator[Table]:
    rows = []
    for job in JOBS:
        rows += [found.rate(job, count) for count in COUNTS]
    yield Table(APART, MILLIONS, rows, more_is_better=True)
    rows = []
    for each in retries:
        again = each.per_thousand
        notes = {"retries per 1,000, median / most": f"{median(again):.2f} / {max(again):.2f}"}
        rows.append(found.rate(SAME_HOT, each.crowd, notes))
    yield Table("Processes with one hot key for all", MILLIONS, rows, more_is_better=True)


def redis_tables(found: Found) -> Iterator[Table]:
    for group in (REDIS_HOT, REDIS_SPREAD):
        cases = [found.case(group, name) for name in (OURS, GET, *over_redis.STRATEGIES)]
        title = f"Beside limits on Valkey over a unix socket: {group.removesuffix(' over Redis')}"
        yield table_of(title, NS, cases, {"x ratekeeper": cases[0]})


def target_table(found: Found, with_redis: bool) -> Table:
    rows = [target(f"{kind}, x private: at most 1.2", found.ratio(kind, SHARED, PRIVATE), most=1.2) for kind in KINDS]
    for job in (OWN_HOT, OWN_SPREAD):
        gain = found.ratio(job, _processes(1), _processes(2))
        rows.append(target(f"two processes, {job}, x one: at least 1.7", gain, least=1.7))
    for group in (REDIS_HOT, REDIS_SPREAD) if with_redis else ():
        peer = min(over_redis.STRATEGIES, key=lambda name: found.case(group, name).best)
        text = f"{group}, x the decisions of {peer}: at least 100"
        rows.append(target(text, found.ratio(group, peer, OURS), least=100))
    return Table("Targets of the shared table", "measured", rows)


# ---- the run ----


def measure_in(folder: Path, server: Server | None, size: Size) -> list[Table]:
    keys = random_keys(size.keys)
    say(f"filling tables with {size.keys:,} keys each")
    number = iter(range(100))

    def shared(max_keys: int) -> SharedMemoryStore:
        return SharedMemoryStore(folder / f"table-{next(number)}", max_keys)

    cases = [*store_cases(PRIVATE, MemoryStore, keys), *store_cases(SHARED, shared, keys)]
    common = shared(max(COUNTS) * size.keys)
    retries = [Retries(common, crowd) for crowd in CROWDS]
    say(f"spawning {max(*CROWDS, *COUNTS)} processes")
    with Team(max(*CROWDS, *COUNTS), partial(jobs_of, common, size.keys)) as team:
        cases += process_cases(team, retries)
        if server:
            say(f"filling Valkey with {size.redis_keys:,} keys for each strategy")
            redis_keys = random.Random(21).sample(keys, size.redis_keys)
            cases += redis_cases(server, folder, redis_keys)
        else:
            say(f"no Redis to compare with: pip install {' '.join(over_redis.DISTRIBUTIONS)}")
        run_rounds(cases, size.rounds, say_round("shared"))
    found = Found(cases)
    tables = [target_table(found, server is not None), store_table(found), *process_tables(found, retries)]
    return [*tables, *(redis_tables(found) if server else ())]


def measure(quick: bool) -> list[Table]:
    size = Size(10, 20_000, 2_000) if quick else Size()
    with TemporaryDirectory(prefix="ratekeeper-", dir=FOLDER) as folder, over_redis.running() as server:
        return measure_in(Path(folder), server, size)


if __name__ == "__main__":
    results.main("shared", measure, over_redis.DISTRIBUTIONS)
