"""A policy that changes while it is in use: which changes are taken or refused, the log, and the debts of buckets."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx
import pytest
from async_memory import AsyncMemoryStore
from needs import need
from servers import PATIENCE, program, ratekeeper_service, wait_until_answers
from wire_client import WireClient, answers_in

from ratekeeper import AsyncKeeper, Keeper, ManualClock, MemoryStore, Policy, PolicyWatch, watch_policy
from ratekeeper.errors import PolicyError
from ratekeeper.policy.at_rest import open_for_writing
from ratekeeper.policy.watch import LONGER
from ratekeeper.service.bounds import Bounds
from ratekeeper.service.core import Core
from ratekeeper.service.http.wire import HttpWire
from ratekeeper.stores.table_store import TableStore

EVERY = 0.01
ONE = '[[rules]]\nname = "one"\nlimit = "1/day"\n'
TWO = '[[rules]]\nname = "two"\nlimit = "2/day"\n'
BROKEN = '[[rules]]\nname = "one"\nlimt = "1/day"\nshadow = 5\n'


def poll(claim: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Wait until a claim is true."""
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.002)


def rule(limit: str, name: str = "r", more: str = "") -> Policy:
    return Policy.parse(f'[[rules]]\nname = "{name}"\n{limit}\n{more}')


def bucket(capacity: int, rate: int) -> Policy:
    return rule(f"capacity = {capacity}\nrefill_rate = {rate}")


# Keeper.replace


@pytest.mark.parametrize(
    ("capacity", "rate", "remaining", "wait"),
    [(20, 5, 5, 0.0), (40, 5, 25, 0.0), (10, 5, 0, 1.2), (20, 10, 0, 1.1), (20, 3, 11, 0.0), (16, 5, 1, 0.0)],
)
def test_what_a_bucket_owes_carries_over_in_time(
    store: TableStore, capacity: int, rate: int, remaining: int, wait: float
) -> None:
    """15 of 20 were taken at 5/s, so the bucket is full in 3 s, whatever its capacity and rate are from now on."""
    keeper = Keeper(bucket(20, 5), store)
    assert keeper.try_acquire({}, cost=15).remaining == 5
    keeper.replace(bucket(capacity, rate))
    decision = keeper.try_acquire({}, cost=0)
    assert (decision.remaining, decision.reset_after) == (remaining, 3.0)
    assert keeper.try_acquire({}).retry_after == wait


def test_a_rule_that_goes_and_comes_back_still_knows_what_was_taken(store: TableStore, clock: ManualClock) -> None:
    keeper = Keeper(rule('limit = "2/hour"'), store)
    assert keeper.try_acquire({}, cost=2)
    keeper.replace(rule('limit = "2/hour"', name="another"))
    assert keeper.try_acquire({}).remaining == 1, "another name is another bucket"
    keeper.replace(rule('limit = "2/hour"'))
    assert not keeper.try_acquire({})
    clock.advance(3600)
    assert keeper.try_acquire({}).remaining == 1


def test_a_policy_that_is_replaced_keeps_the_keepers_store(store: TableStore) -> None:
    keeper = Keeper(rule('limit = "2/hour"'), store)
    policy = rule('limit = "3/hour"', more='[store]\nurl = "memory"\n')
    keeper.replace(policy)
    assert (keeper.policy, keeper.store) == (policy, store)


def test_a_replacement_that_is_no_policy_is_an_error_and_changes_nothing() -> None:
    policy = rule('limit = "2/hour"')
    for keeper in (Keeper(policy), AsyncKeeper(policy)):
        with pytest.raises(TypeError, match=r"policy must be a Policy, such as Policy.load\('policy.toml'\)"):
            keeper.replace("policy.toml")  # type: ignore[arg-type]
        assert keeper.policy is policy


def test_a_request_under_way_ends_by_the_policy_that_it_began_with(clock: ManualClock) -> None:
    async def use() -> None:
        awaited = AsyncMemoryStore(MemoryStore(100, clock=clock))
        keeper = AsyncKeeper(rule('limit = "2/hour"', name="old"), awaited)
        asked = asyncio.create_task(keeper.try_acquire({}))
        while not awaited.asking:
            await asyncio.sleep(0)
        keeper.replace(rule('limit = "9/hour"', name="new"))
        old, new = await asked, await keeper.try_acquire({})
        assert [(it.rules[0].name, it.remaining) for it in (old, new)] == [("old", 1), ("new", 8)]

    asyncio.run(use())


