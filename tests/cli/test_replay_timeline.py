"""Outcomes over time: no request is lost however long the log is, and bins are few and begin at round times."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratekeeper.cli.main import main
from ratekeeper.replay.timeline import ADMITTED, DELAYED, MOST_SHOWN, REJECTED, Timeline

EXAMPLES = Path(__file__).parents[2] / "examples"
NINE_YEARS = 9 * 366 * 86_400


@given(
    begin=st.integers(0, 2_000_000_000),
    length=st.sampled_from([1, 60, 3600, 86_400, 30 * 86_400, NINE_YEARS]),
    places=st.lists(st.floats(0, 1), min_size=1, max_size=700),
)
def test_no_request_is_lost_and_each_is_in_its_bin(begin: int, length: int, places: list[float]) -> None:
    timeline = Timeline()
    seconds = [begin + int(place * length) for place in places]
    for number, second in enumerate(seconds):
        timeline.add(second, number % 3)
    series = timeline.series(min(seconds), max(seconds))
    assert len(series.counts) <= MOST_SHOWN
    assert series.start % series.width == 0
    assert series.start <= min(seconds) < series.start + series.width
    for outcome in (ADMITTED, DELAYED, REJECTED):
        expected = [0] * len(series.counts)
        for second in seconds[outcome::3]:
            expected[(second - series.start) // series.width] += 1
        assert series.of(outcome) == expected


def test_a_log_of_nine_years_keeps_few_bins() -> None:
    timeline = Timeline()
    for day in range(9 * 366):
        timeline.add(day * 86_400, ADMITTED)
    assert len(timeline._bins) <= 300
    assert timeline.series(0, NINE_YEARS).width == 8 * 7 * 86_400, "long bins are whole weeks"


def test_json_has_the_same_numbers_as_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(EXAMPLES / "policy.toml"), str(EXAMPLES / "access.log"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [found[name] for name in ("requests", "admitted", "rejected", "delayed", "not_read")] == [
        1692,
        1652,
        40,
        6,
        1,
    ]
    line = found["timeline"]
    assert [sum(line[name]) for name in ("admitted", "delayed", "rejected")] == [1646, 6, 40]
    assert (found["from"], line["start"], line["seconds"]) == (
        "2025-11-23T12:13:20.118+00:00",
        "2025-11-23T12:13:20+00:00",
        10,
    )
    free = found["rules"][0]
    assert (free["rule"], free["rejected"], free["capacity_for_all"], free["rate_too_low"]) == (
        "free keys",
        40,
        7,
        None,
    )
    assert sum(free["timeline"]["rejected"]) == 40
    assert found["most_rejected"][0]["bucket"].startswith("api_key=#")
