"""The file of a shared table: made once whoever dies at it, and never trusted before it is checked."""

from __future__ import annotations

import fcntl
import os
import pickle
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from needs import need

from ratekeeper import IMPLEMENTATION, Limiter, ManualClock, SharedMemoryStore, StoreError
from ratekeeper.limits import TICKS_PER_SECOND
from ratekeeper.stores import table_file

pytestmark = pytest.mark.skipif(
    IMPLEMENTATION != "c" and os.environ.get("RATEKEEPER_TEST_EVERYTHING") != "1", reason="the C core is not installed"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "table"


def admitted(store: SharedMemoryStore, key: str = "alice") -> int:
    limiter = Limiter("5/day", store=store)
    return sum(bool(limiter.try_acquire(key)) for _ in range(9))


def change_header(path: Path, **changes: Any) -> None:
    packed = path.read_bytes()
    header = table_file._Header(*table_file._HEADER.unpack(packed[: table_file._HEADER.size]))._replace(**changes)
    path.write_bytes(table_file._HEADER.pack(*header) + packed[table_file._HEADER.size :])


def test_two_stores_of_one_file_share_their_buckets(path: Path) -> None:
    with SharedMemoryStore(path, 1000) as one, SharedMemoryStore(path, 1000) as two:
        assert admitted(one) == 5
        assert admitted(two) == 0
        assert one.stats() == two.stats()
        assert one.stats().live == 1


@pytest.mark.parametrize("word", [0, 1, 2**63 - 1, 2**63, 2**64 - 1])
def test_a_damaged_word_on_blocks_blocks_no_key_and_hides_no_later_block(path: Path, word: int) -> None:
    clock = ManualClock()
    with SharedMemoryStore(path, 1000, clock=clock) as store:
        limiter = Limiter("5/day", store=store, name="blocks")
        with path.open("r+b") as file:
            file.seek(table_file._PAGE)
            file.write(word.to_bytes(8, "little"))
        assert limiter.try_acquire("free")
        limiter.block("alice", time.time() + 60)
        assert not limiter.try_acquire("alice")
        clock.advance(61)
        assert limiter.try_acquire("alice")


def test_a_table_outlives_those_who_use_it_until_it_is_unlinked(path: Path) -> None:
    with SharedMemoryStore(path, 1000) as store:
        assert admitted(store) == 5
    with SharedMemoryStore(path, 1000) as store:
        assert admitted(store) == 0
        store.unlink()
        store.unlink()
    assert not path.exists()
    with SharedMemoryStore(path, 1000) as store:
        assert admitted(store) == 5


def test_a_name_without_a_slash_is_a_file_in_dev_shm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"ratekeeper-test-{os.getpid()}"
    with SharedMemoryStore(name, 1000) as named, SharedMemoryStore(f"./{name}", 1000) as local:
        try:
            assert named.path == Path("/dev/shm") / name
            assert named.path.exists()
            assert local.path == tmp_path / name
        finally:
            named.unlink()


@pytest.mark.parametrize(
    ("path", "error"), [("", ValueError), (".", ValueError), ("..", ValueError), ("a\0b", ValueError), (5, TypeError)]
)
def test_what_is_no_path_is_an_error(path: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="table"):
        SharedMemoryStore(path)


def test_only_its_own_user_may_read_it_and_its_room_is_taken_at_once(path: Path) -> None:
    for umask in (0, 0o277):
        before = os.umask(umask)
        path.unlink(missing_ok=True)
        try:
            store = SharedMemoryStore(path, 100_000)
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    status = path.stat()
    assert status.st_size == store.size
    assert 2_400_000 > status.st_blocks * 512 >= store.size


@pytest.mark.parametrize("room", [1_000_000, 5, 0])
def test_a_table_for_which_there_is_no_room_is_an_error_and_leaves_no_file(path: Path, room: int) -> None:
    code = f"""
import resource
from ratekeeper import SharedMemoryStore
resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))
SharedMemoryStore({str(path)!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "no room for a table of 1,000,000 keys, 22.9 MB (File too large)" in done.stderr
    assert "--shm-size" in done.stderr
    assert not path.exists()


def test_a_closed_store_says_so_and_others_go_on(path: Path) -> None:
    with SharedMemoryStore(path, 1000) as other:
        store = SharedMemoryStore(path, 1000)
        limiter = Limiter("5/day", store=store)
        decision = limiter.try_acquire("alice")
        store.close()
        store.close()
        for use in (limiter.try_acquire, limiter.acquire, limiter.peek, limiter.reset):
            with pytest.raises(ValueError, match="closed"):
                use("alice")
        for use_all in (lambda: limiter.refund(decision), lambda: limiter.try_acquire_many(["a"]), store.stats):
            with pytest.raises(ValueError, match="closed"):
                use_all()
        with pytest.raises(ValueError, match="closed"):
            store.rewind("5/day/0", "alice", 1, 0)
        assert admitted(other) == 4


def test_a_pickled_store_attaches_to_the_same_table_and_makes_none(path: Path) -> None:
    with SharedMemoryStore(path, 1000, on_full="deny") as store:
        packed = pickle.dumps(store)
        copy = pickle.loads(packed)
        assert admitted(store) + admitted(copy) == 5
        assert copy.on_full == "deny"
        store.unlink()
        with pytest.raises(StoreError, match="No such file"):
            pickle.loads(packed)
    assert not path.exists()


def test_a_clock_that_closes_its_own_store_ends_it_and_no_more(path: Path) -> None:
    class Closing(ManualClock):
        def ticks(self) -> int:
            store.close()
            return super().ticks()

    store = SharedMemoryStore(path, 1000, clock=Closing(start=1000))
    limiter = Limiter("5/day", store=store)
    with pytest.raises(ValueError, match="closed"):
        limiter.try_acquire("alice")  # a newcomer reads it again
    with pytest.raises(ValueError, match="closed"):
        limiter.try_acquire("alice")


class Noon:
    """A clock that stands still, and can be pickled."""

    def ticks(self) -> int:
        return 12 * 3600 * TICKS_PER_SECOND

    def wait(self, *_: object) -> None:
        raise AssertionError("nobody waits here")

    async def wait_async(self, *_: object) -> None:
        raise AssertionError("nobody waits here")


def test_a_pickled_store_keeps_its_clock(path: Path) -> None:
    copy = pickle.loads(pickle.dumps(SharedMemoryStore(path, 1000, clock=Noon())))
    assert Limiter("5/day", store=copy).try_acquire("alice").at_ticks == Noon().ticks()


def test_a_full_table_that_denies_refuses_newcomers_in_every_process(path: Path) -> None:
    stores = [SharedMemoryStore(path, 16, on_full="deny") for _ in range(2)]
    refused = sum(not Limiter("5/day", store=stores[n % 2]).try_acquire(f"key {n}") for n in range(60))
    assert refused == stores[0].stats().refused_full > 20
    assert stores[1].stats().evicted_live == 0


def test_every_table_has_a_seed_of_its_own(tmp_path: Path) -> None:
    seeds = {SharedMemoryStore(tmp_path / str(n), 16)._file.seed for n in range(5)}
    assert len(seeds) == 5
    assert bytes(16) not in seeds


def test_without_the_c_core_it_is_an_error_never_a_limit_for_each_process() -> None:
    code = "import ratekeeper; ratekeeper.SharedMemoryStore('ratekeeper-test')"
    environment = {**os.environ, "RATEKEEPER_CORE": "python"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "StoreError: a SharedMemoryStore needs the C core" in done.stderr
    assert "install a C compiler" in done.stderr


# ---- what is there already, and is not the table that was asked for ----


def test_all_who_share_a_table_must_say_the_same(path: Path) -> None:
    with SharedMemoryStore(path, 1000) as store:
        with pytest.raises(StoreError, match=r"has room for 1,000 keys, not 2,000\. .* choose another name"):
            SharedMemoryStore(path, 2000)
        with pytest.raises(StoreError, match="has the other on_full"):
            SharedMemoryStore(path, 1000, on_full="deny")
        assert repr(SharedMemoryStore.open(path)) == repr(store)


def test_opening_what_is_not_there_makes_nothing(path: Path) -> None:
    with pytest.raises(StoreError, match="No such file"):
        SharedMemoryStore.open(path)
    assert not path.exists()
    path.touch(mode=0o600)
    with pytest.raises(StoreError, match="no table has been made in it yet"):
        SharedMemoryStore.open(path)
    assert path.stat().st_size == 0


def make_directory(path: Path) -> None:
    path.mkdir()


def make_symlink(path: Path) -> None:
    SharedMemoryStore(path.with_name("real"), 1000)
    path.symlink_to(path.with_name("real"))


def make_dangling_symlink(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def make_fifo(path: Path) -> None:
    os.mkfifo(path, 0o600)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


def make_readable_to_all(path: Path) -> None:
    SharedMemoryStore(path, 1000)
    path.chmod(0o644)


def make_text(path: Path) -> None:
    path.touch(mode=0o600)
    path.write_text("a file of somebody's, which must not be written to\n" * 1000)


def make_text_that_all_may_read(path: Path) -> None:
    make_text(path)
    path.chmod(0o644)


def make_truncated(path: Path) -> None:
    SharedMemoryStore(path, 1000)
    os.truncate(path, 5000)


def make_short(path: Path) -> None:
    SharedMemoryStore(path, 1000)
    os.truncate(path, 20)


def make_long(path: Path) -> None:
    SharedMemoryStore(path, 1000)
    os.truncate(path, 10**6)


def make_newer(path: Path) -> None:
    SharedMemoryStore(path, 1000)
    change_header(path, layout=5)


def make_foreign(path: Path) -> None:
    SharedMemoryStore(path, 1000)
    change_header(path, machine=b"pdp11".ljust(16, b"\0"))


def make_in_another_time(path: Path) -> None:
    SharedMemoryStore(path, 1000)
    change_header(path, time_namespace=1)


def make_huge(path: Path) -> None:
    SharedMemoryStore(path, 1000)
    change_header(path, max_keys=2**64 - 1)


def make_of_another_user(path: Path) -> None:
    need("root, to give a file away", os.geteuid() == 0)
    SharedMemoryStore(path, 1000)
    os.chown(path, 65534, -1)


HOSTILE = {
    make_directory: "directory",
    make_symlink: "is a symbolic link",
    make_dangling_symlink: "is a symbolic link",
    make_fifo: "is not a regular file",
    make_socket: "cannot be opened",
    make_readable_to_all: r"others than its owner may use it \(mode 0644\)",
    make_text: "is not a table of ratekeeper",
    make_text_that_all_may_read: "is not a table of ratekeeper",
    make_truncated: "is damaged",
    make_short: "is not a table of ratekeeper",
    make_long: "is damaged",
    make_newer: "has layout 5, and this ratekeeper reads layout 4",
    make_foreign: "was made on pdp11",
    make_in_another_time: "another time namespace",
    make_huge: "is damaged",
    make_of_another_user: "belongs to user 65534, and this process runs as user 0",
}


@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: str(make.__name__)[5:])
def test_a_file_that_is_no_table_for_us_is_a_clear_error_and_stays_as_it_was(make: Any, path: Path) -> None:
    make(path)
    before = path.read_bytes() if path.is_file() else None
    attempts: list[Callable[[], object]] = [lambda: SharedMemoryStore(path, 1000), lambda: SharedMemoryStore.open(path)]
    for attach in attempts:
        with pytest.raises(StoreError, match=HOSTILE[make]) as caught:
            attach()
        assert str(path) in str(caught.value)
    assert before == (path.read_bytes() if path.is_file() else None)
    assert not path.with_name("nowhere").exists()


@given(
    flips=st.lists(st.tuples(st.integers(0, 111), st.integers(0, 255)), max_size=8),
    size=st.one_of(st.none(), st.integers(0, 6000)),
)
def test_a_damaged_header_never_crashes_nor_hangs(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]], size: int | None
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "table"
    SharedMemoryStore(path, 100)
    content = bytearray(path.read_bytes())
    for place, value in flips:
        content[place] = value
    path.write_bytes(content[:size])
    with suppress(StoreError), SharedMemoryStore(path, 100) as store:
        assert 0 <= admitted(store) <= 5


@given(content=st.binary(max_size=300))
def test_random_bytes_are_no_table(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "table"
    path.touch(mode=0o600)
    path.write_bytes(content)
    if content and not content.startswith(table_file._DRAFT):
        with pytest.raises(StoreError, match="is not a table of ratekeeper"):
            SharedMemoryStore(path, 100)
        assert path.read_bytes() == content
    else:
        assert admitted(SharedMemoryStore(path, 100)) == 5


@given(seed=st.integers(0, 2**32), mask=st.sampled_from([0xFF, 0x80, 0x0F, 0x01]))
def test_random_cells_neither_crash_nor_hang(tmp_path_factory: pytest.TempPathFactory, seed: int, mask: int) -> None:
    """Cells of any content: pending marks that nobody made, TATs at the end of time, fingerprints twice."""
    path = tmp_path_factory.mktemp("fuzz") / "table"
    with SharedMemoryStore(path, 20, clock=ManualClock(start=1000)) as store:
        size = path.stat().st_size - table_file._COUNTERS
        junk = bytes(byte & mask for byte in Random(seed).randbytes(size))
        with path.open("r+b") as file:
            file.seek(table_file._COUNTERS)
            file.write(junk)
        for key in range(40):
            assert 0 <= admitted(store, f"key {key}") <= 5
            Limiter("5/day", store=store).reset(f"key {key}")
        assert store.stats().live >= 0


def test_a_name_that_the_system_refuses_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="File name too long"):
        SharedMemoryStore(tmp_path / ("n" * 300), 16)
    with pytest.raises(StoreError, match=r"No such file or directory\. Make its folder first$"):
        SharedMemoryStore(tmp_path / "no folder" / "table", 16)


# ---- making it ----

STEPS = """
import os, signal, sys
from pathlib import Path
from ratekeeper import Limiter, SharedMemoryStore
from ratekeeper.limits import TICKS_PER_SECOND
from ratekeeper.stores import table_file

folder, steps = Path(sys.argv[1]), 0

def make_and_die(path, at):
    lines = 0
    def trace(frame, event, argument):
        nonlocal lines
        if frame.f_code.co_filename != table_file.__file__:
            return None
        if event == "line":
            lines += 1
            if lines == at:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)
    SharedMemoryStore(path, 100)
    os._exit(0)

