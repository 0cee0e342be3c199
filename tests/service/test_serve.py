"""`ratekeeper serve` as an operator has it: signals, workers that die, policies that change, tables that break."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from needs import need
from redis_servers import redis_server
from servers import PATIENCE
from service_process import RawClient, Running, poll, running

from ratekeeper import IMPLEMENTATION, SharedMemoryStore

pytestmark = pytest.mark.slow

POLICY = '[attributes]\nuser = "header:x-user"\n[[rules]]\nname = "r"\nkey = ["user"]\nlimit = "{}/day"\n'
BROKEN = POLICY.format("5").replace("limit", "limt")
UNANSWERABLE = POLICY.format("5").replace('key = ["user"]', 'key = ["route"]')
LEAKY = '[[rules]]\nname = "queue"\nalgorithm = "leaky_bucket"\ncapacity = {}\nleak_rate = "{}"\n'
CHECK = b"GET /check HTTP/1.1\r\nHost: x\r\nX-Forwarded-Uri: /x\r\n\r\n"
WORKERS = pytest.mark.parametrize("workers", ["1", "2"])
SIGNALS = pytest.mark.parametrize(("workers", "number"), [("1", signal.SIGTERM), ("2", signal.SIGINT)])


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    need("the C core", IMPLEMENTATION == "c")
    path = tmp_path / "policy.toml"
    path.write_text(POLICY.format(5))
    return path


def put(path: Path, text: str) -> None:
    (path.parent / "new").write_text(text)
    os.replace(path.parent / "new", path)


def quota_in(answer: httpx.Response) -> str:
    return str(re.findall(r"q=(\d+)", answer.headers["ratelimit-policy"])[0])


def asking(service: Running, count: int) -> list[RawClient]:
    """So many clients that have asked, and wait."""
    clients = [RawClient(service.address) for _ in range(count)]
    for client in clients:
        client.send(CHECK)
    return clients


def kill_workers(service: Running) -> set[int]:
    killed = service.workers()
    for pid in killed:
        with suppress(ProcessLookupError):  # it began after its table was spoilt, and has ended by itself
            os.kill(pid, signal.SIGKILL)
    return killed


# The policy


@WORKERS
def test_sighup_reloads_at_once_and_logs_the_result(policy: Path, workers: str) -> None:
    with running(policy, "--workers", workers, "--no-reload") as service:
        for text, quota, told in (
            (POLICY.format(7), "7", "is in use: changed 'r'"),
            (BROKEN, "7", "is ignored: the last good one stays in use"),
            (UNANSWERABLE, "7", "nothing in a gateway's request tells 'route'"),
            (POLICY.format(7), "7", "is mended: it holds the policy in use"),
            (POLICY.format(7), "7", "holds the policy in use: nothing changes"),
        ):
            put(policy, text)
            service.signal(signal.SIGHUP)
            poll(lambda told=told: told in service.log)  # type: ignore[misc]
            assert {service.quota() for _ in range(6)} == {quota}


HANGS_UP = """\
import os, signal, sys

def hook(event, args, told=[]):
    if event == "open" and str(args[0]).endswith("policy.toml") and not told:
        told.append(os.kill(os.getpid(), signal.SIGHUP))

