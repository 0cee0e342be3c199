"""The breaker on a manual time, which errors are an outage, and what fallback decisions are."""

from __future__ import annotations

import pickle
from threading import Barrier, Thread

import pytest
import redis
import valkey

from ratekeeper import (
    Decision,
    MemoryStore,
    Policy,
    PolicyDecision,
    PolicyError,
    RuleDecision,
    StoreError,
    StoreUnavailable,
    TokenBucket,
)
from ratekeeper.decision import Charge, combine
from ratekeeper.http.headers import rate_limit_headers
from ratekeeper.http.responses import REDUCED_CAPACITY, problem
from ratekeeper.limits import TICKS_PER_SECOND
from ratekeeper.stores.redis.call_monitor import LOST, Breaker
from ratekeeper.stores.redis.client_errors import ClientErrors
from ratekeeper.stores.redis.fallback import MAX_SPANS, Spans

RETRY = 100
LIMIT = TokenBucket(10, 1)


def epoch_of(breaker: Breaker, now: int) -> int:
    epoch = breaker.enter(now)
    assert epoch is not None
    return epoch


def opened(now: int = 0) -> Breaker:
    breaker = Breaker(RETRY)
    assert breaker.failed(epoch_of(breaker, now), now, refused=True)
    return breaker


def test_three_failures_in_a_row_open_it_and_a_success_between_starts_anew() -> None:
    breaker = Breaker(RETRY)
    for _ in range(5):
        assert not breaker.failed(epoch_of(breaker, 0), 0)
        assert not breaker.failed(epoch_of(breaker, 0), 0)
        assert not breaker.succeeded(epoch_of(breaker, 0))
    assert [breaker.failed(epoch_of(breaker, 0), 0) for _ in range(3)] == [False, False, True]
    assert breaker.enter(RETRY - 1) is None


def test_one_refused_connection_opens_it_until_a_probe_succeeds() -> None:
    breaker = opened(now=7)
    assert breaker.wait(8) == RETRY - 1
    assert breaker.enter(RETRY + 6) is None
    probe = epoch_of(breaker, RETRY + 7)
    assert breaker.enter(RETRY + 8) is None
    assert breaker.succeeded(probe)
    assert breaker.enter(RETRY + 9) is not None


def test_a_probe_that_fails_opens_it_for_as_long_again_but_is_no_new_opening() -> None:
    breaker = opened()
    assert not breaker.failed(epoch_of(breaker, RETRY), RETRY)
    assert breaker.enter(2 * RETRY - 1) is None
    assert breaker.enter(2 * RETRY) is not None


def test_a_call_of_an_earlier_epoch_neither_closes_it_nor_prolongs_it() -> None:
    breaker = Breaker(RETRY)
    early = [epoch_of(breaker, 0) for _ in range(9)]
    assert [breaker.failed(epoch, now) for now, epoch in enumerate(early[:8])].count(True) == 1
    assert not breaker.succeeded(early[8])
    assert breaker.enter(RETRY + 1) is None
    assert breaker.enter(RETRY + 2) is not None


def test_an_abandoned_probe_leaves_its_place_to_another_and_so_does_one_that_is_lost() -> None:
    breaker = opened()
    breaker.abandoned(epoch_of(breaker, RETRY), RETRY)
    assert breaker.enter(RETRY) is not None
    assert breaker.enter(RETRY + LOST * RETRY - 1) is None
    assert breaker.enter(RETRY + LOST * RETRY) is not None


def test_of_many_threads_one_gets_the_probe() -> None:
    for _ in range(50):
        breaker, barrier, epochs = opened(), Barrier(8), list[int | None]()

        def ask(breaker: Breaker = breaker, barrier: Barrier = barrier, epochs: list[int | None] = epochs) -> None:
            barrier.wait()
            epochs.append(breaker.enter(RETRY))

        threads = [Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(epoch is not None for epoch in epochs) == 1


@pytest.mark.parametrize("library", [redis, valkey], ids=["redis", "valkey"])
def test_what_may_pass_is_an_outage_and_what_must_be_mended_is_loud(library: object) -> None:
    client_errors, errors = ClientErrors(library, clustered=True), library.exceptions  # type: ignore[attr-defined]
    passing = [errors.ConnectionError, errors.TimeoutError, errors.BusyLoadingError, errors.ReadOnlyError]
    passing += [errors.ClusterDownError, errors.MasterDownError, errors.TryAgainError, errors.OutOfMemoryError]
    passing += [errors.ClusterError, ConnectionResetError, TimeoutError]
    for kind in passing:
        assert isinstance(client_errors.named(kind("x")), StoreUnavailable), kind
    for text in (
        "MISCONF disk",
        "BUSY a script",
        "NOREPLICAS few",
        "Attempted to access a non local key in a cluster node",
        "max number of clients reached",
    ):
        error = errors.ConnectionError if text.startswith("max") else errors.ResponseError
        assert isinstance(client_errors.named(error(text)), StoreUnavailable), text
    lasting = [errors.AuthenticationError("NOAUTH"), errors.NoPermissionError("NOPERM"), errors.DataError("x")]
    lasting += [errors.ConnectionError("Too many connections")]  # so redis 5 says that a pool is used up
    lasting += [errors.ResponseError("WRONGTYPE x"), errors.ResponseError("unknown command 'EVALSHA'")]
    for one in lasting:
        named = client_errors.named(one)
        assert isinstance(named, StoreError), one
        assert not isinstance(named, StoreUnavailable), one


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Error 111 connecting to h:6379.", "Error 111 connecting to h:6379."),
        ("pool(<Connection(host=h,username=ann,password=hunter2,db=0)>)", "host=h,username=***,password=***,db=0)>)"),
        ("{'host': 'h', 'password': 'hunter2 ann'}", "'h', 'password': ***}"),
        ("no answer of redis://ann:hunter2@h:6379/0", "no answer of redis://***@h:6379/0"),
    ],
)
def test_what_an_error_says_is_shown_without_secrets(text: str, shown: str) -> None:
    said = str(ClientErrors(redis).named(redis.ConnectionError(text)))
    assert said.endswith(shown)
    assert "ConnectionError: " in said
    assert "hunter2" not in said
    assert "ann" not in said