while True:
    path = folder / str(steps)
    child = os.fork()
    if child == 0:
        make_and_die(path, steps + 1)
    _, status = os.waitpid(child, 0)
    limiter = Limiter("5/day", store=SharedMemoryStore(path, 100))
    assert sum(bool(limiter.try_acquire("a")) for _ in range(9)) == 5, steps
    assert [file.name for file in folder.iterdir()] == [path.name], "nothing else is left"
    path.unlink()
    if status == 0:
        break
    assert os.WTERMSIG(status) == signal.SIGKILL
    steps += 1
print(steps)
"""


def test_a_process_that_dies_at_any_step_of_making_it_hinders_nobody(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", STEPS, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 40


def test_a_table_of_an_earlier_boot_begins_anew(path: Path) -> None:
    assert admitted(SharedMemoryStore(path, 1000)) == 5
    change_header(path, boot_id=b"an earlier boot.")
    with pytest.raises(StoreError, match="was left by an earlier boot"):
        SharedMemoryStore.open(path)
    assert admitted(SharedMemoryStore(path, 1000)) == 5


def test_after_a_reboot_another_time_namespace_is_no_error(path: Path) -> None:
    SharedMemoryStore(path, 1000)
    change_header(path, boot_id=b"an earlier boot.", time_namespace=1)
    assert admitted(SharedMemoryStore(path, 1000)) == 5


def test_a_draft_of_a_larger_table_becomes_one_of_the_size_that_is_asked_for(path: Path) -> None:
    path.touch(mode=0o600)
    path.write_bytes(table_file._DRAFT + b"\xff" * 1_000_000)
    store = SharedMemoryStore(path, 1000)
    assert path.stat().st_size == store.size < 100_000
    assert store.stats() == (1000, 0, 0, 0, 0)
    assert admitted(store) == 5


def test_a_draft_that_another_holds_is_left_to_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_file, "_TRIES", 3)
    path.touch(mode=0o600)
    path.write_bytes(table_file._DRAFT)
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        with pytest.raises(StoreError, match="another process has had it locked"):
            SharedMemoryStore(path, 1000)
    assert path.read_bytes() == table_file._DRAFT


def test_a_file_that_is_replaced_while_one_waits_for_its_lock_is_not_attached_to(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, others = table_file._lock, list[SharedMemoryStore]()

    def replace_and_lock(fd: int, kind: int) -> bool:
        if not others:
            monkeypatch.setattr(table_file, "_lock", lock)
            path.unlink()
            others.append(SharedMemoryStore(path, 1000))
        return lock(fd, kind)

    SharedMemoryStore(path, 1000)
    monkeypatch.setattr(table_file, "_lock", replace_and_lock)
    store = SharedMemoryStore(path, 1000)
    assert admitted(store) == 5
    assert admitted(others[0]) == 0


def test_unused_tables_of_a_prefix_are_removed_and_others_are_not(tmp_path: Path) -> None:
    used = SharedMemoryStore(tmp_path / "mine-1", 16)
    SharedMemoryStore(tmp_path / "mine-2", 16)
    SharedMemoryStore(tmp_path / "other", 16)
    (tmp_path / "mine-3").mkdir()
    table_file.remove_unused(tmp_path, "mine-")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["mine-1", "mine-3", "other"]
    assert admitted(used) == 5


def test_a_table_that_is_in_use_is_never_begun_anew(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks like one of another boot because another machine uses it, through a network's file system."""
    monkeypatch.setattr(table_file, "_TRIES", 3)
    with SharedMemoryStore(path, 1000) as store:
        limiter = Limiter("5/day", store=store)
        change_header(path, boot_id=b"another machine.")
        before = path.read_bytes()
        with pytest.raises(StoreError, match="another machine uses it: each host needs its own file"):
            SharedMemoryStore(path, 1000)
        assert path.read_bytes() == before
        assert limiter.try_acquire("alice")
    del store, limiter