sys.addaudithook(hook)
"""


@WORKERS
def test_a_sighup_while_it_starts_does_not_end_it(policy: Path, tmp_path: Path, workers: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(HANGS_UP)
    with running(policy, "--workers", workers, env={"PYTHONPATH": str(tmp_path)}) as service:
        assert service.check().status_code == 200


def test_a_worker_that_is_replaced_goes_by_the_last_good_policy(policy: Path) -> None:
    with running(policy, "--workers", "2") as service:
        put(policy, POLICY.format(7))
        poll(lambda: "is in use: changed 'r'" in service.log)
        put(policy, BROKEN)
        poll(lambda: "is ignored" in service.log)
        killed = kill_workers(service)
        poll(lambda: len(service.workers() - killed) == 2)
        assert {service.quota() for _ in range(10)} == {"7"}
        assert service.log.count("was killed by SIGKILL") == 2


def test_a_policy_that_workers_would_refuse_is_refused_before_any_takes_it(policy: Path) -> None:
    with running(policy, "--workers", "3") as service:
        before = service.workers()
        put(policy, UNANSWERABLE)
        poll(lambda: "nothing in a gateway's request tells 'route'" in service.log)
        assert service.log.count("is ignored: the last good one stays in use") == 1
        assert {service.quota() for _ in range(10)} == {"5"}
        assert service.workers() == before


@WORKERS
def test_a_policy_that_the_workers_store_cannot_decide_is_refused_before_any_takes_it(
    policy: Path, workers: str
) -> None:
    with redis_server() as server, running(policy, "--workers", workers, "--store", server.url) as service:
        before = service.workers()
        put(policy, POLICY.format(7) + 'on_error = "local"\n')
        poll(lambda: "is ignored: the last good one stays in use" in service.log)
        assert "write expected_nodes" in service.log
        answers: list[httpx.Response] = []

        def ten_answers() -> bool:
            answers.append(service.check())  # a 503 if Valkey stalls for 50 ms
            return sum(one.status_code != 503 for one in answers) == 10

        poll(ten_answers)
        assert {quota_in(one) for one in answers if one.status_code != 503} == {"5"}
        assert {one.status_code for one in answers} <= {200, 429, 503}
        assert service.workers() == before


OF_WORKERS = """\
import sys
from ratekeeper.service.core import Core

def plan(attributes):
    return None

def replace(core, new, before=Core.replace):
    before(core, new)
    if new.rules[0].limit.capacity == 7:
        raise {}

if "ratekeeper.service.worker" in sys.orig_argv and (not {} or sys.argv[3] == "1"):
    Core.replace = replace
