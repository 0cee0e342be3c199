"""what_if(): the decisions that the recorded requests would have met by another policy. Nothing is enforced by it.

Another process computes it (see `what_if_process`), so the loop that decides does not wait for it.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ratekeeper.errors import PolicyError, RatekeeperError
from ratekeeper.limits import TICKS_PER_SECOND
from ratekeeper.service.recording.what_if_process import SECONDS, Job

if TYPE_CHECKING:
    from ratekeeper.service.core import Core


class WhatIfError(RatekeeperError):
    """A what-if that cannot be computed, and why. It is nobody's mistake in the edit."""


class BusyError(WhatIfError):
    """Another what-if is computed now, so this one can be asked for again soon."""


async def what_if(core: Core, edit: Mapping[str, Any]) -> dict[str, Any]:
    """Return the decisions on the recorded requests of all processes, by the policy in use and by an edited one.

    `edit` is {"policy": text of a policy file}, or {"rules": {name: {"capacity"?: number, "per_second"?: number}}}. The
    answer is JSON:

        span      seconds from the first request to the last one
        requests  their number; `recorded` says what they met: {"admitted", "delayed", "rejected"}
        rules     for each rule of both policies {"name", "known", "why"?, "before", "after"}, the last two as
                  {"admitted", "rejected", "delayed"}: the decisions of the rule alone, "admitted" at once.
                  A rule that is not known is left out of the computation, and `why` says why
        series    {"step", "times", "before", "after"}: in each step the requests that were admitted at once, rejected
                  or delayed, at most 300 steps
        toml      the text of the changed rules

    It is about the newest 20,000 requests at most. Raise `PolicyError` for a mistake in the edit. Raise `WhatIfError`
    if nothing is recorded, if one is computed already (one at a time in each process), or if it takes over a minute.
    """
    recording = core.recording
    if recording is None:
        raise WhatIfError("nothing is recorded: start the service without `--recording 0`")
    slots = core.metrics.slots
    if slots.descriptor < 0 or sys.platform == "win32":
        raise WhatIfError("what-if needs memory that another process can read: this system does not have it")
    if recording.reading.locked():
        raise BusyError("another what-if is being computed: ask again when it is done")
    offset = round(time.time() * TICKS_PER_SECOND) - recording.now()
    job = pickle.dumps(Job(core.loaded, dict(edit), offset))
    async with recording.reading:
        found = await _computed(job, slots.descriptor)
    if (mistakes := found.get("mistakes")) is not None:
        raise PolicyError(mistakes)
    return found


async def _computed(job: bytes, descriptor: int) -> dict[str, Any]:
    module = "ratekeeper.service.recording.what_if_process"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", module, str(descriptor), str(os.fstat(descriptor).st_size),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        pass_fds=[descriptor],
    )  # fmt: skip
    try:
        out, errors = await asyncio.wait_for(process.communicate(job), SECONDS)
    except TimeoutError:
        raise WhatIfError(
            f"what-if took more than {SECONDS} seconds: try a shorter policy, or record less, by `--recording SIZE`"
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        lines = errors.decode("utf-8", "replace").splitlines() or [f"its process ended with {process.returncode}"]
        raise WhatIfError(f"what-if failed: {lines[-1][:200]}")
    found: dict[str, Any] = json.loads(out)
    return found
