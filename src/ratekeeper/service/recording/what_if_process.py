"""The process that computes a what-if: `python -P -m ratekeeper.service.recording.what_if_process DESCRIPTOR BYTES`.

It reads a `Job` from its input, maps the memory of all processes, and prints the answer as JSON. It runs at low
priority, with bounded time and memory. Knows no core and no loop.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from ratekeeper.errors import PolicyError
from ratekeeper.policy.model import Policy
from ratekeeper.service.metrics.slots import Slots
from ratekeeper.service.recording.recorded import read_requests
from ratekeeper.service.recording.what_if_answer import answer
from ratekeeper.service.recording.what_if_edit import edited

SECONDS, CPU_SECONDS = 60, 30
"""The time and the processor time that it may take. On an idle machine it takes one or two seconds."""
MEMORY = 1 << 30
"""Its memory in bytes, beside the memory of the service."""


class Job(NamedTuple):
    """The policy in use, the edit, and what is added to a recorded time to make it ticks since 1970."""

    policy: Policy
    edit: Mapping[str, Any]
    offset: int


def compute(job: Job, slots: Slots) -> dict[str, Any]:
    """Return the answer to a what-if. Raise `PolicyError` for an edit that makes no policy."""
    after = edited(job.policy, job.edit)
    return answer(read_requests(slots), job.policy, after, slots.secret, job.offset)


def main() -> int:
    """Compute the job that is on the input."""
    descriptor, size = int(sys.argv[1]), int(sys.argv[2])
    _bound(size)
    job: Job = pickle.load(sys.stdin.buffer)
    try:
        print(json.dumps(compute(job, Slots.attach(descriptor))))
    except PolicyError as error:
        print(json.dumps({"mistakes": str(error)}))
    return 0


def _bound(size: int) -> None:
    import resource  # noqa: PLC0415  there is none on Windows

    os.nice(10)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))


if __name__ == "__main__":
    sys.exit(main())
