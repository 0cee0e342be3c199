"""Supervisor: the parent of several workers. It owns the sockets, the policy and the workers; it answers no request.

A worker is a new interpreter (fork and exec, by `subprocess`). A fork alone is not safe: the policy's watch is a
thread, and the child would keep any lock that the thread holds at that moment. `multiprocessing` with "spawn" is safe
too, but it starts one more process and imports `__main__` again. A worker has its own process group, so a terminal
sends Ctrl-C to the parent alone.

**All agree on the policy.** The parent first gives each change to its own core, on an empty store. If that
refuses the policy, no worker sees it. Else each worker gets the policy and confirms it. A new worker starts with the
last good policy, and accepts connections only with the one in use. If a worker refuses a change all the same, all go
back to the policy before. A worker that refuses even that is replaced.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ratekeeper.errors import PolicyError
from ratekeeper.policy.model import Policy
from ratekeeper.service.control import SERVE, Control, Start
from ratekeeper.service.envoy.model import EnvoyConfig
from ratekeeper.service.listeners import Listener
from ratekeeper.service.live.board import clear
from ratekeeper.service.loop import StopSignals
from ratekeeper.service.metrics.counters import Metrics
from ratekeeper.service.metrics.slots import Slots
from ratekeeper.service.operator_options import NOTHING
from ratekeeper.service.policy_news import PolicyNews
from ratekeeper.service.worker_state import Order, Trial, Worker
from ratekeeper.stores.base import AsyncStore, Store
from ratekeeper.stores.memory import MemoryStore

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 15.0
"""Seconds before a worker that died at its start, or soon after, is replaced: doubled each time."""

_SOON = 10.0
"""Seconds: a worker that ends sooner is replaced after a pause."""

_REPLY_TIME = 5.0
"""Seconds that a worker has to confirm a policy, or to end after its grace."""

_log = logging.getLogger("ratekeeper")


class Supervisor:
    """Keeps workers serving on the same sockets, until a signal. `start` is what each of them begins with.

    Each worker has one of the `slots` for its metrics, and so has the one in its place. The first is the parent's.
    `store` is one like the workers'. It is not asked: an empty store stands for it, and refuses the same policies.
    """

    def __init__(self, start: Start, listeners: Sequence[Listener], slots: Slots, store: Store | AsyncStore) -> None:
        self._start = start
        self._listeners = listeners
        self._slots = slots
        self._workers: set[Worker] = set()
        self._stopping = asyncio.Event()
        self._changed = asyncio.Condition()
        self._trials: list[Trial] = []
        self._told: str | None = None
        empty: Any = MemoryStore(1)
        empty.knows_nodes = getattr(store, "knows_nodes", True)
        self._rehearsal = replace(start, open_store=lambda: empty, operator=NOTHING).make_core(Metrics())
        self._loop = asyncio.get_running_loop()

    async def run(self, announce: Callable[[], None]) -> int:
        """Serve until a signal; return the exit code. `announce` is called when the first worker serves."""
        signals = StopSignals(self._stop)
        keeping = [self._loop.create_task(self._keep_worker(slot)) for slot in range(1, self._slots.count)]
        announcing = self._loop.create_task(self._announce(announce))
        await self._stopping.wait()
        for listener in self._listeners:
            listener.close()
        announcing.cancel()
        grace = self._start.grace + _REPLY_TIME
        await asyncio.wait(keeping, timeout=grace)
        self._signal(signal.SIGKILL)
        await asyncio.gather(*keeping)
        return signals.exit_code

    def replace(self, new: Policy | EnvoyConfig) -> None:
        """Have all workers decide by another policy, or Envoy's questions by other limits.

        Raise `PolicyError`, and change nothing, if one of them refuses it. Called by another thread than the loop's.
        """
        before = self._start.policy if isinstance(new, Policy) else self._start.envoy
        assert before is not None, "Envoy's limits were there from the start, or there are none"
        self._rehearsal.replace(new)
        if not self._stopping.is_set():
            try:
                asyncio.run_coroutine_threadsafe(self._hand_out(new, before), self._loop).result(3 * _REPLY_TIME)
            except PolicyError:
                self._rehearsal.replace(before)
                raise

    async def _hand_out(self, new: Policy | EnvoyConfig, before: Policy | EnvoyConfig) -> None:
        """Give a change to the workers, and return when each worker that serves uses it, or none does."""
        trial = Trial(new)
        self._trials.append(trial)
        self._start = self._start.changed_to(new)
        await self._agree(trial)
        self._trials.remove(trial)
        if trial.refusal is not None:
            self._start = self._start.changed_to(before)
            await self._agree()
            raise PolicyError(f"a worker refused it, though the parent process did not: {trial.refusal}")

    def tell(self, news: PolicyNews) -> None:
        """Tell all workers how the policy's file was read, soon. Called by another thread than the loop's."""
        asyncio.run_coroutine_threadsafe(self._tell_news(news), self._loop)

    async def _tell_news(self, news: PolicyNews) -> None:
        self._start = replace(self._start, news=news)
        async with self._changed:
            self._changed.notify_all()

    async def _agree(self, trial: Trial | None = None) -> None:
        """Return when each worker that serves has all that is in use, or one has refused the change on trial."""

        def agreed() -> bool:
            if trial is not None and trial.refusal is not None:
                return True
            serving = [worker for worker in self._workers if worker.serves_since is not None]
            return self._stopping.is_set() or all(worker.next_order(self._start) is SERVE for worker in serving)

        async with self._changed:
            self._changed.notify_all()
            try:
                await asyncio.wait_for(self._changed.wait_for(agreed), _REPLY_TIME)
            except TimeoutError:
                _log.error("a worker does not answer: it uses the previous policy until it does")

    async def _announce(self, announce: Callable[[], None]) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: any(worker.serves_since for worker in self._workers))
        announce()

    def _stop(self, at_once: bool) -> None:
        self._stopping.set()
        self._signal(signal.SIGKILL if at_once else signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        for worker in self._workers:
            with suppress(ProcessLookupError):
                worker.process.send_signal(number)

    # One worker after another

    async def _keep_worker(self, slot: int) -> None:
        """Keep one place filled: start a worker, wait for its end, pause if it came soon, start the next."""
        pause = 0.0
        while not self._stopping.is_set():
            served_for = None
            try:
                worker = await self._start_worker(slot)
            except OSError as error:
                reason = f"a worker cannot be started: {error}"
            else:
                reason = await self._see_to_its_end(worker)
                self._slots[slot].end()
                clear(self._slots[slot])
                served_for = time.monotonic() - worker.serves_since if worker.serves_since is not None else None
            if self._stopping.is_set():
                return
            if served_for is not None and served_for > _SOON:
                pause = 0.0
            self._tell(reason, pause, repeats=served_for is None)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            pause = min(_LONGEST_PAUSE, 2 * pause or _FIRST_PAUSE)

    async def _start_worker(self, slot: int) -> Worker:
        ours, theirs = socket.socketpair()
        with theirs:
            sockets = {listener.socket.fileno(): listener.kind for listener in self._listeners}
            metrics = self._slots.descriptor
            arguments = [*map(str, (theirs.fileno(), metrics, slot)), *(f"{kind}={n}" for n, kind in sockets.items())]
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-P", "-m", "ratekeeper.service.worker", *arguments,
                    pass_fds=[theirs.fileno(), metrics, *sockets], stdin=asyncio.subprocess.DEVNULL, process_group=0,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
                )  # fmt: skip
            except OSError:
                ours.close()
                raise
        return Worker(process, await Control.over(ours))

    async def _see_to_its_end(self, worker: Worker) -> str:
        """Direct a worker until it ends, and return why it ended."""
        self._workers.add(worker)
        if self._stopping.is_set():
            self._signal(signal.SIGTERM)
        directing = self._loop.create_task(self._direct(worker))
        code = await worker.process.wait()
        directing.cancel()
        with suppress(asyncio.CancelledError):
            await directing
        worker.control.close()
        self._workers.discard(worker)
        async with self._changed:
            self._changed.notify_all()
        if worker.failure is not None:
            return f"a worker cannot serve: {worker.failure}"
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return f"worker {worker.process.pid} {how}"

    async def _direct(self, worker: Worker) -> None:
        """Give a worker its orders, and the policy that is in use, for as long as it lives."""
        order: Order | str = self._start
        try:
            while True:
                refusal = await worker.control.ask(order)
                if refusal is not None and not self._may_refuse(order, refusal):
                    worker.failure = refusal
                    with suppress(ProcessLookupError):
                        worker.process.terminate()
                    return
                async with self._changed:
                    if refusal is not None:
                        worker.refused(order)
                    elif isinstance(order, str):
                        worker.serves_since = time.monotonic()
                        self._recovered()
                    else:
                        worker.obeyed(order)
                    self._changed.notify_all()
                    order = await self._next_order(worker, order if refusal is not None else None)
        except (EOFError, OSError):
            return  # it is about to end
        except Exception as error:
            worker.failure = f"the parent cannot direct it: {error!r}"
            with suppress(ProcessLookupError):
                worker.process.kill()

    async def _next_order(self, worker: Worker, refused: Order | str | None) -> Order | str:
        """Return the next order to a worker, once there is one: not the order that it has just refused."""

        def lacks() -> bool:
            order = worker.next_order(self._start)
            return order is not refused and (order is not SERVE or worker.serves_since is None)

        await self._changed.wait_for(lacks)
        return worker.next_order(self._start)

    def _may_refuse(self, order: Order | str, why: str) -> bool:
        """Return whether a worker may refuse an order and go on: a change on trial, or one that was given up."""
        for trial in self._trials:
            if trial.change is order:
                trial.refusal = why
                return True
        return isinstance(order, Policy | EnvoyConfig) and not self._start.has(order)

    def _tell(self, reason: str, pause: float, repeats: bool) -> None:
        """Log why a worker ended. One reason that all workers have, again and again, is told once."""
        if repeats:
            if reason == self._told:
                return
            self._told = reason
        when = f"in {pause:g} s" if pause else "now"
        _log.error(
            "%s: %s", reason, f"another try {when}, then ever later" if repeats else f"another one starts {when}"
        )

    def _recovered(self) -> None:
        if self._told is not None:
            self._told = None
            _log.info("a worker serves again")
