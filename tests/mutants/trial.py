"""Trying one mutant: the tests that run its line, until one fails; and whether those pass on the unchanged tree."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mutants.coverage_map import is_about
from mutants.sample import Mutant
from mutants.tree import Outcome, Tree

SECONDS = 90  # for the tests of a mutant's folder, and again for the others
LONGER = 180  # for a mutant of C or Lua, and for slow tests
BUDGET = 30  # of those 90, by the time that the tests took when they were measured
HANGS = "stopped at its time limit"

# The tests of C and Lua, for which nothing says which test runs which line.
C_TESTS = [f"tests/test_{name}.py" for name in ("conformance", "limiter", "limiter_store", "threads")]
C_TESTS += [f"tests/stores/test_{name}.py" for name in ("memory", "shared_file", "stores")]
C_TESTS += ["tests/policy/test_policy_twins.py", "tests/policy/test_policy_match.py", "tests/http/test_http_headers.py"]
C_OPTIONS = ("-k", "not python and not valkey and not redis and not cluster")
C_PROGRAMS = ["fast", "interleave"]
LUA_TESTS = ["tests/stores/redis/test_redis_script.py", "tests/stores/redis/test_redis_store.py"]


class Result(NamedTuple):
    """How a mutant ended. `killer` is the test that failed, or how else it was noticed; None: it survived.

    The tests, options and time limit are those with which pytest noticed it.
    """

    mutant: Mutant
    killer: str | None
    tests: Sequence[str] = ()
    options: Sequence[str] = ()
    limit: float = SECONDS
    note: str = ""


def try_python(tree: Tree, mutant: Mutant, seconds: dict[str, float]) -> Result:
    """Return what becomes of a mutant that knows its tests."""
    near = {test for test in mutant.tests if is_about(test, mutant.file)}
    stages = [quickest(near, seconds), quickest(set(mutant.tests) - near, seconds)]
    with tree.changed(mutant.file, mutant.text):
        for stage in filter(None, stages):
            killer = first_failure(tree, in_order(stage, seconds))
            if killer:
                return Result(mutant, killer, stage)
        if mutant.slow:
            return _try_slow(tree, mutant)
    if not any(stages):
        return Result(mutant, None, note="no test runs this line")
    left_out = len(mutant.tests) - sum(map(len, stages))
    return Result(mutant, None, note=f"{left_out} tests were not tried: they take long" if left_out else "")


def _try_slow(tree: Tree, mutant: Mutant) -> Result:
    """Try the slow tests of its folder. It is not known which of them run its line, so no hang is a kill."""
    slow = sorted(mutant.slow)
    killer = first_failure(tree, slow, limit=LONGER)
    if killer == HANGS:
        return Result(mutant, None, note=f"only slow tests may run this line, and they took over {LONGER} s")
    return Result(mutant, killer, slow, limit=LONGER, note="only slow tests may run this line")


def quickest(tests: Iterable[str], seconds: dict[str, float]) -> list[str]:
    """Return as many of the tests as the budget allows, and at least one."""
    chosen: list[str] = []
    left = float(BUDGET)
    for test in sorted(tests, key=lambda test: seconds[test]):
        left -= seconds[test]
        if left < 0 and chosen:
            break
        chosen.append(test)
    return chosen


def in_order(tests: Iterable[str], seconds: dict[str, float]) -> list[str]:
    """Return the tests by their files, so that each file's servers start once; quick files first."""
    files: dict[str, list[str]] = {}
    for test in sorted(tests):
        files.setdefault(test.partition("::")[0], []).append(test)
    by_time = sorted(files.values(), key=lambda tests: sum(seconds[test] for test in tests))
    return [test for tests in by_time for test in tests]


def first_failure(tree: Tree, tests: Sequence[str], *options: str, limit: float = SECONDS) -> str | None:
    """Return the first of the tests that fails, or how else they end; None if all pass."""
    done = tree.pytest(tests, limit, "-x", *options)
    if done.code == 0:
        return None
    if done.code is None:
        return HANGS
    failed = re.search(r"^(?:FAILED|ERROR) (tests/.+?)(?: - |$)", done.output, re.MULTILINE)
    return failed[1] if failed else f"pytest ended with {done.code}"


def try_c(tree: Tree, mutant: Mutant) -> Result:
    """Return what becomes of a mutant of the C core. One that does not compile is a mistake in the list."""
    with tree.changed(mutant.file, mutant.text):
        tree.build()
        result = Result(mutant, first_failure(tree, C_TESTS, *C_OPTIONS, limit=LONGER), C_TESTS, C_OPTIONS, LONGER)
        if not result.killer:
            done = tree.run(["make", "-C", "tests/c", "--silent", *C_PROGRAMS], LONGER)
            if " error: " in done.output:
                raise SystemExit(f"mutants.toml: {mutant.after!r} does not compile:\n{done.output}")
            failed = re.search(r"^not ok.*", done.output, re.MULTILINE)
            killer = None if done.code == 0 else f"tests/c: {failed[0] if failed else f'ended with {done.code}'}"
            result = Result(mutant, killer)
    tree.build()
    return result


def try_lua(tree: Tree, mutant: Mutant) -> Result:
    """Return what becomes of a mutant of the script on the server."""
    with tree.changed(mutant.file, mutant.text):
        return Result(mutant, first_failure(tree, LUA_TESTS, limit=LONGER), LUA_TESTS, limit=LONGER)


def confirmed(tree: Tree, results: Sequence[Result]) -> list[Result]:
    """Return the results without kills by tests that fail also on the unchanged tree, which are nobody's kills."""
    killers = sorted({result.killer for result in results if result.killer and "::" in result.killer})
    done = tree.pytest(killers, len(killers) * SECONDS) if killers else Outcome(0, "")
    flaky = {test for test in killers if done.code != 0 and f"{test} - " in done.output + " - "}

    def void(result: Result) -> bool:
        if result.killer is None or "::" in result.killer:
            return result.killer in flaky
        # The tests could not be collected, or did not end in time.
        return (
            bool(result.tests)
            and first_failure(tree, result.tests, *result.options, limit=result.limit) == result.killer
        )

    return [
        result._replace(killer=None, note=f"{result.killer}: without it too") if void(result) else result
        for result in results
    ]
