"""OperatorOptions: what an operator may see and do while the service runs. Knows no route and no page."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from ratekeeper.errors import why_unread

RECORDING_BYTES = 16 << 20
"""The size of a recording unless it is chosen."""


@dataclass(frozen=True, slots=True)
class OperatorOptions:
    """The options of the page, the admin API and the recording.

    page             whether the page is served, at `/`
    recording_bytes  the size of the recording of the last minutes, in each process; 0 for none
    tokens           the SHA-256 of each admin's token, by the admin's name; the admin API is off without one
    demo             whether the service makes demo traffic by itself
    """

    page: bool = True
    recording_bytes: int = RECORDING_BYTES
    tokens: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    demo: bool = False


NOTHING = OperatorOptions(page=False, recording_bytes=0)
"""The options by which an operator sees nothing."""


def token_digest(token: str) -> bytes:
    """Return the digest by which the service knows an admin's token."""
    return sha256(token.encode("utf-8", "surrogatepass")).digest()


def read_tokens(file: str) -> dict[str, bytes]:
    """Return the digest of each admin's token, by name, from a file of lines NAME TOKEN.

    Raise `argparse.ArgumentTypeError` for a file with anything else, or a token that can be guessed.
    """
    try:
        lines = Path(file).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(f"cannot read {file!r}: {why_unread(error)}") from None
    tokens: dict[str, bytes] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        found = re.fullmatch(r"([\w.@-]{1,64})[ \t]+([!-~]{16,512})[ \t]*", line)
        if found is None or found[1] in tokens:
            raise argparse.ArgumentTypeError(
                f"{file}, line {number}: must be a name that no other line has, and a token of 16 or more "
                "printed ASCII characters, such as `openssl rand -hex 32` makes"
            )
        tokens[found[1]] = token_digest(found[2])
    if not tokens:
        raise argparse.ArgumentTypeError(f"{file!r} has no line NAME TOKEN")
    return tokens
