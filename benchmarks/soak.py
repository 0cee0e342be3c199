"""`python -m benchmarks.soak`: three minutes at full speed by all protocols, while the policy changes and workers die.

The service has two workers. The client is this process: connections that stay open, each with one question under way.
First nothing happens; then the policy's file changes every second; then a worker is killed every five seconds too; and
at the end nothing happens again. A question is cut if its connection was lost before the answer.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import ngh2

from benchmarks import results
from benchmarks.envoy_service import MESSAGE, METHOD
from benchmarks.resp import request
from benchmarks.results import Row, Table, rounded, say, target
from benchmarks.service import get
from benchmarks.serving import ratekeeper_serve, served

CALM, CHANGES, KILLS, AFTER = "nothing happens", "the policy changes", "and workers are killed", "nothing happens again"
PHASES = (CALM, CHANGES, KILLS, AFTER)
PHASE_SECONDS, WINDOW_SECONDS = 45.0, 3.0
CHANGE_EVERY, KILL_EVERY = 1.0, 5.0
CONNECTIONS = 16
"""The connections by each protocol."""
CALL = [
    (b":method", b"POST"), (b":scheme", b"http"), (b":path", METHOD.encode()), (b":authority", b"127.0.0.1"),
    (b"content-type", b"application/grpc"), (b"te", b"trailers"),
]  # fmt: skip
"""The headers of a gRPC call."""
POLICY = """
[[rules]]
name = "each client"
key = ["client"]
limit = "{}/hour"
"""


@dataclass
class Seen:
    """The answers of one phase: milliseconds of each by window, by protocol, and the questions that had none."""

    waits: dict[str, list[list[float]]] = field(default_factory=dict)
    cut: int = 0
    wrong: int = 0

    def p99(self, protocol: str) -> list[float]:
        """Return the 99th percentile of each window."""
        windows = [sorted(window) for window in self.waits[protocol] if window]
        return [window[len(window) * 99 // 100] for window in windows]

    def answers(self) -> int:
        return sum(len(window) for windows in self.waits.values() for window in windows)


class Client(ABC):
    """One connection that asks again and again. It connects anew when it is cut."""

    protocol: str

    def __init__(self, port: int) -> None:
        self.port = port

    async def ask_on(self, soak: Soak) -> None:
        while not soak.ended:
            await self.connect()
            try:
                while not soak.ended:
                    begun = time.perf_counter()
                    right = await self.ask()
                    soak.note(self.protocol, (time.perf_counter() - begun) * 1e3, right)
            except (OSError, EOFError):
                soak.seen.cut += 1
            finally:
                await self.close()

    async def connect(self) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)

    @abstractmethod
    async def ask(self) -> bool:
        """Ask, and return whether the answer is right. Raise `OSError` or `EOFError` if none came."""

    async def close(self) -> None:
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()


class HttpClient(Client):
    protocol = "HTTP"

    async def ask(self) -> bool:
        self.writer.write(get(b"/check"))
        head = await self.reader.readuntil(b"\r\n\r\n")
        await self.reader.readexactly(int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]))
        return head.startswith(b"HTTP/1.1 200 ")


class RespClient(Client):
    protocol = "RESP"

    async def ask(self) -> bool:
        self.writer.write(request("CL.THROTTLE", "alice", "1000000", "1000000", "1"))
        lines = [await self.reader.readuntil(b"\r\n") for _ in range(6)]
        return lines[:2] == [b"*5\r\n", b":0\r\n"]


class EnvoyClient(Client):
    """A client on libnghttp2, which waits as the others do. One of grpcio is late while they keep the loop busy."""

    protocol = "gRPC"

    async def connect(self) -> None:
        await super().connect()
        self.engine: Any = ngh2.Connection(ngh2.Role.CLIENT)  # its events have many types
        self.engine.initiate_connection({})

    async def ask(self) -> bool:
        engine, answer, ended = self.engine, b"", False
        engine.send_data(engine.send_request(CALL), b"\0" + len(MESSAGE).to_bytes(4) + MESSAGE, end_stream=True)
        while not ended:
            self.writer.write(engine.data_to_send())
            data = await self.reader.read(65_536)
            if not data:
                raise EOFError("the connection ended before the answer")
            engine.receive_data(data)
            for event in engine.events():
                answer += event.data if isinstance(event, ngh2.DataReceived) else b""
                ended = ended or isinstance(event, ngh2.TrailersReceived)
        return answer[5:].startswith(b"\x08\x01")  # overall_code OK


class Soak:
    """The service under load, and what was seen of it, by phase."""

    def __init__(self, parent: int, policy: Path, phase_seconds: float) -> None:
        self.parent, self.policy = parent, policy
        self.phase_seconds = phase_seconds
        self.phases: dict[str, Seen] = {}
        self.memory: dict[str, tuple[float, int]] = {}
        self.ended = False
        self.kills = 0

    @property
    def seen(self) -> Seen:
        return self.phases[self.phase]

    def note(self, protocol: str, milliseconds: float, right: bool) -> None:
        windows = self.seen.waits.setdefault(protocol, [[]])
        place = int((time.monotonic() - self.begun) / WINDOW_SECONDS)
        while len(windows) <= place:
            windows.append([])
        windows[place].append(milliseconds)
        self.seen.wrong += not right

    async def run(self, clients: Sequence[Client]) -> None:
        self._begin(CALM)
        asking = [asyncio.create_task(client.ask_on(self)) for client in clients]
        for phase in PHASES:
            self._begin(phase)
            say(f"soak: {phase}")
            troubles = [asyncio.create_task(trouble()) for trouble in self._troubles(phase)]
            await asyncio.sleep(self.phase_seconds)
            for trouble in troubles:
                trouble.cancel()
            await asyncio.gather(*troubles, return_exceptions=True)
            self.memory[phase] = self._memory()
        self.ended = True
        await asyncio.gather(*asking)

    def _troubles(self, phase: str) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        if phase == CHANGES:
            return [self._change]
        return [self._change, self._kill] if phase == KILLS else []

    def _begin(self, phase: str) -> None:
        self.phase, self.begun = phase, time.monotonic()
        self.phases[phase] = Seen()

    async def _change(self) -> None:
        for number in count(1):
            await asyncio.sleep(CHANGE_EVERY)
            new = self.policy.with_suffix(".new")
            new.write_text(POLICY.format(100_000_000 + number))
            new.replace(self.policy)

    async def _kill(self) -> None:
        while True:
            await asyncio.sleep(KILL_EVERY)
            os.kill(self._workers()[0], signal.SIGKILL)  # the older one
            self.kills += 1

    def _workers(self) -> list[int]:
        found = Path(f"/proc/{self.parent}/task/{self.parent}/children").read_text().split()
        return sorted(map(int, found), key=lambda pid: Path(f"/proc/{pid}").stat().st_mtime)

    def _memory(self) -> tuple[float, int]:
        """Return the MB that all processes have to themselves and share, and the descriptors of all."""
        pids = [self.parent, *self._workers()]
        lines = [line for pid in pids for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
        kilobytes = sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return kilobytes / 1024, sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)


async def soak_service(phase_seconds: float) -> Soak:
    with TemporaryDirectory() as folder:
        policy = Path(folder) / "policy.toml"
        policy.write_text(POLICY.format(100_000_000))
        grpc_port, resp_port = free_ports(2)
        command = [*ratekeeper_serve(policy), "--workers", "2"]
        command += ["--grpc", f"127.0.0.1:{grpc_port}", "--resp", f"127.0.0.1:{resp_port}"]
        command.remove("--no-reload")
        with served(*command) as server:
            ports: dict[Callable[[int], Client], int] = {
                HttpClient: server.port, RespClient: resp_port, EnvoyClient: grpc_port,
            }  # fmt: skip
            soak = Soak(server.pid, policy, phase_seconds)
            await soak.run([kind(port) for kind, port in ports.items() for _ in range(CONNECTIONS)])
            return soak


def free_ports(count: int) -> list[int]:
    """Return ports that no process listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def measure(quick: bool) -> list[Table]:
    soak = asyncio.run(soak_service(6.0 if quick else PHASE_SECONDS))
    rows = []
    for phase, seen in soak.phases.items():
        p99 = seen.p99("HTTP")
        megabytes, descriptors = soak.memory[phase]
        notes = {f"{name}, ms": f"{median(seen.p99(name)):.2f}" for name in ("RESP", "gRPC")}
        notes |= {"answers": f"{seen.answers():,}", "cut": str(seen.cut), "wrong": str(seen.wrong)}
        notes |= {"MB": f"{megabytes:.0f}", "descriptors": str(descriptors)}
        rows.append(Row(phase, rounded(min(p99)), rounded(median(p99)), notes))
    phases, memory = soak.phases, soak.memory
    lost = sum(seen.wrong + (0 if phase == KILLS else seen.cut) for phase, seen in phases.items())
    each = phases[KILLS].cut / max(1, soak.kills)
    grown = memory[AFTER][0] / memory[CALM][0]
    steady = [of(phases[AFTER].p99("HTTP")) / of(phases[CALM].p99("HTTP")) for of in (min, median)]
    targets = [
        target("questions lost or answered wrongly while no worker dies: none", (lost, lost), most=0),
        target("questions cut by a worker's death: at most one a connection", (each, each), most=3 * CONNECTIONS),
        target("memory at the end, x at the beginning: at most 1.1", (grown, grown), most=1.1),
        target("p99 at the end, x at the beginning: at most 1.2", (steady[0], steady[1]), most=1.2),
    ]
    title = (
        f"A soak: {len(PHASES)} times {soak.phase_seconds:g} s, two workers, {CONNECTIONS} connections by each protocol"
    )
    return [Table(title, "HTTP, ms, 99 %", rows), Table("Targets of the soak", "measured", targets)]


if __name__ == "__main__":
    results.main("soak", measure, ("httptools", "ngh2", "uvloop"))
