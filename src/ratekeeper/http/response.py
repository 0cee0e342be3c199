"""Response: an HTTP response as every framework can send it. A value."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Response(NamedTuple):
    """A response. Its length is the sender's to tell."""

    status: int
    headers: Iterable[tuple[str, str]] = ()
    body: bytes = b""
