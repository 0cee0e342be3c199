"""CL.THROTTLE answers as redis-cell and Dragonfly do: by their published cases, and by exact fractions."""

from __future__ import annotations

import random
from fractions import Fraction
from typing import Any

import pytest
from needs import need, no_waiting
from resp_wires import Client, ThrottleOracle, make_core, request

from ratekeeper import IMPLEMENTATION, ManualClock, MemoryStore, TokenBucket
from ratekeeper.service.metrics.cells import RESULTS, cell_of
from ratekeeper.service.metrics.slots import Slots
from ratekeeper.service.resp.throttle import MOST_LIMITS, SCOPE

# redis-cell's own test, a burst of 4 at 1 a second: milliseconds, quantity; then limited, remaining, retry, reset.
REDIS_CELL = [
    (0, 6, 1, 5, -1, 0),
    (0, 1, 0, 4, -1, 1),
    (0, 1, 0, 3, -1, 2),
    (0, 1, 0, 2, -1, 3),
    (0, 1, 0, 1, -1, 4),
    (0, 1, 0, 0, -1, 5),
    (0, 1, 1, 0, 1, 5),
    (3000, 1, 0, 2, -1, 3),
    (3100, 1, 0, 1, -1, 4),
    (4000, 1, 0, 1, -1, 4),
    (8000, 1, 0, 4, -1, 1),
    (9500, 1, 0, 4, -1, 1),
    (9500, 0, 0, 4, -1, 1),
    (9500, 2, 0, 2, -1, 3),
    (9500, 5, 1, 2, 3, 3),
]


class Throttled:
    """CL.THROTTLE of one client, on a manual clock, on both cores."""

    def __init__(self, implementation: Any) -> None:
        self.clock = ManualClock()
        store = MemoryStore(1000, clock=self.clock, implementation=implementation)
        self.client = Client(make_core(self.clock, store))

    def ask(self, *arguments: str | bytes | int) -> list[int]:
        answer = self.client.ask("CL.THROTTLE", *arguments)
        assert isinstance(answer, list), answer
        return answer


def test_the_published_cases_of_redis_cell(implementation: str) -> None:
    it, now = Throttled(implementation), 0
    for at, quantity, limited, *rest in REDIS_CELL:
        it.clock.advance((at - now) / 1000)
        now = at
        assert it.ask("foo", 4, 1, 1, quantity) == [limited, 5, *rest], (at, quantity)


def test_the_example_of_its_readme(implementation: str) -> None:
    assert Throttled(implementation).ask("user123", 15, 30, 60, 1) == [0, 16, 15, -1, 2]
    assert Throttled(implementation).ask("user123", 15, 30, 60) == [0, 16, 15, -1, 2]


@pytest.mark.parametrize("seed", range(8))
def test_any_trace_is_as_exact_fractions_say(implementation: str, seed: int) -> None:
    """Also when a key's limit changes. Intervals are whole in nanoseconds here, so that nothing is rounded."""
    chance = random.Random(seed)
    it, oracle, now = Throttled(implementation), ThrottleOracle(), Fraction(0)
    limits = [
        (chance.choice([0, 1, 4, 15]), chance.choice([1, 2, 5, 8, 20]), chance.choice([1, 2, 5, 60])) for _ in "abc"
    ]
    for _ in range(400):
        milliseconds = chance.choice([0, 0, 1, 7, 250, 999, 1000, 3001])
        it.clock.advance(milliseconds / 1000)
        now += Fraction(milliseconds, 1000)
        key, limit = chance.choice([b"a", b"b"]), chance.choice(limits)
        quantity = chance.choice([0, 1, 1, 1, 2, 5, 30])
        assert it.ask(key, *limit, quantity) == oracle.ask(now, key, *limit, quantity)


def test_who_comes_back_after_retry_after_passes(implementation: str) -> None:
    it = Throttled(implementation)
    for limit in ((0, 3, 7), (2, 7, 3), (5, 1_000_000, 1)):
        for _ in range(20):
            limited, _, _, retry, _ = it.ask("k", *limit)
            if limited:
                it.clock.advance(retry)
                assert it.ask("k", *limit)[0] == 0


