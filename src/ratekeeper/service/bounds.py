"""The bounds of a server against its clients: bytes, requests, connections, time. This module knows no protocol."""

from __future__ import annotations

from dataclasses import dataclass

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

RESERVED = 64
"""Descriptors that connections may not take: they are for the store, the policy's file and the log."""


MOST_CONNECTIONS = 10_000
"""The most connections of one process, even if it may have more descriptors."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of a server. Times are in seconds.

    head_bytes, head_lines, target_bytes    of a request's header block, and of its target (path and query)
    pipelined     requests of one connection that wait for an answer
    connections   open connections of a process; further ones wait in the system's backlog
    head_time     from a request's first byte, or from the connection, to the end of its header block
    idle_time     that a connection is kept without a request
    pause, body_time    the longest pause within a request's body, and the longest time for all of it
    write_time    that a client may leave an answer unread
    calls         gRPC calls of one connection at a time
    message_bytes, unread_bytes    of a gRPC message, and of all half-sent ones of a connection. Envoy lets requests
                  pass beyond that, and takes 60 KiB of headers, which may be in two descriptors
    resets        gRPC calls of one connection that may be given up in a second
    call_idle_time    that a gRPC connection is kept without a call: a gateway's first call after a new one may be late
    ended_time    that the next answer may take when the client has ended its side of the connection
    last_time     that a connection stays open to bytes on their way, after a refusal or when the server stops
    """

    head_bytes: int = 65_536
    head_lines: int = 200
    target_bytes: int = 8_192
    pipelined: int = 32
    connections: int = MOST_CONNECTIONS
    head_time: float = 10
    idle_time: float = 15
    pause: float = 10
    body_time: float = 30
    write_time: float = 30
    calls: int = 256
    message_bytes: int = 131_072
    unread_bytes: int = 1_048_576
    resets: int = 1_000
    call_idle_time: float = 3600
    ended_time: float = 2
    last_time: float = 0.5


def connections_allowed(most: int = MOST_CONNECTIONS) -> int:
    """Return the number of connections that this process may have. Raise its limit of descriptors first, if allowed."""
    if resource is None:
        return min(most, 500)  # what a selector of Windows can watch
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most + RESERVED
    if soft != resource.RLIM_INFINITY and soft < wanted:
        ceiling = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (ceiling, hard))
        soft = ceiling
    return most if soft == resource.RLIM_INFINITY else max(1, min(most, soft - RESERVED))