"""
"""A module of look-ups that spoils a change, in the workers alone, or in the first of them alone."""


@pytest.mark.parametrize("only_first", [False, True])
@pytest.mark.parametrize("error", ['ratekeeper.errors.PolicyError("not here")', 'LookupError("not here")'])
def test_a_change_that_a_worker_alone_refuses_is_given_up_by_all(policy: Path, error: str, only_first: bool) -> None:
    module = OF_WORKERS.format(error, only_first).replace("import sys", "import sys, ratekeeper.errors")
    (policy.parent / "plans.py").write_text(module)
    looked_up = POLICY.replace('"{}/day"', '"app:plan"') + 'default = "{}/day"\n'
    put(policy, looked_up.format(5))
    path = {"PYTHONPATH": os.pathsep.join([str(policy.parent), *sys.path])}
    with running(policy, "--workers", "2", "--limits", "plan=plans:plan", env=path) as service:
        poll(lambda: service.status()["processes"] == 2)  # one that is not there yet is not asked
        before = service.workers()
        put(policy, looked_up.format(7))
        poll(lambda: "is ignored: the last good one stays in use" in service.log)
        assert "a worker refused it, though the parent process did not: " in service.log
        assert "not here" in service.log
        assert {service.quota() for _ in range(10)} == {"5"}
        put(policy, looked_up.format(8))
        poll(lambda: "is in use: changed 'r'" in service.log)
        assert {service.quota() for _ in range(10)} == {"8"}
        assert service.workers() == before
        assert "does not answer" not in service.log


@WORKERS
def test_a_reload_five_times_a_second_loses_no_request(policy: Path, workers: str) -> None:
    with running(policy, "--workers", workers) as service, ThreadPoolExecutor(4) as pool:
        done, taken = threading.Event(), set[str]()

        def ask(number: int) -> Counter[str]:
            seen: Counter[str] = Counter()
            with httpx.Client(timeout=PATIENCE) as client:
                while not done.is_set():
                    headers = {"X-User": str(number), "X-Forwarded-Uri": "/x"}
                    answer = client.get(f"{service.url}/check", headers=headers)
                    assert answer.status_code == 200
                    seen[quota_in(answer)] += 1
                    taken.update(seen)
            return seen

        put(policy, POLICY.format(100_000))
        poll(lambda: "is in use: changed 'r'" in service.log)
        asking = [pool.submit(ask, number) for number in range(4)]
        try:
            number = 0
            while number < 15 or (len(taken) <= 3 and number < 5 * PATIENCE):  # a service that stalls takes fewer
                number += 1
                put(policy, POLICY.format(200_000 + number))
                service.signal(signal.SIGHUP)
                time.sleep(0.2)  # the claim's own rate, not a wait
        finally:
            done.set()
        seen = sum((one.result() for one in asking), Counter[str]())
        assert set(seen) <= {"100000", *(str(200_001 + place) for place in range(number))}
        assert len(seen) > 3
        poll(lambda: service.quota() == str(200_000 + number))
        assert "ERROR" not in service.log


# Workers that die


def test_workers_that_are_killed_under_load_are_replaced_and_the_limit_stays_exact(policy: Path) -> None:
    put(policy, POLICY.format(40))
    with running(policy, "--workers", "2") as service, ThreadPoolExecutor(4) as pool:
        done = threading.Event()

        def ask(_: int) -> Counter[int]:
            seen: Counter[int] = Counter()
            while not (done.is_set() and seen[200] + seen[429] > 20):
                try:
                    seen[service.check().status_code] += 1
                except httpx.TransportError:
                    seen[0] += 1  # it was asked of a worker that died
            return seen

        asking = [pool.submit(ask, number) for number in range(4)]
        try:
            for _ in range(2):
                killed = kill_workers(service)
                poll(lambda killed=killed: len(service.workers() - killed) == 2)  # type: ignore[misc]
        finally:
            done.set()
        seen = sum((one.result() for one in asking), Counter[int]())
        assert set(seen) <= {0, 200, 429}
        assert 40 - seen[0] <= seen[200] <= 40, "a worker that died may have charged a request that it did not answer"
        assert service.log.count("was killed by SIGKILL") == 4


@pytest.mark.parametrize("loaded", [False, True])
def test_a_parent_that_is_killed_takes_its_workers_along(policy: Path, loaded: bool) -> None:
    with running(policy, "--workers", "3") as service:
        done = threading.Event()

        def ask() -> None:
            while not done.is_set():
                try:
                    service.check()
                except httpx.TransportError:
                    return

        clients = [threading.Thread(target=ask) for _ in range(4 if loaded else 0)]
        for client in clients:
            client.start()
        os.kill(service.process.pid, signal.SIGKILL)
        assert service.wait() == -signal.SIGKILL
        poll(lambda: not service.pids())
        done.set()
        for client in clients:
            client.join()
        with pytest.raises(httpx.ConnectError):
            service.check()


def has_opened(pid: int, table: Path) -> bool:
    try:
        return str(table) in Path(f"/proc/{pid}/maps").read_text()
    except OSError:  # it has ended
        return False


def to_garbage(table: Path) -> None:
    put(table, "no table\n" * 1000)


def to_folder(table: Path) -> None:
    table.unlink()
    table.mkdir()


@pytest.mark.parametrize("spoil", [to_garbage, Path.unlink, to_folder])
def test_a_broken_table_is_one_log_line_and_a_back_off_until_it_is_mended(
    policy: Path, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    table = tmp_path / "table"
    with running(policy, "--workers", "2", "--store", f"shared:{table}") as service:
        assert service.check().status_code == 200
        poll(lambda: all(has_opened(pid, table) for pid in service.workers()))
        spoil(table)
        kill_workers(service)
        poll(lambda: "a worker cannot serve: " in service.log)
        tried: set[int] = set()

        def tried_again() -> bool:
            tried.update(service.pids())
            return len(tried) > 4

        poll(tried_again)
        [told] = [line for line in service.log.splitlines() if " was killed by SIGKILL: " not in line]
        assert "cannot serve" in told
        assert str(table) in told
        shutil.rmtree(table) if table.is_dir() else table.unlink(missing_ok=True)
        SharedMemoryStore(table).close()
        assert service.check().status_code == 200, "it was asked before any worker served again"
        poll(lambda: "a worker serves again" in service.log)


# Signals


@SIGNALS
def test_a_hundred_requests_that_wait_are_answered_when_it_is_told_to_stop(
    policy: Path, workers: str, number: int
) -> None:
    put(policy, LEAKY.format(200, "100/s"))
    with running(policy, "--workers", workers, "--grace", "60") as service:
        clients = asking(service, 100)
        assert clients[0].answer()[:12] == b"HTTP/1.1 200"
        service.signal(number)
        answers = [client.answers() for client in clients[1:]]
        assert {answer[:12] for answer in answers} == {b"HTTP/1.1 200"}
        assert service.wait() == 0


@WORKERS
def test_a_request_that_would_wait_longer_than_the_grace_gets_a_503_and_the_service_ends(
    policy: Path, workers: str
) -> None:
    put(policy, LEAKY.format(200, "1/hour"))
    with running(policy, "--workers", workers, "--grace", "0.5") as service:
        assert service.check().status_code == 200
        clients = asking(service, 20)
        service.signal(signal.SIGTERM)
        answers = [client.answers() for client in clients]
        assert {answer[:12] for answer in answers} == {b"HTTP/1.1 503"}
        assert b"retry-after: 1\r\n" in answers[0]
        assert service.wait() == 0
        assert "Traceback" not in service.log


@SIGNALS
def test_a_second_signal_ends_it_at_once(policy: Path, workers: str, number: int) -> None:
    put(policy, LEAKY.format(200, "1/hour"))
    with running(policy, "--workers", workers, "--grace", "3600") as service:
        assert service.check().status_code == 200
        [client] = asking(service, 1)
        service.signal(signal.SIGTERM)
        poll(lambda: not accepts(service))
        assert service.process.poll() is None
        service.signal(number)
        assert service.wait() == 128 + number
        client.answers()
        assert "Traceback" not in service.log


def accepts(service: Running) -> bool:
    try:
        socket.create_connection(service.address, timeout=PATIENCE).close()
    except ConnectionError:
        return False
    return True


@WORKERS
def test_ctrl_c_ends_it_quietly(policy: Path, workers: str) -> None:
    with running(policy, "--workers", workers) as service:
        assert service.check().status_code == 200
        os.killpg(service.process.pid, signal.SIGINT)  # as a terminal does
        assert service.wait() == 0
        assert service.said.endswith("Stop with Ctrl-C.\n")
        assert service.log == ""


@WORKERS
def test_a_signal_to_all_processes_at_once_still_lets_waiting_requests_be_answered(policy: Path, workers: str) -> None:
    """systemd does so: each worker gets the signal twice, from there and from the parent."""
    put(policy, LEAKY.format(200, "20/s"))
    with running(policy, "--workers", workers) as service:
        clients = asking(service, 20)
        assert clients[0].answer()[:12] == b"HTTP/1.1 200"
        for pid in service.pids():
            with suppress(ProcessLookupError):  # a worker without a request ends at the parent's signal
                os.kill(pid, signal.SIGTERM)
        answers = [client.answers() for client in clients[1:]]
        assert {answer[:12] for answer in answers} == {b"HTTP/1.1 200"}
        assert service.wait() == 0


# Its log


def test_every_line_of_the_log_has_a_time_a_level_and_a_process(policy: Path) -> None:
    with running(policy, "--workers", "2") as service:
        put(policy, POLICY.format(7))
        poll(lambda: "is in use: changed 'r'" in service.log)
        kill_workers(service)
        poll(lambda: service.log.count("SIGKILL") == 2)
        for line in service.log.splitlines():
            assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (INFO|ERROR) ratekeeper\[\d+\]: \S", line), line


@pytest.mark.parametrize(("env", "mend"), [({}, "as with --port {}"), ({"MAKELEVEL": "1"}, "as with make run PORT={}")])
def test_a_port_in_use_is_one_line_that_names_the_mend(policy: Path, env: dict[str, str], mend: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "ratekeeper.cli.main", "serve", str(policy), "--port", str(port)],
            capture_output=True,
            text=True,
            env={**{name: value for name, value in os.environ.items() if name != "MAKELEVEL"}, **env},
        )
    says = f"ratekeeper: 127.0.0.1 port {port} is in use: choose another one, {mend.format(port + 1)}\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", says)


@WORKERS
def test_the_policys_file_may_become_a_fifo_while_it_serves(policy: Path, workers: str) -> None:
    with running(policy, "--workers", workers) as service:
        policy.unlink()
        os.mkfifo(policy)
        poll(lambda: "is a FIFO, not a policy file" in service.log)
        service.signal(signal.SIGHUP)
        poll(lambda: service.log.count("is a FIFO, not a policy file") == 2)
        assert service.quota() == "5"
