"""Demo traffic: light, the same in each run, made for the policy in use, by one process, and marked as made up."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from needs import need
from policy_strategies import policies
from service_process import Running, poll, running

from ratekeeper import IMPLEMENTATION, ManualClock, MemoryStore, Policy
from ratekeeper.cli.main import main
from ratekeeper.service.core import Core
from ratekeeper.service.demo import ABUSE, BURST, STEADY, TICK, Demo, callers_of, demo_of
from ratekeeper.service.metrics.cells import OUTCOMES
from ratekeeper.service.metrics.counters import Metrics
from ratekeeper.service.metrics.slots import Slots
from ratekeeper.service.operator_options import OperatorOptions

EXAMPLE = Path(__file__).parents[2] / "examples" / "policy.toml"


def counts(core: Core) -> dict[str, dict[str, int]]:
    """The decisions of each rule, by outcome."""
    slot = core.metrics.slot
    first = {name: slot.first_cell(row) + 1 for row, name in enumerate(slot.rule_names())}
    return {name: {it: slot.cells[cell + n] for n, it in enumerate(OUTCOMES)} for name, cell in first.items()}


async def play(demo: Demo, clock: ManualClock, seconds: float) -> None:
    for _ in range(round(seconds / TICK)):
        clock.advance(TICK)
        demo.step(clock.seconds(), TICK)
        await asyncio.sleep(0)


def played(policy: Policy, seconds: float = 10.0) -> dict[str, dict[str, int]]:
    clock = ManualClock()
    core = Core(policy, MemoryStore(clock=clock))
    asyncio.run(play(Demo(core), clock, seconds))
    return counts(core)


def test_a_newcomer_sees_the_limits_of_the_example_work_within_ten_seconds() -> None:
    seen = played(Policy.load(EXAMPLE))
    free, pro = seen["free keys"], seen["pro keys"]
    assert free["allowed"] > 10
    assert free["refused"] > 50
    assert pro["allowed"] > 50
    assert pro["refused"] == 0
    assert seen["reports"]["allowed"] > 0
    total = sum(sum(seen[name].values()) for name in ("free keys", "each address"))
    assert 300 < total < 1000, "it is light"


def test_each_run_is_the_same() -> None:
    assert played(Policy.load(EXAMPLE)) == played(Policy.load(EXAMPLE))


@given(policies())
def test_each_caller_is_charged_by_the_policy_whatever_it_is(policy: Policy) -> None:
    core = Core(policy, MemoryStore(100))
    callers = callers_of(core.policy)
    for caller in callers:
        compiled = core.policy.keeper.compiled
        plan = compiled.plan(core.policy.reader.respell(caller.attributes))
        assert plan.rules
        assert plan.missing is None
    # Bursts come one after another.
    assert sum(caller.per_second for caller in callers if not caller.period) <= STEADY + ABUSE + 0.001
    assert max((sum(it.rate(now / 8) for it in callers if it.period) for now in range(80)), default=0) <= BURST


def test_a_rule_has_callers_whatever_it_asks_for() -> None:
    text = """
    exempt = [{ path = "/healthz" }]
    [tiers]
    by = "api_key"
    default = "free"
    pro = ["k-1"]
    [[rules]]
    name = "network"
    match = { client = "10.1.0.0/16" }
    key = ["client"]
    limit = "1/s"
    [[rules]]
    name = "pro posts"
    match = { tier = "pro", method = ["POST", "PUT"], path = "/a/*/b?" }
    key = ["api_key"]
    limit = "2/s"
    [[rules]]
    name = "tokens"
    match = { agent = "bot *" }
    key = ["agent"]
    cost = "size"
    limit = "100/s"
    [[rules]]
    name = "banned"
    match = { client = "192.0.2.66" }
    deny = true
    """
    seen = played(Policy.parse(text))
    assert {name for name, outcomes in seen.items() if sum(outcomes.values())} == {
        "network", "pro posts", "tokens", "banned"
    }  # fmt: skip
    assert seen["banned"]["refused"] > 0


def test_the_traffic_follows_another_policy() -> None:
    clock = ManualClock()
    core = Core(Policy.load(EXAMPLE), MemoryStore(clock=clock))
    demo = Demo(core)

    async def before_and_after() -> None:
        await play(demo, clock, 1)
        core.replace(Policy.parse('rules = [{name = "new", key = ["client"], limit = "5/minute"}]'))
        await play(demo, clock, 2)

    asyncio.run(before_and_after())
    assert counts(core)["new"]["allowed"] > 5
    assert counts(core)["new"]["refused"] > 5


def test_requests_do_not_pile_up_behind_a_look_up_that_hangs() -> None:
    asked = 0

    async def plan(attributes: Mapping[str, str]) -> str:
        nonlocal asked
        asked += 1
        return await asyncio.Event().wait() or "never"  # type: ignore[return-value]

    clock = ManualClock()
    policy = Policy.parse('rules = [{name = "r", key = ["k"], limit = "app:plan", default = "9/s", ttl = "1s"}]')
    core = Core(policy, MemoryStore(clock=clock), limits={"plan": plan})
    demo = Demo(core)

    async def hanging() -> int:
        await play(demo, clock, 30)
        waiting = len(asyncio.all_tasks())
        task = asyncio.get_running_loop().create_task(demo.run())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return waiting

    assert 100 < asyncio.run(hanging()) < 250
    assert asked


def test_only_one_process_plays_and_only_in_a_demo() -> None:
    assert not OperatorOptions().demo
    slots, policy = Slots.make(4), Policy.load(EXAMPLE)
    for demo in (True, False):
        cores = [Core(policy, MemoryStore(100), metrics=Metrics(slots, number)) for number in range(4)]
        for core in cores:
            core.operator = OperatorOptions(demo=demo)
        # The first number is that of the only process, or of the parent of the others, which answers nothing.
        assert [len(demo_of(core)) for core in cores] == [demo, demo, 0, 0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--host", "0.0.0.0"], "--demo is for this machine alone, and 0.0.0.0:8080 is for others: use 127.0.0.1"),
        (["--grpc", "10.1.2.3:81"], "--demo is for this machine alone, and 10.1.2.3:81 is for others"),
        (["--port", "systemd:http"], "--demo is for this machine alone, and systemd:http is for others"),
        (["--store", "redis://:secret@10.0.0.5/0"], "would use up the limits of real callers in redis://"),
        (["--store", "shared:my-api"], "use up the limits of real callers in shared:my-api: add --store memory, or"),
    ],
)
def test_a_demo_is_for_this_machine_and_for_no_real_callers(
    options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(EXAMPLE), "--demo", *options]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert "secret" not in error


def requests(service: Running) -> dict[str, int]:
    """The requests so far, by their results."""
    found: dict[str, int] = service.status()["requests"]["http"]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_service_prints_the_page_first_plays_and_tells_it_in_its_status(workers: str, tmp_path: Path) -> None:
    need("the C core", IMPLEMENTATION == "c" or workers == "1")
    policy = tmp_path / "policy.toml"
    policy.write_text(EXAMPLE.read_text())
    with running(policy, "--demo", "--workers", workers) as service:
        assert re.match(r"Page: http://127\.0\.0\.1:\d+/#token=[\w-]{43}\n", service.said)
        assert "The traffic is made up" in service.said
        assert service.status()["demo"] is True
        before = requests(service)
        poll(lambda: requests(service)["refused"] > before["refused"] + 50)
        assert requests(service)["failed"] == 0
        policy.write_text('rules = [{name = "new", key = ["client"], limit = "5/minute"}]')
        poll(lambda: "'new'" in service.log)

        def of_new() -> int:
            return sum(rule["counts"]["refused"] for rule in service.status()["rules"] if rule["name"] == "new")

        poll(lambda: of_new() > 10)


@pytest.mark.slow
def test_a_demo_whose_page_has_no_url_makes_no_token(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(EXAMPLE.read_text())
    with running(policy, "--demo", "--port", f"unix:{tmp_path / 'http.sock'}") as service:
        assert "The traffic is made up" in service.said
        assert "token" not in service.said


@pytest.mark.slow
def test_the_traffic_goes_on_when_the_process_that_makes_it_is_killed(tmp_path: Path) -> None:
    need("the C core", IMPLEMENTATION == "c")
    policy = tmp_path / "policy.toml"
    policy.write_text(EXAMPLE.read_text())
    with running(policy, "--demo", "--workers", "2") as service:
        poll(lambda: sum(requests(service).values()) > 20)
        service.kill(*service.workers())
        before = sum(requests(service).values())
        poll(lambda: sum(requests(service).values()) > before + 20)