def decision(on_error: str | None = None, nodes: int = 1, at: int = 5, debt: int = 0, allowed: bool = True) -> Decision:
    return Decision(allowed, LIMIT, "k", 1, debt, 0, 0 if allowed else 9, at, -1, on_error, nodes)


def test_a_fallback_decision_says_so_is_a_value_and_pickles() -> None:
    exact, fallback = decision(), decision("local", 2)
    assert (exact.source, exact.on_error, fallback.source, fallback.on_error) == ("exact", None, "fallback", "local")
    assert exact != fallback != decision("allow", 2)
    assert pickle.loads(pickle.dumps(fallback)) == fallback == decision("local", 2)
    assert hash(fallback) == hash(decision("local", 2))
    with pytest.raises(AttributeError, match="allowed"):
        fallback.allowed = False  # type: ignore[misc]
    assert MemoryStore().decide([Charge.of("s", "k", LIMIT, on_error="deny")])[0].source == "exact"


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("tight", [True, False])
def test_if_any_decision_is_a_fallback_s_the_whole_is(order: int, tight: bool) -> None:
    exact, fallback = decision(at=4, debt=tight), decision("allow", debt=not tight)
    whole = combine([exact, fallback][::order])
    assert (whole.source, whole.at_ticks, whole.on_error) == ("fallback", 4, "allow")
    assert PolicyDecision((RuleDecision("a", exact), RuleDecision("b", fallback))).source == "fallback"
    assert PolicyDecision((RuleDecision("a", exact),)).source == "exact"


def test_a_fallback_s_denial_is_a_503_and_a_local_one_a_quota() -> None:
    denied = PolicyDecision((RuleDecision("a", decision("deny", allowed=False)),))
    assert (problem(denied).status, REDUCED_CAPACITY.encode() in problem(denied).body) == (503, True)
    assert problem(denied, 403).status == 403
    assert dict(rate_limit_headers(denied))["Retry-After"] == "1"
    assert problem(PolicyDecision((RuleDecision("a", decision("local", allowed=False)),))).status == 429


def test_a_rule_s_on_error_is_read_and_a_typo_names_the_right_word() -> None:
    text = '[[rules]]\nname = "r"\nlimit = "2/minute"\n'
    assert Policy.parse(text).rules[0].on_error is None
    assert Policy.parse(text + 'on_error = "local"\n').rules[0].on_error == "local"
    with pytest.raises(PolicyError, match="did you mean 'allow'"):
        Policy.parse(text + 'on_error = "alow"\n')
    with pytest.raises(PolicyError, match="did you mean 'on_error'"):
        Policy.parse(text + 'on_eror = "allow"\n')
    with pytest.raises(ValueError, match="did you mean 'local'"):
        Charge.of("s", "k", LIMIT, on_error="lokal")


def test_what_was_charged_here_is_remembered_in_bounded_memory_and_never_too_little() -> None:
    spans, second = Spans(), TICKS_PER_SECOND
    times = [number * 5 * second for number in range(3 * MAX_SPANS)]
    for at in times:
        spans.add(at)
    assert all(at in spans for at in times)
    assert len(spans._spans) == MAX_SPANS
    assert times[-1] + 1 not in spans
    assert times[-1] - second not in spans


def test_charges_within_a_second_are_one_span_whichever_was_first() -> None:
    spans, second = Spans(), TICKS_PER_SECOND
    for at in (10 * second, 10 * second + second // 2, 10 * second - second // 4):
        spans.add(at)
    assert 10 * second + 1 in spans
    assert 10 * second - 1 in spans
    spans.add(12 * second)
    assert 11 * second not in spans
