"""`read_secret`: the secret in a file of one line, such as a password. It does not know what the secret is for."""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path


def read_secret(file: str | PathLike[str]) -> bytes:
    """Return the secret. Raise ValueError, which says what is wrong and shows none of the content."""
    shown = repr(fspath(file))
    try:
        secret = Path(file).read_bytes().strip(b"\r\n")
    except OSError as error:
        raise ValueError(f"cannot read {shown}: {error.strerror or error}") from None
    if not secret or b"\n" in secret:
        raise ValueError(f"{shown} must have the secret in one line, and nothing else")
    return secret