def test_all_that_follows_from_a_policy_is_replaced_with_it(store: TableStore) -> None:
    """A policy of one plain rule is decided by another way than one of several: each replaces the other, whole."""
    several = Policy.parse('[[rules]]\nname = "r"\nlimit = "9/day"\n[[rules]]\nname = "s"\nlimit = "9/day"\n')
    keeper = Keeper(several, store)
    for policy, names in ((rule('limit = "9/day"'), ["r"]), (several, ["r", "s"]), (rule('limit = "9/day"'), ["r"])):
        keeper.replace(policy)
        assert [[it.name for it in keeper.try_acquire({}, cost).rules] for cost in (1, 2)] == [names, names]


def test_threads_see_one_policy_or_the_other_and_never_a_mixture() -> None:
    rules = '[[rules]]\nname = "{}{}"\nlimit = "1000000/s"\n'
    policies = [Policy.parse("".join(rules.format(name, n) for n in range(5 if name == "a" else 1))) for name in "ab"]
    keeper, seen, done = Keeper(policies[0]), set[tuple[str, ...]](), threading.Event()

    def ask() -> None:
        while not done.is_set():
            seen.add(tuple(it.name for it in keeper.try_acquire({}).rules))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(300):
        keeper.replace(policies[number % 2])
    poll(lambda: len(seen) == 2)
    done.set()
    for thread in threads:
        thread.join()
    assert seen == {("a0", "a1", "a2", "a3", "a4"), ("b0",)}


# watch_policy


