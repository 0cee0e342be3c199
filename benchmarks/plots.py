"""`python -m benchmarks.plots`: draw the recorded results, as plots/NAME-light.svg and plots/NAME-dark.svg.

A page shows the one that fits the reader's scheme, by <picture>. `charts.py` draws; here is what is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks import results
from benchmarks.charts import SCHEMES, Bar, Bars, Chart, Lines
from benchmarks.results import Result

FOLDER = Path(__file__).parent / "plots"


def decisions() -> Chart:
    rows = results.load("speed").table("One thread, hot key, allowed").rows
    rates = sorted(((1e9 / row.best, row.name) for row in rows), reverse=True)
    bars = [Bar(name, rate, results.figure(rate / 1e6), is_ours(name)) for rate, name in rates]
    return Bars("Decisions a second by library", "million a second, one thread, one hot key, best round", {"": bars})


def policies() -> Chart:
    rows = results.load("policy").table("The same rules: examples/policy.toml").rows
    bars = [Bar(row.name, row.best, results.figure(row.best), is_ours(row.name)) for row in rows]
    unit = "ns a request, best round; other libraries' rules are written by hand around their limiters"
    return Bars("A request decided by the rules of examples/policy.toml", unit, {"": sorted(bars, key=value_of)})


def frameworks() -> Chart:
    result = results.load("frameworks")
    groups = {}
    for name in ("Starlette", "Flask"):
        rows = result.table(f"{name}: added to a bare request").rows
        # The best round's time less the bare application's best time would be the noise of two rounds.
        groups[name] = [Bar(row.name, row.median, results.figure(row.median), is_ours(row.name)) for row in rows]
    return Bars("Time that limits add to a request", "microseconds of processor time, median", groups)


def rules() -> Chart:
    result = results.load("policy")
    titles = {"all match": "Cost by number of rules: all match", "one matches": "Cost by number of rules: one matches"}
    rows = {name: result.table(title).rows for name, title in titles.items()}
    series = {name: [row.best / 1e3 for row in each] for name, each in rows.items()}
    ticks = [row.name.split()[0] for row in rows["all match"]]
    return Lines("Cost of a request by number of rules", "microseconds, best round", "rules", ticks, series, log=True)


def live_keys() -> Chart:
    result = results.load("live_keys")
    titles = {"ratekeeper": "Live keys: ratekeeper", "dict.get": "Live keys: dict.get"}
    series = {name: [row.best for row in result.table(title).rows] for name, title in titles.items()}
    ticks = [row.name.split()[0] for row in result.table("Live keys: ratekeeper").rows]
    unit = "nanoseconds, keys in random order, best round"
    return Lines("Cost of a decision by number of live keys", unit, "live keys", ticks, series)


def cores() -> Chart:
    groups: dict[str, list[Bar]] = {}
    for row in results.load("shared").table("Processes with nothing in common").rows:
        job, _, count = row.name.rpartition(", ")
        if "Store" in job:
            bar = Bar(count, row.best, results.figure(row.best), "Shared" in job)
            groups.setdefault(job.removeprefix("floor: "), []).append(bar)
    return Bars("Throughput by processes, each on its own core", "million decisions a second, best round", groups)


def waiting() -> Chart:
    tables = lateness(results.load("waiting"))
    series = {who: [row.median for row in table.rows] for who, table in tables}
    ticks = [row.name for row in tables[0][1].rows]
    title = f"How late {tables[0][1].title.partition(':')[0]} leave"
    return Lines(title, "milliseconds after their turn, median of the runs", "of the waiters", ticks, series, log=True)


def lateness(result: Result) -> list[tuple[str, results.Table]]:
    found = [table for table in result.tables if table.unit == "ms after its turn"]
    return [(table.title.partition(": ")[2], table) for table in found]


def is_ours(name: str) -> bool:
    return name.startswith("ratekeeper")


def value_of(bar: Bar) -> float:
    return bar.value


PLOTS = {
    "decisions": decisions,
    "policies": policies,
    "frameworks": frameworks,
    "rules": rules,
    "live-keys": live_keys,
    "cores": cores,
    "waiting": waiting,
}


def drawn() -> Iterator[tuple[Path, str]]:
    """Yield the file and the SVG of every plot in every scheme."""
    for name, plot in PLOTS.items():
        chart = plot()
        for scheme, colors in SCHEMES.items():
            yield FOLDER / f"{name}-{scheme}.svg", chart.svg(colors)


def write_all() -> Iterator[Path]:
    """Write every plot that has changed, and yield its file."""
    FOLDER.mkdir(exist_ok=True)
    for path, svg in drawn():
        if not path.exists() or path.read_text() != svg:
            path.write_text(svg)
            yield path.relative_to(FOLDER.parent.parent)


if __name__ == "__main__":
    for path in write_all():
        print(path)