def test_a_peek_takes_nothing(implementation: str) -> None:
    it = Throttled(implementation)
    assert [it.ask("k", 1, 1, 60, 0)[:3] for _ in range(3)] == [[0, 2, 2]] * 3
    assert [it.ask("k", 1, 1, 60)[0] for _ in range(3)] == [0, 0, 1]
    assert it.ask("k", 1, 1, 60, 0) == [0, 2, 0, -1, 120]


def test_a_key_keeps_its_debt_when_its_limit_changes(implementation: str) -> None:
    it = Throttled(implementation)
    assert it.ask("k", 9, 1, 1, 10) == [0, 10, 0, -1, 10]
    assert it.ask("k", 19, 1, 1, 0) == [0, 20, 10, -1, 10]
    assert it.ask("k", 4, 1, 1) == [1, 5, 0, 6, 10]
    assert it.ask("k", 4, 1, 1, 0) == [1, 5, 0, 5, 10]


def test_its_keys_are_apart_from_the_rules_buckets(implementation: str) -> None:
    it = Throttled(implementation)
    assert it.ask("k", 0, 1, 3600)[0] == 0
    assert it.client.ask("RK.CHECK", "path", "/api/x", "api_key", "k")[1] == 1


def test_keys_are_any_bytes(implementation: str) -> None:
    it = Throttled(implementation)
    keys = [b"", b"\x00", b"\xff\xfe", b"\r\n", b"*123", "ü".encode(), b"k" * 1000]
    for _ in range(2):
        answers = [it.ask(key, 0, 1, 3600)[0] for key in keys]
    assert answers == [1] * len(keys)


INTEGER = "ERR value is not an integer or out of range"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("k",), "ERR wrong number of arguments for 'cl.throttle' command"),
        (("k", 1, 1), "ERR wrong number of arguments for 'cl.throttle' command"),
        (("k", 1, 1, 1, 1, 1), "ERR wrong number of arguments for 'cl.throttle' command"),
        (("k", "x", 1, 1), INTEGER),
        (("k", -1, 1, 1), INTEGER),
        (("k", 1, "1.5", 1), INTEGER),
        (("k", 1, 1, ""), INTEGER),
        (("k", 1, 1, " 1"), INTEGER),
        (("k", 1, 1, "1_0"), INTEGER),
        (("k", 1, 1, "\u0661"), INTEGER),
        (("k", 1, 1, 1, -1), INTEGER),
        (("k", 1, 1, 1, 2**63), INTEGER),
        (("k", 2**63 - 1, 1, 1), INTEGER),
        (("k", "9" * 5000, 1, 1), INTEGER),
        (("k", 1, 0, 1), "ERR zero rates are not supported"),
        (("k", 1, 1, 0), "ERR zero rates are not supported"),
        (("k", 2**62, 1, 1), "ERR value is out of range: a full refill would take more than the 5 years allowed"),
        (("k", 1, 2**62, 1), "ERR value is out of range: refill_rate: a rate must be at most 1,000,000,000 per second"),
    ],
)
def test_bad_arguments_get_the_words_of_the_field(arguments: tuple[str | int, ...], error: str) -> None:
    client = Client()
    for _ in range(2):
        assert str(client.ask("CL.THROTTLE", *arguments)).startswith(error)


def test_the_largest_quantity_can_never_pass(implementation: str) -> None:
    it = Throttled(implementation)
    assert it.ask("k", 1, 1, 60, 2**63 - 1) == [1, 2, 2, -1, 0]
    assert it.ask("k", 1_000_000_000, 1_000_000_000, 1, 2**63 - 1)[:4] == [1, 1_000_000_001, 1_000_000_001, -1]