class Watched:
    """A policy file with a watch over it, and what the watch handed over."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.taken: list[list[str]] = []

    def watch(self, text: str = ONE) -> PolicyWatch:
        self.path.write_text(text)
        return watch_policy(self.path, self.take, in_use=Policy.load(self.path), every=EVERY)

    def take(self, policy: Policy) -> None:
        self.taken.append([rule.name for rule in policy.rules])

    def put(self, text: str) -> None:
        """Rename another file over it, as careful editors and deployments do."""
        (self.path.parent / "new").write_text(text)
        os.replace(self.path.parent / "new", self.path)


@pytest.fixture
def watched(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Watched]:
    caplog.set_level(logging.INFO, "ratekeeper")
    yield Watched(tmp_path / "policy.toml")
    assert "was not taken" not in caplog.text


def said(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


def test_a_change_is_taken_whether_it_is_written_or_renamed(watched: Watched) -> None:
    with watched.watch():
        watched.path.write_text(TWO)
        poll(lambda: watched.taken == [["two"]])
        watched.put(ONE + TWO)
        poll(lambda: watched.taken == [["two"], ["one", "two"]])


def test_a_file_that_is_named_without_its_folder_is_watched_also_from_another_folder(
    watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, watched.path = watched.path, Path(watched.path.name)
    monkeypatch.chdir(tmp_path)
    with watched.watch():
        monkeypatch.chdir("/")
        watched.path = whole
        watched.put(TWO)
        poll(lambda: watched.taken == [["two"]])


def test_a_link_that_is_turned_is_a_change_as_with_a_config_map(watched: Watched, tmp_path: Path) -> None:
    for version, text in (("v1", ONE), ("v2", TWO)):
        (tmp_path / version).mkdir()
        (tmp_path / version / "policy.toml").write_text(text)
        os.utime(tmp_path / version / "policy.toml", (1e9, 1e9))
    (tmp_path / "data").symlink_to("v1")
    watched.path.symlink_to("data/policy.toml")
    with watch_policy(watched.path, watched.take, in_use=Policy.load(watched.path), every=EVERY):
        (tmp_path / "turned").symlink_to("v2")
        os.replace(tmp_path / "turned", tmp_path / "data")
        poll(lambda: watched.taken == [["two"]])


def test_a_file_that_changed_before_the_watch_began_is_taken_at_once(watched: Watched) -> None:
    watched.path.write_text(TWO)
    with watch_policy(watched.path, watched.take, in_use=Policy.parse(ONE)):
        assert watched.taken == [["two"]]
    with watch_policy(watched.path, watched.take, in_use=Policy.parse(TWO)):
        assert watched.taken == [["two"]], "it is in use already"
    with watch_policy(watched.path, watched.take):
        assert watched.taken == [["two"], ["two"]], "nobody said what is in use"


def test_a_broken_file_changes_nothing_and_is_told_with_all_its_mistakes(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    with watched.watch():
        for text in (BROKEN, BROKEN + "\n", ONE, TWO):
            known = len(caplog.records)
            watched.put(text)
            poll(lambda known=known: len(caplog.records) > known)  # type: ignore[misc]
    first, second = said(caplog, logging.ERROR)
    assert "policy.toml is ignored: the last good one stays in use" in first
    assert "policy.toml:3: rule 'one': unknown key 'limt': did you mean 'limit'?" in first
    assert "policy.toml:4: rule 'one': 'shadow' must be true or false" in first
    assert second == first, "another content, though its mistakes are the same"
    assert watched.taken == [["two"]]
    assert [re.sub(".*policy.toml", "policy.toml", line) for line in said(caplog, logging.INFO)] == [
        "policy.toml is mended: it holds the policy in use",
        "policy.toml is in use: added 'two'; removed 'one'",
    ]


def test_a_file_that_vanishes_changes_nothing_and_is_taken_when_it_is_back(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    with watched.watch():
        watched.path.unlink()
        poll(lambda: "policy.toml: no such file" in caplog.text)
        watched.path.write_text(TWO)
        poll(lambda: watched.taken == [["two"]])
    assert len(said(caplog, logging.ERROR)) == 1


def test_a_file_that_could_not_be_read_is_taken_when_its_permissions_are_mended(
    watched: Watched, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def text_of(path: str) -> str:
        if not os.stat(path).st_mode & 0o400:  # root may read all
            raise PolicyError(f"{path}: cannot be read: Permission denied")
        return Path(path).read_text()

    monkeypatch.setattr("ratekeeper.policy.reload.policy_text", text_of)
    with watched.watch():
        new = watched.path.with_name("new.toml")
        new.write_text(TWO)
        new.chmod(0)
        new.replace(watched.path)
        poll(lambda: len(said(caplog, logging.ERROR)) == 1)
        watched.path.chmod(0o600)
        poll(lambda: watched.taken == [["two"]])


def test_what_changed_is_told_by_the_names_of_rules(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    three = TWO.replace("two", "three")
    head = 'exempt = [{ path = "/x" }]\n[tiers]\nby = "user"\ndefault = "a"\n[attributes]\nuser = "header:x-user"\n'
    for text, change in [
        (ONE.replace("1/day", "5/day") + three, "added 'three'; removed 'two'; changed 'one'"),
        (TWO + ONE, "other order of rules"),
        (head + ONE + TWO, "other exempt; other [attributes]; other [tiers]"),
    ]:
        with watched.watch(ONE + TWO):
            watched.put(text)
            poll(lambda change=change: caplog.text.endswith(f"policy.toml is in use: {change}\n"))  # type: ignore[misc]
    with watched.watch(ONE + TWO):
        told, looked = len(caplog.records), watched.path.stat()
        watched.put("# a comment\n" + ONE + TWO)
        assert watched.path.stat() != looked
        watched.put(TWO + ONE)
        poll(lambda: len(caplog.records) > told)
    assert len(caplog.records) == told + 1, "a comment changes nothing"


def test_another_store_is_told_to_need_a_restart_and_all_else_is_taken(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    store = '[store]\nurl = "shared:x"\n'
    with watched.watch():
        for number, text in enumerate((TWO + store, ONE + store, ONE), 1):
            watched.put(text)
            poll(lambda number=number: len(said(caplog, logging.INFO)) == number)  # type: ignore[misc]
    [warning] = said(caplog, logging.WARNING)
    assert "has another [store], which needs a restart; all other changes are in use" in warning
    assert watched.taken == [["two"], ["one"], ["one"]]


def test_a_file_that_is_being_written_is_not_taken_before_it_rests(watched: Watched) -> None:
    """Half of a file may be a policy too, with fewer rules. The test itself makes the looks."""
    watched.path.write_text(ONE)
    with watch_policy(watched.path, watched.take, in_use=Policy.load(watched.path), every=3600) as watch:
        for written in (ONE + TWO, ONE + TWO + TWO.replace("two", "three")):
            watched.put(written)
            watch._look()
        assert watched.taken == []
        watch._look()
    assert watched.taken == [["one", "two", "three"]]


def test_a_file_that_is_open_for_writing_is_not_taken_however_long_it_rests(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    """A slow write in place: the written part is a policy too. The test itself makes the looks."""
    watched.path.write_text(ONE)
    need("leases", open_for_writing(str(watched.path)) is False)
    with watch_policy(watched.path, watched.take, in_use=Policy.load(watched.path), every=3600) as watch:
        with watched.path.open("w") as writer:
            writer.write(TWO)
            writer.flush()
            for _ in range(20):
                watch._look()
            assert watched.taken == []
            assert caplog.text.count("it is taken when no process has it open for writing any more") == 1
            writer.write(ONE)
        for _ in range(2):
            watch._look()
    assert watched.taken == [["two", "one"]]


def test_a_file_that_is_open_for_writing_when_the_watch_begins_is_not_taken_either(watched: Watched) -> None:
    watched.path.write_text(ONE + TWO)
    need("leases", open_for_writing(str(watched.path)) is False)
    in_use = Policy.load(watched.path)
    with watched.path.open("w") as writer:
        writer.write(ONE)
        writer.flush()
        watch = watch_policy(watched.path, watched.take, in_use=in_use, every=3600)
        watch._look()
        assert watched.taken == []
    with watch:
        for _ in range(2):
            watch._look()
    assert watched.taken == [["one"]]


def test_a_file_must_rest_for_longer_where_leases_are_not_possible(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.path.write_text(ONE)
    monkeypatch.setattr(sys, "platform", "plan9")
    with watch_policy(watched.path, watched.take, in_use=Policy.load(watched.path), every=3600) as watch:
        watched.put(TWO)
        for _ in range(LONGER):
            watch._look()
        assert watched.taken == []
        watch._look()
    assert watched.taken == [["two"]]


def test_a_writer_that_meets_the_probe_goes_on_and_so_does_the_prober(tmp_path: Path) -> None:
    """To open the file for writing breaks the probe's lease, and the kernel's signal of it must end nobody."""
    path = tmp_path / "policy.toml"
    path.write_text(ONE)
    need("leases", open_for_writing(str(path)) is False)
    writer = subprocess.Popen(
        [sys.executable, "-c", "import sys\nwhile True:\n    open(sys.argv[1], 'a').close()", str(path)]
    )
    try:
        seen: set[bool | None] = set()
        poll(lambda: seen.add(open_for_writing(str(path))) or len(seen) == 2)  # type: ignore[func-returns-value]
        for _ in range(5000):
            seen.add(open_for_writing(str(path)))
        assert seen == {True, False}
        assert writer.poll() is None
    finally:
        writer.kill()
        writer.wait()


def test_a_requested_reload_is_immediate_and_logs_its_result(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    watched.path.write_text(ONE)
    with watch_policy(watched.path, watched.take, in_use=Policy.load(watched.path), every=3600) as watch:
        for text, told in (
            (ONE, "holds the policy in use: nothing changes"),
            (TWO, "is in use: added 'two'; removed 'one'"),
            (BROKEN, "is ignored: the last good one stays in use"),
            (BROKEN, "is ignored: the last good one stays in use"),
            (TWO, "is mended: it holds the policy in use"),
        ):
            known = len(caplog.records)
            watched.put(text)
            watch.reload()
            poll(lambda known=known: len(caplog.records) > known)  # type: ignore[misc]
            assert told in caplog.records[-1].getMessage()
    assert watched.taken == [["two"]]


def test_a_requested_reload_waits_for_the_end_of_a_write(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    watched.path.write_text(ONE)
    need("leases", open_for_writing(str(watched.path)) is False)
    with watch_policy(watched.path, watched.take, in_use=Policy.load(watched.path), every=EVERY) as watch:
        with watched.path.open("w") as writer:
            writer.write(TWO)
            writer.flush()
            watch.reload()
            poll(lambda: "is not read yet: a process has it open for writing" in caplog.text)
            writer.write(ONE)
            assert watched.taken == []
        poll(lambda: watched.taken == [["two", "one"]])


def fifo(path: Path) -> None:
    os.mkfifo(path)


def sparse(path: Path) -> None:
    with path.open("w") as file:
        file.truncate(100 * 2**20)


def to_zero(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("make", "says"),
    [(fifo, "is a FIFO, not a policy file"), (Path.mkdir, "is a directory, not a policy file"),
     (to_zero, "is a device, not a policy file"), (sparse, "is longer than 4 MiB")],
)  # fmt: skip
def test_no_file_of_another_kind_hangs_or_fills_memory_neither_at_load_nor_in_the_watch(
    watched: Watched, caplog: pytest.LogCaptureFixture, make: Callable[[Path], None], says: str
) -> None:
    make(watched.path)
    tracemalloc.start()
    with pytest.raises(PolicyError, match=says):
        Policy.load(watched.path)
    with watch_policy(watched.path, watched.take, in_use=Policy.parse(ONE), every=EVERY):
        poll(lambda: says in caplog.text)
        watched.path.rename(watched.path.parent / "old")
        watched.put(TWO)
        poll(lambda: watched.taken == [["two"]])
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 20 * 2**20


def test_a_file_that_grows_for_ever_is_never_taken_and_the_watch_goes_on(watched: Watched) -> None:
    stopped = threading.Event()

    def grow() -> None:
        while not stopped.is_set():
            with watched.path.open("a") as file:
                file.write("# more\n" * 10_000)

    watched.path.write_text(ONE)
    grower = threading.Thread(target=grow)
    with watch_policy(watched.path, watched.take, in_use=Policy.parse(ONE), every=EVERY):
        grower.start()
        try:
            poll(lambda: watched.path.stat().st_size > 8 * 2**20)
            with pytest.raises(PolicyError, match="is longer than 4 MiB"):
                Policy.load(watched.path)
        finally:
            stopped.set()
            grower.join()
        watched.put(TWO)
        poll(lambda: watched.taken == [["two"]])


def test_the_same_broken_content_is_told_once(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    watched.path.write_text(ONE)
    with watch_policy(watched.path, watched.take, in_use=Policy.load(watched.path), every=3600) as watch:
        for _ in range(3):
            watched.put(BROKEN)
            watch._look()
            watch._look()
    assert len(said(caplog, logging.ERROR)) == 1


def test_a_watch_that_is_stopped_hands_nothing_over_any_more(watched: Watched) -> None:
    watch = watched.watch()
    assert watch._thread.is_alive()
    watch.stop()
    watch.stop()
    watched.put(TWO)
    assert not watch._thread.is_alive()
    assert watched.taken == []


def test_a_watch_may_be_stopped_by_what_it_calls(tmp_path: Path) -> None:
    path, stopped = tmp_path / "policy.toml", threading.Event()
    path.write_text(ONE)

    def stop(_: Policy) -> None:
        watch.stop()
        stopped.set()

    watch = watch_policy(path, stop, in_use=Policy.load(path), every=EVERY)
    path.write_text(TWO)
    assert stopped.wait(PATIENCE)


def test_a_caller_that_fails_is_told_of_and_the_watch_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, taken = tmp_path / "policy.toml", list[str]()
    path.write_text(ONE)

    def take(policy: Policy) -> None:
        taken.append(policy.rules[0].name)
        if len(taken) == 1:
            raise OSError("no")

    with watch_policy(path, take, in_use=Policy.load(path), every=EVERY):
        path.write_text(TWO)
        poll(lambda: "has changed, but was not taken" in caplog.text)
        path.write_text(TWO + ONE)
        poll(lambda: taken == ["two", "two"])


@pytest.mark.parametrize("every", [0, -1, "1", float("nan"), float("inf")])
def test_a_watch_that_cannot_be_is_an_error(tmp_path: Path, every: float) -> None:
    with pytest.raises(ValueError, match="every must be seconds, more than 0, not"):
        watch_policy(tmp_path / "policy.toml", print, every=every)
    with pytest.raises(TypeError, match="replace must be a function that takes a Policy"):
        watch_policy(tmp_path / "policy.toml", Policy.parse(ONE))  # type: ignore[arg-type]


IN_CHILD = """
    import os, signal, sys, time
    from ratekeeper import Keeper, Policy, watch_policy

    path, two = sys.argv[1:]
    keeper = Keeper(Policy.load(path))
    watch_policy(path, keeper.replace, in_use=keeper.policy, every=0.01)
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        with open(path, "w") as file:
            file.write(two)
        while keeper.policy.rules[0].name != "two":
            time.sleep(0.002)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0, "the child does not watch"
