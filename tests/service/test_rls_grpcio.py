"""gRPC's own client over real sockets: many calls at a time, deadlines, cancelled calls, health, and a unix socket."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import rls_messages as real
from envoy_proxy import grpc_address
from servers import PATIENCE
from service_process import Running, poll, running

pytestmark = pytest.mark.slow

POLICY = """
[[rules]]
name = "all"
match = {kind = "counted"}
limit = "100/day"

[[rules]]
name = "queue"
match = {kind = ["waiting", "cancelled"]}
key = ["kind"]
algorithm = "leaky_bucket"
capacity = 5
leak_rate = "1/hour"
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    file = tmp_path_factory.mktemp("grpc") / "policy.toml"
    file.write_text(POLICY)
    with running(file, "--grpc", "127.0.0.1:0", "--grace", "0") as service:
        yield service


@contextmanager
def client(target: str) -> Iterator[tuple[Any, Any]]:
    """Yield the two methods: ShouldRateLimit and Check."""
    with grpc.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        grpc.channel_ready_future(channel).result(PATIENCE)
        yield tuple(
            channel.unary_unary(
                path, request_serializer=lambda message: message.SerializeToString(), response_deserializer=answer
            )
            for path, answer in (
                ("/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit", real.RateLimitResponse.FromString),
                ("/grpc.health.v1.Health/Check", real.HealthCheckResponse.FromString),
            )
        )  # type: ignore[misc]


def asked(kind: str) -> Any:
    return real.rls_request("d", {"kind": kind})


def test_many_calls_at_a_time_admit_exactly_the_limit(service: Running) -> None:
    with client(grpc_address(service)) as (ask, _), ThreadPoolExecutor(8) as threads:
        codes = Counter(
            answer.overall_code for answer in threads.map(lambda _: ask(asked("counted"), timeout=PATIENCE), range(300))
        )
    assert codes == {1: 100, 2: 200}


def test_a_call_that_would_wait_longer_than_its_deadline_is_refused_at_once(service: Running) -> None:
    with client(grpc_address(service)) as (ask, _):
        assert ask(asked("waiting"), timeout=PATIENCE).overall_code == 1
        assert ask(asked("waiting"), timeout=PATIENCE).overall_code == 2


def test_a_call_that_waits_can_be_cancelled(service: Running) -> None:
    with client(grpc_address(service)) as (ask, _):
        assert ask(asked("cancelled"), timeout=PATIENCE).overall_code == 1
        waiting = [ask.future(asked("cancelled")) for _ in range(5)]
        assert ask(asked("other"), timeout=PATIENCE).overall_code == 1  # the connection goes on
        assert not any(one.done() for one in waiting)
        for one in waiting:
            one.cancel()
        assert all(one.cancelled() for one in waiting)
        again: list[Any] = []

        def finds_a_place() -> bool:
            again.append(ask.future(asked("cancelled")))
            assert ask(asked("other"), timeout=PATIENCE).overall_code == 1
            return not again[-1].done()

        poll(finds_a_place)
        for one in again:
            one.cancel()


def test_health_and_errors_are_told_to_grpcs_own_client(service: Running) -> None:
    with client(grpc_address(service)) as (ask, check):
        assert check(real.HealthCheckRequest(), timeout=PATIENCE).status == 1
        for call, code in (
            (lambda: check(real.HealthCheckRequest(service="x"), timeout=PATIENCE), grpc.StatusCode.NOT_FOUND),
            (lambda: ask(real.rls_request("d"), timeout=PATIENCE), grpc.StatusCode.INVALID_ARGUMENT),
            (lambda: ask(asked("x" * 300_000), timeout=PATIENCE), grpc.StatusCode.RESOURCE_EXHAUSTED),
            (
                lambda: ask(asked("x" * 3_000), timeout=PATIENCE, compression=grpc.Compression.Gzip),
                grpc.StatusCode.UNIMPLEMENTED,
            ),
        ):
            with pytest.raises(grpc.RpcError) as error:
                call()  # type: ignore[no-untyped-call]
            assert error.value.code() == code


