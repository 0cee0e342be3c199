"""`make mutants`: do the tests notice careless mistakes? At least 90 % of those that change behaviour must fail a test.

    make mutants ARGS="--count 300 --seed 7"       # more of Python, and others
    make mutants ARGS="--only c --only lua"
    make mutants ARGS="--count 20 --file stores/"

Each mutant is written in a scratch copy under build/mutants. The tests that run its line try it until one fails: those
of its folder first, and of these the quick ones. The first run measures which test runs which line; that takes about as
long as the suite. Slow tests are left out. If no other test runs a line, the slow tests of its folder try the mutant.

Why our own code: mutmut 3 leaves out decorated functions and all that is outside of functions, chooses tests by
function, does not see what the processes of a test run, and draws no sample. Cosmic Ray runs one command for all
mutants, and deletes no statement, `await` or result. mutatest ended with Python 3.8. None of them changes C or Lua.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

from mutants import coverage_map, sample, trial
from mutants.coverage_map import CoverageMap
from mutants.sample import Mutant
from mutants.tree import BUILD, ROOT, Tree, spread
from mutants.trial import Result

REQUIRED = 0.9
LANGUAGES = {"python": [".py"], "c": [".c", ".h"], "lua": [".lua"]}


def main() -> int:
    parser = argparse.ArgumentParser(prog="make mutants", description="Try whether the tests notice careless mistakes.")
    parser.add_argument("--count", type=int, default=40, help="how many mutants of Python to draw (default: 40)")
    parser.add_argument("--seed", type=int, default=0, help="which ones (default: 0)")
    parser.add_argument("--only", action="append", choices=LANGUAGES, help="try this language, and not all")
    parser.add_argument("--file", default="", help="try only files whose path contains this")
    parser.add_argument("--jobs", type=int, default=2, help="how many to try at once (default: 2)")
    parser.add_argument("--fresh", action="store_true", help="measure again which test runs which line")
    options = parser.parse_args()
    if sys.version_info < (3, 12):
        parser.error("Python 3.12 or newer is needed, to see cheaply which lines run: make mutants PYTHON=python3.13")
    trees = [Tree(BUILD / str(number)) for number in range(options.jobs)]
    for tree in trees:
        tree.make()
    results = [result for language in options.only or LANGUAGES for result in tried(language, options, trees)]
    results = trial.confirmed(trees[0], results)
    print(table(results))
    return 0 if all(enough(results, suffixes) for suffixes in LANGUAGES.values()) else 1


def tried(language: str, options: argparse.Namespace, trees: Sequence[Tree]) -> Iterator[Result]:
    """Try the mutants of one language, and say how it goes."""
    covered = CoverageMap()
    if language == "python":
        covered = coverage_map.load(trees, fresh=options.fresh)
        found = sample.drawn(trees[0].root, options.count, options.seed, options.file, covered)
    else:
        found = [each for each in sample.written(ROOT, LANGUAGES[language]) if options.file in str(each.file)]

    def one(tree: Tree, mutant: Mutant) -> Result:
        match language:
            case "python":
                return trial.try_python(tree, mutant, covered.seconds)
            case "c":
                return trial.try_c(tree, mutant)
            case _:
                return trial.try_lua(tree, mutant)

    for number, result in enumerate(spread(one, found, trees), 1):
        end = f"killed by {result.killer}" if result.killer else "SURVIVED"
        print(f"{language} {number}/{len(found)}: {result.mutant.file}:{result.mutant.line} {end}", flush=True)
        yield result


def enough(results: list[Result], suffixes: list[str]) -> bool:
    """Return whether enough of the mutants in files with these suffixes were killed. None at all are enough."""
    own = [result for result in results if result.mutant.file.suffix in suffixes]
    return sum(result.killer is not None for result in own) >= REQUIRED * len(own)


def table(results: list[Result]) -> str:
    """Return the table of all mutants, survivors last, and how many were killed."""
    lines = []
    for number, result in enumerate(sorted(results, key=lambda result: result.killer is None), 1):
        mutant = result.mutant
        lines += [
            f"\n{number}. {mutant.kind} in {mutant.file}:{mutant.line} {mutant.function}",
            f"    before  {mutant.before}",
            f"    after   {mutant.after}",
            f"    killed by {result.killer}" if result.killer else f"    SURVIVED  {result.note}",
        ]
    for language, suffixes in LANGUAGES.items():
        own = [result for result in results if result.mutant.file.suffix in suffixes]
        if own:
            killed = sum(result.killer is not None for result in own)
            lines.append(f"\n{language}: {killed} of {len(own)} killed, {killed / len(own):.0%}")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
