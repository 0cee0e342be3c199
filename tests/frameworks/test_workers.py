"""Real servers with several worker processes on one port: one limit, exactly, while workers are killed and replaced."""

from __future__ import annotations

import http.client
import os
import random
import re
import shlex
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import NamedTuple

import pytest
from needs import need, need_program
from servers import PATIENCE, free_port, program, wait_until_answers

from ratekeeper import IMPLEMENTATION, Limiter, SharedMemoryStore

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples" / "workers"
PAGE = (EXAMPLES.parents[1] / "docs" / "workers.md").read_text()
COMMANDS = re.findall(r"^\$ ((?:gunicorn|uvicorn) .*)$", PAGE, re.MULTILINE)
CLIENTS, WORKERS, SECONDS = 6, 4, 4


class Answer(NamedTuple):
    """When a client asked and was answered, and the status; 0 when the worker died over it."""

    asked: float
    answered: float
    status: int


def ask(port: int) -> Answer:
    asked = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", "/")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException):
        status = 0
    finally:
        connection.close()
    return Answer(asked, time.monotonic(), status)


def hammer(port: int, until: list[bool], refused: Event) -> list[Answer]:
    answers = []
    while not until:
        answers.append(ask(port))
        if answers[-1].status == 429:
            refused.set()
    answers.append(ask(port))
    return answers


def workers_of(master: int) -> list[int]:
    found = []
    for pid in Path(f"/proc/{master}/task/{master}/children").read_text().split():
        with suppress(FileNotFoundError, ProcessLookupError):  # it is gone by now
            command = Path(f"/proc/{pid}/cmdline").read_text()
            if command and "resource_tracker" not in command:  # which uvicorn has, and which is not a worker
                found.append(int(pid))
    return found


def kill_one(master: int, chance: random.Random) -> None:
    """Kill a worker at a random moment, and wait until another has its place."""
    time.sleep(0.2 + chance.random() * 0.1)  # a loaded machine must find time to answer
    worker = chance.choice(workers_of(master))
    with suppress(ProcessLookupError):
        os.kill(worker, signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    while worker in (workers := workers_of(master)) or len(workers) < WORKERS:
        assert time.monotonic() < deadline, "nobody has its place"
        time.sleep(0.01)


def serve_from(folder: Path, command: str, port: int) -> list[str]:
    """Copy the examples for the test's own table. Return the page's command with the test's own port."""
    for example in EXAMPLES.glob("*.py"):
        text = example.read_text()
        assert '"ratekeeper-example"' in text
        (folder / example.name).write_text(text.replace('"ratekeeper-example"', repr(str(folder / "table"))))
    words = shlex.split(command)
    words[0] = need_program(words[0])
    return [word.replace("8000", str(port)).replace("examples/workers", str(folder)) for word in words]


@pytest.mark.parametrize("command", COMMANDS)
def test_four_workers_admit_exactly_what_one_limit_allows_while_they_are_killed(tmp_path: Path, command: str) -> None:
    """The limit is 50 at once and 5 a second. If each worker had its own limit, they would admit four times as much."""
    need("the C core", IMPLEMENTATION == "c")
    port, done, refused, chance = free_port(), list[bool](), Event(), random.Random(3)
    with program(*serve_from(tmp_path, command, port), quiet=True) as server:
        wait_until_answers(f"http://127.0.0.1:{port}", server)
        with SharedMemoryStore.open(tmp_path / "table") as store:
            Limiter("50/10s", store=store).reset("127.0.0.1")  # what it took to see that it answers
        with ThreadPoolExecutor(CLIENTS) as pool:
            hammering = [pool.submit(hammer, port, done, refused) for _ in range(CLIENTS)]
            try:
                began = time.monotonic()
                while time.monotonic() < began + SECONDS or not refused.is_set():
                    assert time.monotonic() < began + PATIENCE, "the clients asked for less than the limit"
                    kill_one(server.pid, chance)
            finally:
                done.append(True)
            answers = sorted(answer for client in hammering for answer in client.result())
    assert {answer.status for answer in answers} <= {200, 429, 0}
    first, ended = answers[0], max(answer.answered for answer in answers)
    assert sum(answer.status == 200 for answer in answers) <= 50 + 5 * (ended - first.asked)
    assert any(is_emptied_from(begin, answers) for begin in answers)


def is_emptied_from(begin: Answer, answers: list[Answer]) -> bool:
    """Return whether the requests from one on to the last refusal took all that the limit allows meanwhile.

    A refusal shows that nothing was left. So there is such a request, however few a loaded machine makes: the first, or
    the first after a stall in which the bucket became full.
    """
    refused = [answer for answer in answers if answer.status == 429][-1]
    charged = [answer for answer in answers if answer.status != 429 and answer.asked <= refused.answered]
    count = sum(answer.answered >= begin.asked for answer in charged)
    return begin.status != 429 and count >= 50 + 5 * (refused.asked - begin.answered) - 1
