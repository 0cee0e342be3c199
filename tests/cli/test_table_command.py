"""`ratekeeper table`: what people see of a shared table's health, and never its seed or a key."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from needs import need

from ratekeeper import IMPLEMENTATION, Limiter, SharedMemoryStore

COMMAND = [sys.executable, "-m", "ratekeeper.cli.main", "table"]


@pytest.fixture
def store(tmp_path: Path) -> SharedMemoryStore:
    need("the C core", IMPLEMENTATION == "c")
    store = SharedMemoryStore(tmp_path / "table", 16)
    Limiter("1/hour", store=store).try_acquire_many([f"secret {n}" for n in range(100)])
    return store


def test_it_shows_size_load_evictions_and_age_but_no_seed(store: SharedMemoryStore) -> None:
    done = subprocess.run([*COMMAND, str(store.path)], capture_output=True, text=True, check=True)
    stats = store.stats()
    assert f"{stats.live:,} buckets, {stats.live / 16:.1%}" in done.stdout
    assert f"{stats.evicted_live} live buckets that had to go" in done.stdout
    assert " UTC, " in done.stdout
    assert "for 16 live buckets" in done.stdout
    assert store._file.seed.hex() not in done.stdout
    assert "secret" not in done.stdout


def test_watching_shows_it_again_with_what_came_since(store: SharedMemoryStore) -> None:
    controller, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}  # on a dumb terminal nothing is shown again
    command = [*COMMAND, str(store.path), "--watch"]
    with subprocess.Popen(command, stdout=terminal, stderr=terminal, env=environment) as watching:
        os.close(terminal)
        seen = b""
        while b"in a second" not in seen:
            seen += os.read(controller, 4096)
        watching.terminate()
    assert b"[#####" in seen
    os.close(controller)


def test_json_has_the_same_figures(store: SharedMemoryStore) -> None:
    done = subprocess.run([*COMMAND, str(store.path), "--json"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith('{\n  "path": ')
    stats, found = store.stats(), json.loads(done.stdout)
    assert datetime.fromisoformat(found.pop("made_at")).timestamp() == pytest.approx(store.made_at, abs=1)
    assert found == {
        "path": str(store.path),
        "bytes": store.size,
        "max_keys": 16,
        "on_full": "evict",
        "live": stats.live,
        "evicted_live": stats.evicted_live,
        "refused_full": stats.refused_full,
        "retries": stats.retries,
    }


def test_watching_in_json_prints_a_line_each_second(store: SharedMemoryStore) -> None:
    command = [*COMMAND, str(store.path), "--watch", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        seen = [json.loads(watching.stdout.readline()) for _ in range(2)]
        watching.terminate()
    assert seen[0] == seen[1]


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_what_cannot_name_a_table_is_one_line(name: str) -> None:
    done = subprocess.run([*COMMAND, name], capture_output=True, text=True)
    told = f"ratekeeper table: argument PATH: {name!r} is not a name of a table: use one such as 'ratekeeper-api'"
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, told)


@pytest.mark.parametrize("watch", [[], ["--watch"]])
def test_a_table_that_is_not_there_is_one_clear_line(tmp_path: Path, watch: list[str]) -> None:
    need("the C core", IMPLEMENTATION == "c")
    done = subprocess.run([*COMMAND, str(tmp_path / "none"), *watch], capture_output=True, text=True)
    assert done.returncode == 2
    why = "cannot be opened: No such file or directory. The first process that uses a store makes its table"
    assert done.stderr == f"ratekeeper: {tmp_path}/none: {why}\n"
    assert not (tmp_path / "none").exists()