def test_a_stop_ends_calls_that_wait_as_unavailable_and_frees_a_unix_socket() -> None:
    folder = Path(tempfile.mkdtemp(prefix="rk-"))  # pytest's own folder is too long for a socket
    try:
        (folder / "policy.toml").write_text(POLICY)
        with (
            running(folder / "policy.toml", "--grpc", f"unix:{folder}/grpc.sock", "--grace", "0") as service,
            client(f"unix:{folder}/grpc.sock") as (ask, check),
        ):
            assert ask(asked("waiting"), timeout=PATIENCE).overall_code == 1
            waiting = ask.future(asked("waiting"), timeout=PATIENCE * 1000)
            assert check(real.HealthCheckRequest(), timeout=PATIENCE).status == 1
            assert not waiting.done()
            service.signal(signal.SIGTERM)
            with pytest.raises(grpc.RpcError) as error:
                waiting.result(PATIENCE)
            assert error.value.code() == grpc.StatusCode.UNAVAILABLE
            service.wait()
        assert not (folder / "grpc.sock").exists()
    finally:
        shutil.rmtree(folder)


def test_all_workers_decide_by_the_same_files_also_after_a_change(tmp_path: Path) -> None:
    limits = tmp_path / "limits"
    limits.mkdir()
    (tmp_path / "policy.toml").write_text(POLICY)

    def write(requests: int) -> None:
        text = f"domain: d\ndescriptors: [{{key: kind, rate_limit: {{unit: day, requests_per_unit: {requests}}}}}]"
        (limits / "d.yaml").write_text(text)

    def limits_of(service: Running) -> set[int]:
        found = set()
        for _ in range(8):
            with client(grpc_address(service)) as (ask, _):
                [status] = ask(asked("x"), timeout=PATIENCE).statuses
                found.add(status.current_limit.requests_per_unit)
        return found

    write(1000)
    options = ("--grpc", "127.0.0.1:0", "--workers", "2", "--envoy-config", str(limits), "--no-reload")
    with running(tmp_path / "policy.toml", *options) as service:
        assert limits_of(service) == {1000}
        write(2000)
        service.signal(signal.SIGHUP)
        poll(lambda: "changed domains 'd'" in service.log)
        assert limits_of(service) == {2000}
        service.kill(min(service.workers()))
        assert limits_of(service) == {2000}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_without_a_policy_envoy_is_answered_and_all_others_are_denied(tmp_path: Path, workers: str) -> None:
    limits = tmp_path / "limits"
    limits.mkdir()
    (limits / "d.yaml").write_text(
        "domain: d\ndescriptors: [{key: kind, rate_limit: {unit: day, requests_per_unit: 1}}]"
    )
    options = ("--grpc", "127.0.0.1:0", "--workers", workers, "--envoy-config", str(limits))
    with running(tmp_path, *options) as service:
        assert f"ratekeeper serves Envoy by {limits} at http://127.0.0.1:" in service.said
        assert "/v1/check\n" not in service.said, "a question that is denied is nothing to try"
        with client(grpc_address(service)) as (ask, _):
            assert [ask(asked("x"), timeout=PATIENCE).overall_code for _ in range(2)] == [1, 2]
        denied = service.check()
        assert denied.status_code == 403
        assert "no policy is loaded" in denied.json()["detail"]
        (limits / "d.yaml").write_text("domain: other\ndescriptors: [{key: kind}]")
        service.signal(signal.SIGHUP)
        poll(lambda: "removed domains 'd'" in service.log or "'other'" in service.log)
        assert service.check().status_code == 403


@pytest.mark.parametrize("options", [[], ["--envoy-config", "limits", "--grpc", "127.0.0.1:0", "--demo"]])
def test_only_envoys_files_may_stand_in_for_a_policy(options: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ratekeeper.cli.main", "serve", "--port", "0", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2
    assert "name the policy file: ratekeeper serve POLICY" in done.stderr


@pytest.mark.parametrize(("options", "mistake"), [
    (["--envoy-config", "nowhere", "--grpc", "127.0.0.1:0"], "nowhere: No such file or directory"),
    (["--envoy-config", "."], "add --grpc HOST:PORT"),
])  # fmt: skip
def test_files_that_cannot_be_used_are_told_at_the_start(options: list[str], mistake: str, tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(POLICY)
    command = [sys.executable, "-m", "ratekeeper.cli.main", "serve", "policy.toml", "--port", "0", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2
    assert mistake in done.stderr
