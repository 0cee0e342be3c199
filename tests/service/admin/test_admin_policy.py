"""The policy now and before, reloads, and pauses: what all processes know, and what outlives them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from admin_client import POLICY, Admin, admin_service
from needs import need
from service_process import poll

from ratekeeper import IMPLEMENTATION
from ratekeeper.stores.shared_memory import path_of

pytestmark = pytest.mark.slow

CHANGED = POLICY.replace("3/day", "5/day")


def in_all_processes(admin: Admin, expected: Callable[[Any], bool]) -> bool:
    """Whether the answers of many connections are as expected, so all processes give it."""
    return all(expected(admin.see("policy")) for _ in range(12))


def seen_by_all(admin: Admin, expected: Callable[[Any], bool]) -> Any:
    """Wait until all processes answer as expected, and return such an answer: one that stalls may have an older one."""
    answers: list[Any] = []

    def noted(policy: Any) -> bool:
        answers.append(policy)
        return expected(policy)

    poll(lambda: in_all_processes(admin, noted))
    return answers[-1]


def reload_and_see(admin: Admin, folder: Path) -> Any:
    """Change the policy, then break it: each time by a reload that tells the result. Return what all know then."""
    first = admin.see("policy")
    assert first["now"]["text"] == POLICY
    assert (first["before"], first["diff"], first["last_reload"]["error"]) == (None, "", None)
    (folder / "policy.toml").write_text(CHANGED)
    version = admin.do("reload")["version"]
    assert version != first["now"]["version"]

    def changed(policy: Any) -> bool:
        return bool(policy["now"]["text"] == CHANGED and policy["before"] == first["now"] and policy["diff"])

    policy = seen_by_all(admin, changed)
    assert policy["now"]["version"] == version
    assert policy["now"]["loaded_at"] >= first["now"]["loaded_at"]
    assert '-limit = "3/day"\n+limit = "5/day"\n' in policy["diff"]
    assert [admin.check("reloaded") for _ in range(6)].count(True) == 5

    (folder / "policy.toml").write_text(CHANGED.replace("5/day", "5/dya"))
    assert "5/dya" in admin.error("reload", 422)
    broken = seen_by_all(admin, lambda now: "5/dya" in (now["last_reload"]["error"] or ""))
    assert (broken["now"], broken["before"]) == (policy["now"], policy["before"])
    assert broken["last_reload"]["ok"] is False
    return broken


def test_a_reload_tells_its_result_and_a_replaced_worker_knows_all(tmp_path: Path) -> None:
    with admin_service(tmp_path, "--no-reload") as (service, admin):
        before = reload_and_see(admin, tmp_path)
        service.kill(*service.workers())
        poll(lambda: answers(admin))
        assert in_all_processes(admin, lambda now: bool(now == before))


def test_one_process_does_the_same(tmp_path: Path) -> None:
    with admin_service(tmp_path, "--no-reload", "--workers", "1") as (_, admin):
        reload_and_see(admin, tmp_path)


def answers(admin: Admin) -> bool:
    try:
        return admin.send("GET", "rules").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def table() -> Iterator[str]:
    need("the C core", IMPLEMENTATION == "c")
    name = f"ratekeeper-test-{secrets.token_hex(6)}"
    yield f"shared:{name}"
    path_of(name).unlink(missing_ok=True)


def refused_by_all(admin: Admin) -> bool:
    return not any(admin.check("paused") for _ in range(10))


def passed_by_all(admin: Admin) -> bool:
    return all(admin.check("paused") for _ in range(10))


def test_a_pause_outlives_workers_and_the_service_and_ends_by_itself(tmp_path: Path, table: str) -> None:
    with admin_service(tmp_path, "--store", table) as (service, admin):
        assert [admin.check("paused") for _ in range(4)].count(True) == 3
        admin.do("pause", rule="each user", seconds=3600)
        poll(lambda: passed_by_all(admin))
        service.kill(*service.workers())
        poll(lambda: answers(admin))
        assert passed_by_all(admin)
    with admin_service(tmp_path, "--store", table) as (_, admin):
        assert passed_by_all(admin)
        policy = CHANGED.replace("5/day", "4/day")
        (tmp_path / "policy.toml").write_text(policy)
        admin.do("reload")
        assert passed_by_all(admin), "a reload keeps a pause"
        end = time.time() + 8
        assert admin.do("pause", rule="each user", until=end)["paused_until"] == pytest.approx(end, abs=60), "shorter"
        poll(lambda: refused_by_all(admin))
        assert time.time() >= end
        poll(lambda: [rule["paused_until"] for rule in admin.see("rules")["rules"]] == [None] * 3)


def test_what_if_knows_a_paused_rule_as_it_is_in_the_policy(tmp_path: Path) -> None:
    with admin_service(tmp_path, "--workers", "1") as (_, admin):  # another process might not have seen the pause yet
        admin.do("pause", rule="each user", seconds=600)
        assert all(admin.check("u-1") for _ in range(4))
        found = admin.send("POST", "what-if", {"rules": {"each user": {"capacity": 2}}}).json()
        assert "shadow" not in found["toml"]
        assert found["rules"][0]["before"]["rejected"] == 1