@pytest.mark.parametrize("seed", range(10))
def test_the_c_core_answers_and_counts_as_the_definition(seed: int) -> None:
    """A question that is timed is answered by the definition, and all others by C."""
    need("the C core", IMPLEMENTATION == "c")
    chance, clock = random.Random(seed), ManualClock()
    cores = [make_core(clock, MemoryStore(1000, clock=clock)) for _ in range(2)]
    in_c, defined = (one.metrics.protocols["resp"] for one in cores)
    in_c._turn, defined._every = 10**6, 1
    clients = [Client(core) for core in cores]
    most = 2**63 - 1
    limits = [
        (chance.choice([0, 1, 4, 99, 10**9]), chance.choice([1, 3, 7, 10**9]), chance.choice([1, 7, 3600, 10**6]))
        for _ in range(5)
    ]
    for _ in range(300):
        clock.advance(chance.choice([0, 0, 0.001, 1, chance.random() * 1000]))
        key = chance.choice([b"", b"k", b"\xff\x00", b"\r\n*1\r\n", "ü".encode()])
        asked = request(
            "CL.THROTTLE", key, *chance.choice(limits), *chance.choice([(), (0,), (1,), (3,), (90,), (most,)])
        )
        answers = []
        for client in clients:
            client.wire.receive(asked)
            answers.append(client.channel.taken())
        assert answers[0] == answers[1]
    counts = [
        [
            core.metrics.slot.cells[cell]
            for cell in (
                *(cell_of("ratekeeper_requests", "resp", result) for result in RESULTS),
                *core.metrics.cells_of(SCOPE, "allowed", nearly_used=True),
                *core.metrics.cells_of(SCOPE, "refused"),
            )
        ]
        for core in cores
    ]
    assert counts[0] == counts[1]
    assert min(counts[0][0], counts[0][1], counts[0][4]) > 5


def test_a_throttle_in_c_takes_one_limit_and_bytes() -> None:
    need("the C core", IMPLEMENTATION == "c")
    limit, store, slot = TokenBucket(5, 1), MemoryStore(100), Slots.alone()[0]
    heads, places = (b"+", b"-"), ((0,), (1,), (2,))
    gate: Any = store.bind(("a",), (limit,), no_waiting)
    assert gate.throttle(1, heads, slot.counts, places).answer("k") == b"+4\r\n:-1\r\n:1\r\n"
    with pytest.raises(TypeError, match="a key must be str or bytes"):
        gate.throttle(1, heads, slot.counts, places).answer(7)
    with pytest.raises(IndexError, match="out of range"):
        gate.throttle(1, heads, slot.counts, ((-1,),) * 3).answer("k")
    wrong: tuple[Any, ...]
    for wrong in [(-1, heads, slot.counts, places), (1, (b"+" * 65, b"-"), slot.counts, places)]:
        with pytest.raises(ValueError, match=r"cost|short heads"):
            gate.throttle(*wrong)
    for wrong in [
        (1, ("+", "-"), slot.counts, places),
        (1, heads, slot, places),
        (1, heads, slot.counts, (0, 1)),
        (1, list(heads), slot.counts, places),  # a list, or what makes its items, might forget them
        (1, heads, slot.counts, list(places)),
    ]:
        with pytest.raises(TypeError):
            gate.throttle(*wrong)
    both: Any = store.bind(("a", "b"), (limit, limit), no_waiting)
    with pytest.raises(ValueError, match="one limit"):
        both.throttle(1, heads, slot.counts, places)
    fine: Any = store.bind(("a",), (TokenBucket(5, Fraction(2**62 - 1, 2**62)),), no_waiting)
    assert fine.throttle(1, heads, slot.counts, places) is None


def test_limits_that_are_kept_are_bounded_and_may_come_back(implementation: str) -> None:
    it = Throttled(implementation)
    for _ in range(2):
        for burst in range(MOST_LIMITS + 10):
            it.ask("k", burst, 1, 1, 0)
    assert it.ask("k", 0, 1, 3600)[0] == 0
    assert it.ask("k", 0, 1, 3600)[0] == 1
