"""Scrapes of the real service: one tells the sum over all workers and protocols, whatever becomes of a worker."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from servers import PATIENCE
from service_process import Running, poll, running

from ratekeeper import Policy

pytestmark = pytest.mark.slow

POLICY = """
[attributes]
user = "header:x-user"

[[rules]]
name = "each user"
key = ["user"]
limit = "10/hour"
"""
ANY = ("--workers", "2", "--grpc", "127.0.0.1:0", "--resp", "127.0.0.1:0")


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    file = tmp_path / "policy.toml"
    file.write_text(POLICY)
    return file


def scraped(service: Running) -> dict[tuple[str, ...], float]:
    """Return the samples of one scrape, over a new connection, which any worker may take."""
    answer = httpx.get(f"{service.url}/metrics", timeout=PATIENCE)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name.removeprefix("ratekeeper_"), *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def port(service: Running, kind: str) -> int:
    found = re.search(rf"{re.escape(kind)} at 127\.0\.0\.1:(\d+)", service.said)
    assert found is not None
    return int(found[1])


@contextmanager
def redis_client(service: Running) -> Iterator[Any]:
    import redis  # noqa: PLC0415

    client = redis.Redis(port=port(service, "(RESP)"), socket_timeout=PATIENCE)
    yield client
    client.close()


def ask_by_grpc(service: Running, user: str) -> None:
    import grpc  # noqa: PLC0415

    entry = b"\x0a\x04user\x12" + bytes([len(user)]) + user.encode()
    descriptor = b"\x0a" + bytes([len(entry)]) + entry
    question = b"\x0a\x04shop\x12" + bytes([len(descriptor)]) + descriptor
    with grpc.insecure_channel(f"127.0.0.1:{port(service, 'gRPC')}") as channel:
        call: Any = channel.unary_unary("/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit")
        assert call(question, timeout=PATIENCE)


def test_one_scrape_is_the_sum_over_workers_and_protocols(policy: Path) -> None:
    with running(policy, *ANY) as service:
        for _ in range(12):
            service.check("alice")
        for _ in range(2):
            ask_by_grpc(service, "bob")
        with redis_client(service) as client:
            client.execute_command("RK.CHECK", "user", "carol")
            for _ in range(3):
                client.execute_command("CL.THROTTLE", "key", 1, 1, 3600)
            seen = scraped(service)
            assert seen["connections", "resp"] == 1
        assert seen["decisions_total", "allowed", "each user"] == 10 + 2 + 1
        assert seen["decisions_total", "each user", "refused"] == 2
        assert seen["near_limit_total", "each user"] == 2
        assert (seen["decisions_total", "CL.THROTTLE", "allowed"], seen["near_limit_total", "CL.THROTTLE"]) == (2, 1)
        assert seen["decisions_total", "CL.THROTTLE", "refused"] == 1
        assert (seen["requests_total", "allowed", "http"], seen["requests_total", "http", "refused"]) == (10, 2)
        assert (seen["requests_total", "allowed", "grpc"], seen["requests_total", "allowed", "resp"]) == (2, 3)
        assert seen["decision_duration_seconds_count", "http"] >= 1
        assert seen["table_live",] == 4
        poll(
            lambda: (
                scraped(service)["processes",] == scraped(service)["policy_in_use", Policy.load(policy).version] == 2
            )
        )
        poll(lambda: scraped(service)["connections", "resp"] == 0)
        assert not [sample for sample in seen if {"alice", "bob", "carol", "key"} & {*sample}], "no key"


def test_no_counter_goes_back_and_none_is_lost_when_a_worker_is_killed(policy: Path) -> None:
    policy.write_text(POLICY.replace("10/hour", "1000000/hour"))
    with running(policy, *ANY) as service:
        before = scraped(service)
        for turn in range(1, 4):
            victim = min(service.workers())
            for _ in range(10):
                service.check("alice")
            with redis_client(service) as client:
                client.ping()
                service.kill(victim)
            poll(lambda: scraped(service)["processes",] == 2)
            poll(lambda: scraped(service)["connections", "resp"] == 0)
            seen = scraped(service)
            assert seen["decisions_total", "allowed", "each user"] == 10 * turn
            assert seen["requests_total", "allowed", "http"] == 10 * turn
            went_back = [name for name in before if name[0].endswith("_total") and seen[name] < before[name]]
            assert not went_back
            before = seen


def test_reloads_are_told_with_the_policy_in_use(policy: Path) -> None:
    with running(policy, "--workers", "2") as service:
        first = scraped(service)
        assert (first["policy_reloads_total", "success"], first["policy_last_reload_successful",]) == (1, 1)
        policy.write_text(POLICY + "limt = 3\n")
        poll(lambda: scraped(service)["policy_last_reload_successful",] == 0)
        assert scraped(service)["policy_reloads_total", "failure"] == 1
        policy.write_text(POLICY.replace("10/hour", "11/hour"))
        version = Policy.load(policy).version
        poll(lambda: scraped(service).get(("policy_in_use", version)) == 2)
        when = ("policy_last_reload_success_timestamp_seconds",)
        poll(lambda: scraped(service)[when] > first[when])
        seen = scraped(service)
        assert (seen["policy_reloads_total", "success"], seen["policy_last_reload_successful",]) == (2, 1)


def test_a_scraper_may_ask_for_the_newer_format(policy: Path) -> None:
    with running(policy) as service:
        accept = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"}
        answer = httpx.get(f"{service.url}/metrics", headers=accept)
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        assert answer.text.endswith("# EOF\n")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_reloads_of_envoys_limits_are_told_apart_from_the_policys(policy: Path, tmp_path: Path, workers: str) -> None:
    folder = tmp_path / "limits"
    folder.mkdir()
    file = folder / "shop.yaml"
    text = "domain: shop\ndescriptors: [{key: user, rate_limit: {unit: second, requests_per_unit: 5}}]\n"
    file.write_text(text)
    with running(policy, "--workers", workers) as service:
        seen = scraped(service)
        assert seen["envoy_config_last_reload_successful",] == 1
        assert ("envoy_config_reloads_total", "success") not in seen or seen[
            "envoy_config_reloads_total", "success"
        ] == 0
    options = "--workers", workers, "--grpc", "127.0.0.1:0", "--envoy-config", str(folder)
    with running(policy, *options) as service:
        poll(lambda: scraped(service)["envoy_config_reloads_total", "success"] == 1)
        file.write_text(text.replace("second", "fortnight"))
        poll(lambda: scraped(service)["envoy_config_last_reload_successful",] == 0)
        seen = scraped(service)
        assert (seen["envoy_config_reloads_total", "failure"], seen["policy_last_reload_successful",]) == (1, 1)
        file.write_text(text)
        poll(lambda: scraped(service)["envoy_config_last_reload_successful",] == 1)
