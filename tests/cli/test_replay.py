"""A replay of a log counts the same decisions as live, and the capacity that would have admitted everything."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import FrozenInstanceError
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratekeeper.cli.replay.engine import replay
from ratekeeper.cli.replay.tables import lines_of
from ratekeeper.cli.style import Style
from ratekeeper.clock import ManualClock
from ratekeeper.gcra import decide
from ratekeeper.limits import TICKS_PER_SECOND, LeakyBucket, Limit, TokenBucket
from ratekeeper.policy.keeper import Keeper
from ratekeeper.policy.model import Policy, Rule
from ratekeeper.replay import engine
from ratekeeper.replay.report import BadLine, Report, RuleReport
from ratekeeper.stores.memory import MemoryStore

SMALL = """
[attributes]
api_key = "header:x-api-key"
[tiers]
by = "api_key"
default = "free"
pro = ["k-pro"]

[[rules]]
name = "free keys"
match = { tier = "free", path = "/api/*" }
key = ["api_key"]
capacity = 2
refill_rate = 1

[[rules]]
name = "all of the api"
match = { path = "/api/*" }
capacity = 4
refill_rate = "1/minute"

[[rules]]
name = "posts"
match = { method = "POST" }
limit = "1/minute"
shadow = true
"""


def line(at: float, **fields: object) -> str:
    return json.dumps({"ts": at, "path": "/api/x", "method": "GET"} | fields)


def run(policy: str, *lines: str, max_keys: int = 1000) -> Report:
    return replay(Policy.parse(policy), lines, max_keys=max_keys)


def counts(report: Report) -> dict[str, tuple[int, int]]:
    return {rule.rule.name: (rule.admitted, rule.rejected) for rule in report.rules}


def one_rule(report: Report) -> RuleReport:
    [rule] = report.rules
    return rule


def test_a_small_log_worked_out_by_hand() -> None:
    report = run(
        SMALL,
        line(100, api_key="k-a"),  # free keys: 1 left; api: 3 left
        line(100, api_key="k-a", method="POST"),  # 0 left; 2 left; posts: 0 left
        line(100, api_key="k-a"),  # free keys refuses; nothing is charged
        line(100.5, api_key="k-b", method="POST"),  # 1 left; 1 left; posts would refuse, but is in shadow
        line(101, api_key="k-pro"),  # not a free key; 0 left
        line(101, api_key="k-a"),  # free keys would have one again; api refuses
        line(102, path="/"),  # no rule
    )
    assert (report.requests, report.admitted, report.rejected, report.unmatched) == (7, 5, 2, 1)
    assert counts(report) == {"free keys": (4, 1), "all of the api": (5, 1), "posts": (1, 1)}
    # k-a had asked for 3 at once by 100, and had one back when it asked for a fourth.
    assert [(rule.buckets, rule.needed) for rule in report.rules] == [(2, 3), (1, 6), (1, 2)]


def test_requests_that_are_exempt_are_admitted_as_no_rule_is_for_them() -> None:
    policy = 'exempt = [{ probe = "yes" }]\n[[rules]]\nname = "r"\nlimit = "1/day"'
    report = run(policy, *(json.dumps({"ts": at, "path": "/", "probe": "yes"}) for at in range(3)))
    assert (report.admitted, report.unmatched, report.absent) == (3, 3, ())


def test_buckets_with_the_most_rejections_are_named_with_their_own_counts() -> None:
    lines = [line(0, api_key=key) for key in ["k-a"] * 3 + ["k-b"] * 4 + ["k-c"]]
    policy = SMALL.replace("capacity = 4", "capacity = 400")
    report = replay(Policy.parse(policy), lines, top=2, show_keys=True)
    assert report.top == (
        ("free keys", "api_key=k-b", 2, 2, 4, False),
        ("free keys", "api_key=k-a", 2, 1, 3, False),
    )


def test_a_bucket_is_that_of_the_reading_of_a_path_that_its_rule_is_for() -> None:
    policy = '[[rules]]\nname = "login"\nmatch = { path = "/login" }\nkey = ["path"]\nlimit = "1/hour"'
    report = run(policy, line(0, path="/login"), line(1, path="//a/login"), line(2, path="//b/login"))
    assert counts(report) == {"login": (1, 2)}
    assert (one_rule(report).buckets, one_rule(report).needed) == (1, 3)
    assert report.top == (("login", "path=/login", 1, 2, 3, False),)


def test_keys_are_not_in_the_report_unless_asked_for() -> None:
    lines = [line(0, api_key="k-secret")] * 9
    hidden = replay(Policy.parse(SMALL), lines)
    assert "k-secret" not in repr(hidden)
    assert "api_key=k-secret" in repr(replay(Policy.parse(SMALL), lines, show_keys=True))


def test_a_bucket_named_by_its_path_or_without_a_key_needs_no_hash() -> None:
    policy = SMALL.replace('key = ["api_key"]', 'key = ["path"]').replace("capacity = 2", "capacity = 4")
    report = run(policy, *[line(0)] * 9)
    assert [bucket.name for bucket in report.top] == ["path=/api/x", "(one for all)"]


def test_lines_that_are_no_requests_are_counted_and_the_first_three_explained() -> None:
    report = run(SMALL, "", "junk\n", line(1), "\n", '{"ts": 1}', line(2), "{", "junk")
    assert (report.lines, report.requests, report.unreadable) == (6, 2, 4)
    assert report.bad_lines == (
        BadLine(2, "neither the common or combined log format, nor JSON"),
        BadLine(5, "it has no path, nor anything else that the policy asks for"),
        BadLine(7, "it begins as JSON does, but is not JSON"),
    )


@given(st.lists(st.one_of(st.text(), st.text('{}"[]:- ').map(lambda text: line(1, user=text) + text))))
def test_no_line_stops_a_replay(lines: list[str]) -> None:
    report = run(SMALL, *lines)
    assert report.requests + report.unreadable == report.lines <= len(lines)


def test_formats_may_be_mixed() -> None:
    combined = '192.0.2.7 - - [01/Jan/1970:00:00:05 +0000] "GET /api/x HTTP/1.0" 200 1 "-" "-"'
    report = run(SMALL, line(5), combined, line(5, ts="1970-01-01T00:00:05Z"))
    assert counts(report)["all of the api"] == (3, 0)


def test_a_cost_that_is_no_number_is_a_bad_line() -> None:
    policy = SMALL + 'cost = "header:x-cost"\n'
    report = run(policy, line(1, method="POST", x_cost=2), line(1, method="POST", x_cost="two"))
    assert (report.requests, report.unreadable) == (1, 1)
    assert report.bad_lines[0].line == 2
    assert report.rules[2].needed == 2


# Time


def test_lines_that_step_back_are_put_in_order() -> None:
    """Apache writes a line when the request ends, with the time at which it began."""
    policy = '[[rules]]\nname = "r"\nlimit = "1/s"'
    ordered = [line(at) for at in range(1000)]
    shuffled = sorted(ordered, key=lambda it: json.loads(it)["ts"] + Random(it).random() * 30)
    assert shuffled != ordered
    assert counts(run(policy, *shuffled)) == {"r": (1000, 0)}
    assert run(policy, *shuffled).late == 0


def test_a_line_too_late_to_be_put_in_order_is_decided_at_the_latest_time_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "HELD_BACK", 1)
    report = run('[[rules]]\nname = "r"\nlimit = "2/s"', *map(line, [50, 60, 60, 40, 100, 100]))
    assert (report.late, report.lateness) == (1, 20.0)
    assert counts(report) == {"r": (5, 1)}  # three at 60


def test_a_log_has_one_second_grain_until_a_time_has_a_fraction() -> None:
    assert run(SMALL, line(1), line(2)).whole_seconds
    assert not run(SMALL, line(1), line(2.5)).whole_seconds


def test_a_log_may_begin_at_any_time_and_last_nine_years() -> None:
    for begin in (0, 971_211_336, 4_000_000_000):
        report = run(SMALL, line(begin), line(begin + 9 * 365 * 86_400), line(begin + 10 * 366 * 86_400))
        assert (report.requests, report.unreadable) == (2, 1)
        assert "nine years" in report.bad_lines[0].reason


@pytest.mark.parametrize(
    "time",
    ['"0001-01-01T00:00:00Z"', '"0001-01-01T00:00:00+14:00"', "0", '"1970-01-01T00:00:00Z"', '"9999-12-31T23:59:59Z"',
     '"9999-12-31T23:59:59-23:59"', "99999999999", "1e400", "-1", "1" + "0" * 400, '"31/Dec/9999:23:59:59 -2359"'],
)  # fmt: skip
def test_a_line_of_another_age_is_a_line_that_is_not_read_and_takes_no_other_with_it(time: str) -> None:
    odd = f'{{"ts": {time}, "path": "/api/x"}}'
    for place in range(3):
        lines = [line(971_211_336), line(971_211_337)]
        lines.insert(place, odd)
        report = run(SMALL, *lines)
        assert (report.requests, report.unreadable) == (2, 1)
        assert report.bad_lines[0].line == place + 1
        assert report.span is not None
        assert report.span.first == 971_211_336 * TICKS_PER_SECOND


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59"])
def test_a_log_of_no_age_that_can_be_shown_is_not_read(time: str) -> None:
    report = run(SMALL, json.dumps({"ts": time, "path": "/api/x"}))
    assert (report.requests, report.unreadable) == (0, 1)


PIECES = [
    *("\\ud800", '"', "{", "}", "[", "]", "9" * 30, "9" * 5000, "1" + "0" * 400, "1e999", "-", "null", "true", "NaN"),
    *("0001-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59", "\0", "%", "%ff", "\\x", "\\u", ":", ",", "/../", "\u2028"),
    *(
        "[1]",
        '{"a": 1}',
        "\r",
        "\x85",
        "\u0661",
        "\ufffd",
        "Infinity",
        "-Infinity",
        "1970-01-01",
        "01/Jan/0001:00:00:00",
    ),
]
LINES = [
    '::1 - bob [10/Oct/2000:13:55:36 -0700] "get /a//b?c HTTP/1.0" 200 1 "r" "ua" "1.2.3.4, 5.6.7.8"',
    line(971_211_336.5, request={"headers": {"X-Api-Key": ["a"], "X-Forwarded-For": ["1.2.3.4"]}, "uri": "/x"}),
    '{"time": "2000-10-10T20:55:36Z", "request": "GET /%61 HTTP/1.1", "headers": {"x-api-key": "1"}, "host": "::1"}',
]


def test_a_path_that_the_service_would_refuse_makes_a_line_unreadable() -> None:
    line = '{"time": 1700000000, "method": "GET", "path": "/%s"}'
    report = replay(Policy.parse(SMALL), [line % "a", line % ("a" * 9000)])
    assert (report.requests, report.unreadable) == (1, 1)
    assert report.bad_lines[0].reason == "the path is longer than 8192 characters"


def test_a_report_is_a_value_that_nobody_changes() -> None:
    report = run(SMALL, line(0))
    with pytest.raises(FrozenInstanceError, match="requests"):
        report.requests = 2  # type: ignore[misc]


@given(st.data())
def test_no_line_makes_a_traceback(data: st.DataObject) -> None:
    lines = []
    for original in LINES * 2:
        text = original
        for _ in range(data.draw(st.integers(0, 4))):
            at = data.draw(st.integers(0, len(text)))
            piece = data.draw(st.sampled_from(PIECES) | st.text(max_size=3))
            text = text[:at] + piece + text[at + data.draw(st.integers(0, 9)) :]
        lines.append(text)
    report = replay(Policy.parse(SMALL), lines, show_keys=True)
    assert report.requests + report.unreadable == report.lines
    assert all(line.isprintable() for line in lines_of(report, Style(colour=False), "policy", "log", True))


# The same as live

KEYED = """
exempt = [{ path = "/b", team = "t1" }]
[tiers]
by = "user"
default = "free"
pro = ["u1"]
[[rules]]
name = "users"
match = { path = ["/a*", "/b"] }
key = ["user"]
capacity = 3
refill_rate = 0.5
max_wait = 1
overrides = [{ user = "u2", path = "/a", capacity = 5, refill_rate = 2 }]
missing = "skip"
[[rules]]
name = "queue"
match = { tier = "free" }
algorithm = "leaky_bucket"
capacity = 4
leak_rate = 1
cost = "cost"
[[rules]]
name = "strict"
match = { path = "/c" }
key = ["team", "user"]
limit = "2/10s"
missing = "reject"
[[rules]]
name = "watch"
key = ["team"]
limit = "3/5s"
shadow = true
missing = "reject"
"""

requests = st.lists(
    st.fixed_dictionaries(
        {"path": st.sampled_from(["/a", "/ab", "/b", "/c"])},
        optional={
            "user": st.sampled_from(["u1", "u2", "u3"]),
            "team": st.sampled_from(["t1", "t2"]),
            "cost": st.sampled_from([0, 1, 2, 6]),
        },
    ),
    max_size=40,
)


@given(requests, st.lists(st.integers(0, 3000), min_size=40, max_size=40))
def test_a_replay_decides_as_a_keeper_does(requests: list[dict[str, object]], gaps: list[int]) -> None:
    policy = Policy.parse(KEYED)
    clock = ManualClock(1)
    keeper = Keeper(policy, MemoryStore(100, clock=clock))
    expected: Counter[tuple[str, bool]] = Counter()
    delayed = at = 0
    lines = []
    for request, gap in zip(requests, gaps, strict=False):
        at += gap
        lines.append(json.dumps({"ts": (1_700_000_000_000 + at), **request}))
        clock.set_ticks(TICKS_PER_SECOND + at * TICKS_PER_SECOND // 1000)
        answer = keeper.reserve({name: str(value) for name, value in request.items()}).decision
        expected.update({("", answer.allowed): 1} | {(it.name, it.decision.allowed): 1 for it in answer.rules})
        delayed += answer.allowed and answer.delay > 0
    report = replay(policy, lines)
    assert (report.admitted, report.rejected, report.delayed) == (expected[("", True)], expected[("", False)], delayed)
    names = [rule.name for rule in policy.rules]
    assert counts(report) == {name: (expected[(name, True)], expected[(name, False)]) for name in names}


@given(
    st.sampled_from([TokenBucket, LeakyBucket]),
    st.sampled_from([0, 0.5, 2]),
    st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 4)), min_size=1, max_size=30),
)
def test_the_capacity_needed_is_the_least_that_would_have_admitted_all(
    algorithm: type[TokenBucket | LeakyBucket], wait: float, asked: list[tuple[int, int]]
) -> None:
    def admits_all(capacity: int) -> bool:
        limit: Limit = algorithm(capacity, "2/3s")
        tat = at = 0
        for gap, cost in asked:
            at += gap * TICKS_PER_SECOND // 1000
            increment, tolerance, bound = limit.terms(cost, wait if algorithm is TokenBucket else None)
            allowed, new_tat, *_ = decide(tat, at, increment, tolerance, bound)
            if cost > limit.max_cost or not allowed:
                return False
            tat = new_tat
        return True

    rule = Rule("r", algorithm(1, "2/3s"), cost="cost", max_wait=wait if algorithm is TokenBucket else None)
    at, lines = 0, []
    for gap, cost in asked:
        at += gap
        lines.append(line(1_700_000_000_000 + at, cost=cost))
    least = 1 if algorithm is TokenBucket else 0
    needed = one_rule(replay(Policy((rule,)), lines)).needed
    assert max(needed, least) == next(capacity for capacity in range(least, 200) if admits_all(capacity))


def test_the_capacity_for_99_percent_leaves_out_the_worst_bucket_of_a_hundred() -> None:
    policy = '[[rules]]\nname = "r"\nkey = ["user"]\nlimit = "5/s"'
    lines = [line(1, user=f"u{number}") for number in range(99)] + [line(1, user="bot")] * 50
    rule = one_rule(run(policy, *lines))
    assert (rule.buckets, rule.needed_99, rule.needed) == (100, 1, 50)


# Probable mistakes


def test_attributes_that_no_request_has_are_told_and_who_shared_a_bucket_for_it() -> None:
    report = run(SMALL, line(1), line(2))
    assert report.absent == ("api_key",)
    assert [rule.keyless for rule in report.rules] == [2, 0, 0]
    assert run(SMALL, line(1), line(2, api_key="k")).absent == ()


def test_rejections_for_want_of_an_attribute_are_counted_by_it() -> None:
    report = run(SMALL.replace('key = ["api_key"]', 'key = ["api_key"]\nmissing = "reject"'), line(1), line(2))
    assert (report.lacking, report.rejected) == ({"api_key": 2}, 2)
    assert counts(report)["all of the api"] == (0, 0)


def test_a_store_too_small_for_the_log_is_told_of() -> None:
    lines = [line(1, api_key=f"k-{number}") for number in range(1000)]
    policy = SMALL.replace("capacity = 4", "capacity = 4000")
    assert run(policy, *lines, max_keys=2000).evicted == 0
    assert run(policy, *lines, max_keys=100).evicted > 0


def test_progress_is_told_now_and_then_and_at_the_end() -> None:
    told: list[int] = []
    replay(Policy.parse(SMALL), [line(1)] * 5000, told.append)
    assert told == [2048, 4096, 5000]


def test_a_bucket_that_a_refusal_of_another_rule_left_unasked_does_not_count() -> None:
    policy = """
    [[rules]]
    name = "each client"
    key = ["client"]
    limit = "1/hour"
    [[rules]]
    name = "banned"
    match = { client = "10.0.0.0/8" }
    deny = true
    [[rules]]
    name = "users only"
    match = { path = "/users" }
    key = ["user"]
    missing = "reject"
    limit = "9/s"
    [[rules]]
    name = "uploads"
    match = { path = "/uploads" }
    cost = "size"
    limit = "9/s"
    """
    refused = [line(1, client=f"10.0.0.{n}") for n in range(99)]
    refused += [line(1, client=f"192.0.2.{n}", path="/users") for n in range(99)]
    unreadable = [line(1, client=f"198.51.100.{n}", path="/uploads", size="big") for n in range(99)]
    report = run(policy, *refused, *unreadable, line(1, client="203.0.113.9"), line(1, client="203.0.113.9"))
    clients = report.rules[0]
    assert (clients.requests, clients.buckets, clients.needed_99, clients.needed) == (2, 1, 2, 2)
    assert [rule.buckets for rule in report.rules] == [1, 1, 0, 0]
