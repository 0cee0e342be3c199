"""`python -m benchmarks.shared`: what it costs to share a table, what processes gain by it, and how Redis compares.

Everything is timed in one run, interleaved round by round; ratios count. `--quick` is a look, not a measurement.
That nobody is denied or admitted wrongly is counted by the tests.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from statistics import median
from tempfile import TemporaryDirectory
from typing import TypeAlias

from benchmarks import over_redis, timing
from benchmarks.over_redis import Server
from benchmarks.processes import Job, Team
from benchmarks.report import machine
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


def jobs_of(store: SharedMemoryStore, key_count: int, number: int) -> Mapping[str, Job]:
    """Return the jobs of the process of this number. The first two processes have many keys, each its own."""
    name = f"process {number}"  # its own name, and so its own buckets
    some = Limiter(SOME, store=store, name=name).try_acquire
    alone_some = Limiter(SOME, store=MemoryStore(key_count)).try_acquire
    keys = random_keys(key_count if number < 2 else 4)
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
        for crowd in (1, 2):
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


# ---- the report ----

Pair: TypeAlias = tuple[float, float]
"""By the best rounds, and by the median ones."""


class Found:
    """The measurements, by group and name."""

    def __init__(self, cases: Iterable[Case]) -> None:
        self._cases = {(case.group, case.name): case for case in cases}

    def case(self, group: str, name: str) -> Case:
        return self._cases[group, name]

    def ns(self, group: str, name: str) -> Pair:
        case = self.case(group, name)
        return case.best, case.median

    def ratio(self, group: str, name: str, base: str) -> Pair:
        """Return how many times as long as another of the group it took, for each decision."""
        (best, usual), (best_base, usual_base) = self.ns(group, name), self.ns(group, base)
        return best / best_base, usual / usual_base


def print_table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    print(f"\n### {title}\n\n| {' | '.join(head)} |\n| --- |{' ---: |' * (len(head) - 1)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def _text(pair: Pair, form: str = ".2f") -> str:
    return " / ".join(format(value, form) for value in pair)


def _millions(ns: Pair) -> str:
    return _text((1e3 / ns[0], 1e3 / ns[1]), ".2f")


def print_stores(found: Found, size: Size) -> None:
    rows = [
        [
            _with_count(kind, size.keys),
            *(_text(found.ns(kind, name), ".0f") for name in (PRIVATE, SHARED)),
            _text(found.ratio(kind, SHARED, PRIVATE)),
        ]
        for kind in KINDS
    ]
    title = "One process: a table that is shared, beside one that is not"
    print_table(title, ("best / median, ns a decision", PRIVATE, SHARED, "x private"), rows)


def print_processes(found: Found, retries: Iterable[Retries], size: Size) -> None:
    one, two = _processes(1), _processes(2)
    rows = [
        [
            _with_count(job, size.keys),
            *(_millions(found.ns(job, name)) for name in (one, two)),
            _text(found.ratio(job, one, two)),
        ]
        for job in JOBS
    ]
    print_table("Two processes, nothing in common", ("best / median, M a second", one, two, "x one process"), rows)
    rows = []
    for each in retries:
        name = _processes(each.crowd)
        again = each.per_thousand
        rows.append(
            [
                name,
                _millions(found.ns(SAME_HOT, name)),
                _text(found.ratio(SAME_HOT, one, name)),
                f"{median(again):.2f} / {max(again):.2f}",
            ]
        )
    head = ("best / median", "M decisions a second, all", "x one process", "retries per 1,000, median / most")
    print_table("One hot key for all processes", head, rows)


def print_redis(found: Found, size: Size) -> None:
    head = ("best / median", "us a decision", "decisions a second", "x as many: ratekeeper")
    for group, keys in ((REDIS_HOT, "one hot key"), (REDIS_SPREAD, f"{size.redis_keys:,} random keys")):
        rows = []
        for name in (OURS, GET, *over_redis.STRATEGIES):
            best, usual = found.ns(group, name)
            us, rate = (best / 1e3, usual / 1e3), (1e9 / best, 1e9 / usual)
            rows.append([name, _text(us, ".2f"), _text(rate, ",.0f"), _text(found.ratio(group, name, OURS), ",.0f")])
        print_table(f"Beside limits on Valkey over a unix socket: {keys}", head, rows)


def print_targets(found: Found, with_redis: bool, size: Size) -> None:
    one, two = _processes(1), _processes(2)
    rows = [
        _target(f"{_with_count(kind, size.keys)}: at most 1.2 x private", found.ratio(kind, SHARED, PRIVATE), most=1.2)
        for kind in KINDS
    ]
    for job in (OWN_HOT, OWN_SPREAD):
        text = f"two processes, {_with_count(job, size.keys)}: at least 1.7 x one"
        rows.append(_target(text, found.ratio(job, one, two), least=1.7))
    for group in (REDIS_HOT, REDIS_SPREAD) if with_redis else ():
        peer = min(over_redis.STRATEGIES, key=lambda name: found.case(group, name).best)
        text = f"{group}: at least 100 x the decisions of {peer}"
        rows.append(_target(text, found.ratio(group, peer, OURS), least=100))
    print_table("Targets", ("target", "best / median", "met"), rows)


def _target(text: str, measured: Pair, least: float = 0, most: float = float("inf")) -> list[str]:
    by_best, by_median = (least <= value <= most for value in measured)
    met = "yes" if by_best and by_median else "by the best" if by_best else "by the median" if by_median else "MISSED"
    return [text, " / ".join(f"{value:.3g}" for value in measured) + " x", met]


def _with_count(text: str, count: int) -> str:
    return text.replace("random keys", f"{count:,} random keys")


def print_versions(server: Server | None) -> None:
    found = {"CPython": python_version()}
    for name in ("ratekeeper", *over_redis.DISTRIBUTIONS):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    if server:
        found["Valkey"] = server.version
    print(f"Machine: {machine()}\n\nVersions: {', '.join(f'{name} {number}' for name, number in found.items())}")


# ---- the run ----


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def show_round(at: int, of: int) -> None:
    if at % max(1, of // 10) == 0:
        say(f"round {at} of {of}")


def measure(folder: Path, server: Server | None, size: Size) -> None:
    keys = random_keys(size.keys)
    say(f"filling tables with {size.keys:,} keys each")
    number = iter(range(100))

    def shared(max_keys: int) -> SharedMemoryStore:
        return SharedMemoryStore(folder / f"table-{next(number)}", max_keys)

    cases = [*store_cases(PRIVATE, MemoryStore, keys), *store_cases(SHARED, shared, keys)]
    common = shared(2 * size.keys)
    retries = [Retries(common, crowd) for crowd in CROWDS]
    say(f"spawning {max(CROWDS)} processes")
    with Team(max(CROWDS), partial(jobs_of, common, size.keys)) as team:
        cases += process_cases(team, retries)
        if server:
            say(f"filling Valkey with {size.redis_keys:,} keys for each strategy")
            redis_keys = random.Random(21).sample(keys, size.redis_keys)
            cases += redis_cases(server, folder, redis_keys)
        else:
            say(f"no Redis to compare with: pip install {' '.join(over_redis.DISTRIBUTIONS)}")
        run_rounds(cases, size.rounds, show_round)
    found = Found(cases)
    print_versions(server)
    print_targets(found, server is not None, size)
    print_stores(found, size)
    print_processes(found, retries, size)
    if server:
        print_redis(found, size)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shared", description="Time a table that is shared.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and keys: a look, not a measurement")
    size = Size(10, 20_000, 2_000) if parser.parse_args().quick else Size()
    with TemporaryDirectory(prefix="ratekeeper-", dir=FOLDER) as folder, over_redis.running() as server:
        measure(Path(folder), server, size)


if __name__ == "__main__":
    main()