def test_a_file_that_somebody_keeps_locked_is_given_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_file, "_TRIES", 3)
    SharedMemoryStore(path, 1000)
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="another process has had it locked"):
            SharedMemoryStore(path, 1000)
    SharedMemoryStore(path, 1000)


def test_unlinking_an_old_table_leaves_the_new_one_alone(path: Path) -> None:
    old = SharedMemoryStore(path, 1000)
    path.unlink()
    new = SharedMemoryStore(path, 2000)
    old.unlink()
    assert path.exists()
    new.unlink()
    assert not path.exists()


def test_a_killed_process_leaves_the_table_to_others(path: Path) -> None:
    code = f"""
import os, signal
from ratekeeper import Limiter, SharedMemoryStore
limiter = Limiter("5/day", store=SharedMemoryStore({str(path)!r}, 1000))
assert limiter.try_acquire("alice", 3)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    # In another process, as a test that held the time may have left this one's clock ahead.
    again = f"""
from ratekeeper import Limiter, SharedMemoryStore
limiter = Limiter("5/day", store=SharedMemoryStore({str(path)!r}, 1000))
print(sum(bool(limiter.try_acquire("alice")) for _ in range(9)))
"""
    assert subprocess.run([sys.executable, "-c", again], capture_output=True, text=True).stdout == "2\n"


def test_another_system_than_linux_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(StoreError, match=r"^a SharedMemoryStore needs Linux$"):
        SharedMemoryStore(tmp_path / "table")
