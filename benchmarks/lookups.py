"""`python -m benchmarks.lookups`: requests whose limit is in a database, while it answers, is slow, or fails.

Each request's limit is known, and its time is over after TTL: so it is looked up again all the time, in the background,
while requests go on. The database is SQLite, in a file. A slow one takes SLOW for each query.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter_ns

from benchmarks import results
from benchmarks.results import Row, Table, ratio, rounded, say, target
from ratekeeper import Keeper, Policy

RULE = '[[rules]]\nname = "each user"\nkey = ["user"]\n'
PLAN, TTL, SLOW = "1000000000/s", 0.02, 0.5
REQUEST = {"user": "alice"}
FIXED = "a fixed limit, no database"
STATES = ("the database answers", f"it takes {SLOW:g} s to answer", "it raises")
MEDIAN, P99 = "us of a request: the middle one", "us of a request: the 99th percentile"


def plan_of(file: Path, state: str) -> Callable[[Mapping[str, str]], str]:
    """Return the function that looks a user's plan up. The first answer always comes at once."""
    known = False

    def look_up(attributes: Mapping[str, str]) -> str:
        nonlocal known
        with closing(sqlite3.connect(file)) as database:
            database.create_function("pause", 0, lambda: time.sleep(SLOW if known and state == STATES[1] else 0))
            table = "dropped" if known and state == STATES[2] else "plans"
            query = f"SELECT plan, pause() FROM {table} WHERE user = ?"
            [(plan, _)] = database.execute(query, (attributes["user"],)).fetchall()
        known = True
        return str(plan)

    return look_up


def keepers(file: Path) -> Iterator[tuple[str, Keeper]]:
    """Yield a keeper with a fixed limit, and one for each state of the database, whose limit is known."""
    yield FIXED, Keeper(Policy.parse(f'{RULE}limit = "{PLAN}"'))
    policy = Policy.parse(f'{RULE}limit = "app:plan"\ndefault = "1/s"\nttl = "20ms"')
    assert policy.rules[0].lookup is not None
    assert policy.rules[0].lookup.ttl == TTL
    for state in STATES:
        keeper = Keeper(policy, limits={"plan": plan_of(file, state)})
        [known] = keeper.usage(REQUEST)
        assert known.limit.capacity > 1, "the first answer is to be the plan"
        yield state, keeper


def percentiles(keeper: Keeper, calls: int) -> tuple[float, float]:
    """Return microseconds of a request: the middle one and the 99th percentile."""
    ask, times = keeper.try_acquire, [0] * calls
    for call in range(calls):
        begun = perf_counter_ns()
        decision = ask(REQUEST)
        times[call] = perf_counter_ns() - begun
        assert decision.allowed
    times.sort()
    return times[calls // 2] / 1000, times[calls * 99 // 100] / 1000


def measure(quick: bool) -> list[Table]:
    rounds, calls = (3, 20_000) if quick else (15, 200_000)
    found: dict[str, list[tuple[float, float]]] = {}
    with TemporaryDirectory() as folder:
        file = Path(folder) / "plans.sqlite"
        with closing(sqlite3.connect(file)) as database:
            database.execute("CREATE TABLE plans (user TEXT PRIMARY KEY, plan TEXT)")
            database.execute("INSERT INTO plans VALUES ('alice', ?)", (PLAN,))
            database.commit()
        asked = list(keepers(file))
        for number in range(1, rounds + 1):
            say(f"round {number} of {rounds}")
            for name, keeper in asked:
                found.setdefault(name, []).append(percentiles(keeper, calls))
    tables = []
    for title, place in ((MEDIAN, 0), (P99, 1)):
        rows = []
        for name, taken in found.items():
            figures = [one[place] for one in taken]
            rows.append(Row(name, rounded(min(figures)), rounded(median(figures))))
        tables.append(Table(title, "us", rows[1:], [replace(rows[0], name=f"x {FIXED}")]))
    answers, *failing = tables[1].rows
    targets = [
        target(f"{row.name}: p99 x one that answers, at most 1.1", ratio(row, answers), most=1.1) for row in failing
    ]
    return [*tables, Table("Targets of look-ups", "measured", targets)]


if __name__ == "__main__":
    results.main("lookups", measure, ())
