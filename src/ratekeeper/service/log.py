"""The log of the service, on stderr, in one form: `2026-11-28T10:00:00Z INFO ratekeeper[123]: ...`."""

from __future__ import annotations

import logging
import time


def log_to_stderr() -> None:
    """Show the library's log, and the warnings of others. Times are UTC; the process's number tells workers apart."""
    formatter = logging.Formatter(
        "%(asctime)s %(levelname)s ratekeeper[%(process)d]: %(message)s", datefmt="%Y-%m-%dT%H:%M:%SZ"
    )
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("ratekeeper").setLevel(logging.INFO)