"""


def test_a_forked_child_watches_on(tmp_path: Path) -> None:
    need("os.fork", hasattr(os, "fork"))
    path = tmp_path / "policy.toml"
    path.write_text(ONE)
    ignore = "ignore:This process:DeprecationWarning"  # to fork with threads is what this is about
    command = [sys.executable, "-W", ignore, "-c", textwrap.dedent(IN_CHILD), str(path), TWO]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("end", ["stop", "abandon"])
def test_a_forked_child_does_not_begin_a_watch_again_that_has_ended(tmp_path: Path, end: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(ONE)
    watch = watch_policy(path, lambda policy: None, every=EVERY)
    getattr(watch, end)()
    thread = watch._thread
    watch.forget()  # as the child does
    assert watch._thread is thread
    thread.join(30)
    assert not thread.is_alive()


# The service


def ask(url: str, **headers: str) -> httpx.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.get(f"{url}/check", headers={"X-Forwarded-Uri": "/x", **names})


SERVED = '[attributes]\nuser = "header:x-user"\n[[rules]]\nname = "r"\nkey = ["user"]\nlimit = "5/day"\n'


@contextmanager
def serving(policy: Path, *options: str) -> Iterator[tuple[str, IO[str]]]:
    """`ratekeeper serve`, to be asked at a URL; what it says on stderr can be read line by line."""
    serve = (sys.executable, "-m", "ratekeeper.cli.main", "serve")
    with program(*serve, policy, "--port", "0", *options) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        [url] = re.findall(r"http://[^\s/]+", process.stdout.readline())
        wait_until_answers(url, process)
        yield url, process.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_every_worker_of_the_service_takes_a_change_and_keeps_what_was_taken(tmp_path: Path, workers: str) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(SERVED)
    with serving(policy, "--workers", workers) as (url, said):
        assert ask(url, x_user="a", x_new_user="b").headers["ratelimit"].startswith('"r";r=4;')
        policy.write_text(SERVED.replace("5/day", "10/day").replace("x-user", "x-new-user"))
        assert "policy.toml is in use: changed 'r'; other [attributes]\n" in said.readline()
        # With the new limit, by the new header: the 4.8 hours that it owed are two tokens now.
        assert ask(url, x_user="b", x_new_user="a").headers["ratelimit"].startswith('"r";r=7;')


def test_a_broken_file_is_told_on_stderr_and_the_service_goes_on(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(SERVED)
    with program(sys.executable, "-m", "ratekeeper.cli.main", "serve", policy, "--port", "0") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        [url] = re.findall(r"http://[^\s/]+", process.stdout.readline())
        policy.write_text(SERVED.replace("5/day", "5/dya"))
        lines = [process.stderr.readline() for _ in range(2)]
        assert re.match(
            r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ERROR ratekeeper\[\d+\]: .*policy.toml is ignored: ", lines[0]
        )
        assert "policy.toml:6: rule 'r': '5/dya': unknown unit of time 'dya': did you mean 'day'?" in lines[1]
        assert ask(url, x_user="a").headers["ratelimit"].startswith('"r";r=4;')
        policy.write_text(SERVED.replace("5/day", "6/day"))
        poll(lambda: "is in use: changed 'r'" in process.stderr.readline())  # type: ignore[union-attr]
        assert ask(url, x_user="a").headers["ratelimit"].startswith('"r";r=3;'), "4.8 and 4 of 24 hours"


def test_a_change_after_which_gateways_could_not_ask_any_more_is_not_taken(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(SERVED)
    with serving(policy) as (url, said):
        policy.write_text(SERVED.replace('key = ["user"]', 'key = ["route"]'))
        assert "policy.toml is ignored: the last good one stays in use" in said.readline()
        assert "policy.toml: nothing in a gateway's request tells 'route'" in said.readline()
        assert ask(url, x_user="a").headers["ratelimit"].startswith('"r";r=4;')


def test_a_service_that_is_told_not_to_reload_does_not_say_that_it_does(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(SERVED)
    announced: list[str] = []
    with ratekeeper_service(policy, announced, "--no-reload"):
        assert "load automatically" not in "".join(announced)


def test_a_service_goes_by_its_keepers_policy_of_the_moment(clock: ManualClock) -> None:
    """Which headers it needs, which attributes it knows, and whether it holds requests, are the policy's."""

    core = Core(rule('limit = "1/day"'), MemoryStore(100, clock=clock))

    def status() -> int:
        client = WireClient(lambda channel: HttpWire(core, channel, Bounds()))
        [answer] = answers_in(client.send(b"GET /check HTTP/1.1\r\n\r\n"))
        return answer.status

    assert [status() for _ in range(2)] == [200, 429]
    core.replace(rule('match = { path = "/x" }\nlimit = "1/day"'))
    assert status() == 400, "it must be told the path now"
    core.replace(rule('limit = "1/day"', name="s"))
    assert status() == 200


def test_each_reading_of_the_file_is_told_with_its_mistakes(tmp_path: Path) -> None:
    file, told = tmp_path / "policy.toml", list[PolicyError | None]()
    file.write_text(ONE)
    with watch_policy(file, lambda policy: None, in_use=Policy.load(file), every=EVERY, judged=told.append):
        assert told == [None]
        file.write_text(BROKEN)
        poll(lambda: len(told) == 2)
        assert "limt" in str(told[1])
        file.write_text(TWO)
        poll(lambda: told[2:] == [None])
