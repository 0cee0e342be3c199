"""Serve on one or several sockets, from one process or several, until a signal stops it.

It knows a policy and its file, a store, and an address for each protocol. A single process is its own parent: the
server is the same.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from threading import TIMEOUT_MAX
from typing import TYPE_CHECKING, Any, TypeAlias

from ratekeeper.coroutines import as_coroutine
from ratekeeper.errors import MissingExtraError, PolicyError
from ratekeeper.policy.model import Policy
from ratekeeper.policy.reload import watch_policy
from ratekeeper.policy.watch import Judged, Watch
from ratekeeper.service.bounds import Bounds, connections_allowed
from ratekeeper.service.control import Start
from ratekeeper.service.envoy.model import EnvoyConfig
from ratekeeper.service.listeners import Address, Listener, check_handed
from ratekeeper.service.log import log_to_stderr
from ratekeeper.service.loop import StopSignals, run_loop
from ratekeeper.service.make_core import MakeCore, OpenStore, make_core
from ratekeeper.service.make_server import make_server
from ratekeeper.service.metrics.counters import Metrics
from ratekeeper.service.metrics.of_policy import note_envoy_reload, note_no_envoy, note_reload
from ratekeeper.service.metrics.slots import Slot, Slots
from ratekeeper.service.operator_options import OperatorOptions
from ratekeeper.service.policy_news import PolicyNews, PolicyReporter
from ratekeeper.service.protocols import check_installed
from ratekeeper.service.server import close
from ratekeeper.service.supervisor import Supervisor
from ratekeeper.service.systemd import notify, take_sockets
from ratekeeper.service.tls import TlsFiles

if TYPE_CHECKING:
    from ratekeeper.service.metrics.otlp import OtlpExport

EVERY = 0.25
"""Seconds between two looks at a policy file."""

Announce: TypeAlias = Callable[[Mapping[str, Address]], None]

NEVER = TIMEOUT_MAX / 2
"""Seconds between two looks at a file that is not watched."""


@dataclass(frozen=True, slots=True)
class Serving:
    """The policy to serve, and the options of the service.

    file, watched    the policy's file, None without one; it is read again on SIGHUP, and when it changes if `watched`
    tls              the files for TLS; None for connections in clear
    envoy            the limits of envoyproxy/ratelimit's files, whose folder is watched as the policy's file is
    grace            seconds from the signal to stop until requests that still wait are cut off
    otlp             whether to send the metrics to an OpenTelemetry Collector
    operator         the page, the admin API and the recording
    """

    policy: Policy
    open_store: OpenStore
    file: str | None
    watched: bool = True
    workers: int = 1
    grace: float = 10.0
    bounds: Bounds = field(default_factory=Bounds)
    make: MakeCore = make_core
    envoy: EnvoyConfig | None = None
    tls: TlsFiles | None = None
    otlp: bool = False
    operator: OperatorOptions = field(default_factory=OperatorOptions)


def serve(serving: Serving, wanted: Mapping[str, Address], announce: Announce) -> int:
    """Serve until a signal stops it, and return the exit code: 0, or 128 and the number of the signal that hurried it.

    `wanted` has the address of each protocol. `announce` gets the addresses once connections are accepted: port 0 takes
    a free one. Raise `RatekeeperError` if an address cannot be had, `MissingExtraError` if a library is not installed.
    """
    for kind in wanted:
        check_installed(kind)
        if serving.tls is not None:
            serving.tls.context(kind)  # before any worker tries
    if serving.otlp:
        _otlp_export()
    bounds = replace(serving.bounds, connections=connections_allowed(serving.bounds.connections))
    start = Start(
        serving.make, serving.open_store, serving.policy, bounds, serving.grace, serving.envoy, serving.tls,
        serving.operator,
    )  # fmt: skip
    listeners: list[Listener] = []
    handed = take_sockets()
    try:
        for kind, address in wanted.items():
            listeners.append(Listener(kind, address, handed))
        check_handed(handed, wanted.values())
        log_to_stderr()
        addresses = {listener.kind: listener.address for listener in listeners}

        def announcing() -> None:
            announce(addresses)
            notify("READY=1")

        if serving.workers == 1:
            return run_loop(_alone(serving, start, listeners, announcing))
        return asyncio.run(_with_workers(serving, start, listeners, announcing))
    finally:
        notify("STOPPING=1")
        for listener in listeners:
            listener.close()


async def _alone(serving: Serving, start: Start, listeners: Sequence[Listener], announce: Callable[[], None]) -> int:
    metrics = Metrics(Slots.make(1, serving.operator.recording_bytes))
    core = start.make_core(metrics)
    server = make_server(start, core, [(one.kind, one.socket) for one in listeners])
    signals = StopSignals(server.stop)
    loop = asyncio.get_running_loop()

    def take(new: Policy | EnvoyConfig) -> None:
        asyncio.run_coroutine_threadsafe(as_coroutine(core.replace)(new), loop).result()

    # Only the loop changes a core. The watch is a thread, and a pause might begin at the same time.
    async with _watched(serving, take, metrics.slot, partial(setattr, core, "news")) as core.reload:
        with _exported(serving, metrics.slots, core.store, metrics.refresh):
            await server.run(announce)
    await close(core)
    return signals.exit_code


async def _with_workers(
    serving: Serving, start: Start, listeners: Sequence[Listener], announce: Callable[[], None]
) -> int:
    slots = Slots.make(1 + serving.workers, serving.operator.recording_bytes)
    store = serving.open_store()
    supervisor = Supervisor(start, listeners, slots, store)
    async with _watched(serving, supervisor.replace, slots[0], supervisor.tell):
        with _exported(serving, slots, store):
            return await supervisor.run(announce)


@contextmanager
def _exported(serving: Serving, *counts: Any) -> Iterator[None]:
    """Send the metrics by OTLP meanwhile, if they are to be sent. `counts` are the arguments of `AllProcesses`."""
    if not serving.otlp:
        yield
        return
    export = _otlp_export()(*counts)
    try:
        yield
    finally:
        export.close()


def _otlp_export() -> Callable[..., OtlpExport]:
    """Return what sends metrics. Raise `MissingExtraError` if its library is not installed."""
    try:
        from ratekeeper.service.metrics.otlp import OtlpExport  # noqa: PLC0415  an extra
    except ModuleNotFoundError:
        raise MissingExtraError("ratekeeper serve --otlp", "otlp") from None
    return OtlpExport


@asynccontextmanager
async def _watched(
    serving: Serving,
    take: Callable[[Policy | EnvoyConfig], None],
    slot: Slot,
    tell: Callable[[PolicyNews], None],
) -> AsyncIterator[Callable[[], None]]:
    """Hand the file's policy over when it changes, if it is watched, and when a SIGHUP comes.

    `slot` counts that, and `tell` gets the news. Yield a function that does what a SIGHUP does.
    """
    every = EVERY if serving.watched else NEVER
    reporter = PolicyReporter(serving.policy, tell)

    def taken(policy: Policy) -> None:
        take(policy)
        reporter.taken(policy)

    def judged(mistakes: PolicyError | None) -> None:
        note_reload(slot, mistakes)
        reporter.judged(mistakes)

    watches: list[Watch[Any]] = []
    if serving.file is not None:
        begin = partial(watch_policy, serving.file, taken, in_use=serving.policy, every=every, judged=judged)
        watches.append(await asyncio.to_thread(begin))
    if serving.envoy is None:
        note_no_envoy(slot)
    else:
        watches.append(
            await asyncio.to_thread(_watch_envoy, serving.envoy, take, every, partial(note_envoy_reload, slot))
        )

    def reload() -> None:
        for watch in watches:
            watch.reload()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
    try:
        yield reload
    finally:
        for watch in watches:
            await asyncio.to_thread(watch.stop)  # its thread may wait for this loop


def _watch_envoy(
    in_use: EnvoyConfig, take: Callable[[EnvoyConfig], None], every: float, judged: Judged
) -> Watch[EnvoyConfig]:
    from ratekeeper.service.envoy.watch import EnvoyWatch  # noqa: PLC0415  needs the extra

    return EnvoyWatch(in_use.source, take, in_use, every, judged)
