"""The seam between a connection and a protocol: bytes in, bytes out. Knows no socket, no event loop and no protocol.

A `Wire` is one connection's protocol. It parses bytes, asks the core, and writes the answers to its `Channel`. It owns
no socket, reads no clock and starts no timer: tests feed it bytes. HTTP/1.1, gRPC and RESP are each a wire.

An answer that is ready at once is written within `receive`, without a task. All answers to the bytes of one `receive`
should be written by one `write`. Only an answer that must wait, for its turn or for a server, is a coroutine that the
channel runs.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from math import inf
from typing import Any, Protocol, TypeAlias


class Channel(Protocol):
    """The connection, as its wire sees it."""

    @property
    def peer(self) -> str | None:
        """The address at the other end; None on a unix socket."""
        ...

    @property
    def full(self) -> bool:
        """Whether the client leaves many bytes unread. Bytes that it can do without should not be written then."""
        ...

    def now(self) -> float:
        """Return the time of the event loop, in seconds."""
        ...

    def write(self, data: bytes, /) -> None:
        """Send bytes. Bytes that are sent after the end are dropped."""

    def run(self, answering: Coroutine[Any, Any, None]) -> None:
        """Run the rest of an answer that must wait. It is cancelled when the connection is lost."""

    def pause(self) -> None:
        """Read no more, until `resume`: too many answers are due."""

    def resume(self) -> None:
        """Read again."""

    def close(self) -> None:
        """Close the connection when everything that was written has left. `receive` is not called again.

        The client may still send. To close at once would reset the connection, and the client would lose the answer. So
        the connection ends its output, drops the input, and waits for the client's end for a moment.
        """

    def abort(self) -> None:
        """Close the connection now."""


class Wire(Protocol):
    """One connection's protocol. Its methods never raise for anything that a client can send."""

    @property
    def deadline(self) -> float:
        """The time at which `expire` is due, in the channel's time; `NEVER` for none. An attribute will do."""
        ...

    @property
    def unanswered(self) -> int:
        """The number of questions that were read to their end and have no answer yet."""
        ...

    @property
    def idle(self) -> bool:
        """Whether the client has no answer coming: none is due, and none goes on, as a stream does."""
        ...

    def receive(self, data: bytes) -> None:
        """Take bytes of the client."""

    def expire(self) -> None:
        """End a connection whose deadline has passed: the client was too slow, or idle for too long."""

    def finish(self) -> None:
        """Close after the answers that are due, as the server stops. If none is due, wait `last_time` for one."""

    def cut_off(self) -> None:
        """Tell the client, if the protocol can, that its questions get no answer, and close."""

    def lost(self) -> None:
        """Forget everything: the connection is gone. Answers that wait are cancelled by the channel."""


MakeWire: TypeAlias = Callable[[Channel], Wire]
"""Makes the wire of a new connection."""

NEVER = inf
"""The deadline of a wire that waits for nothing of its client."""
