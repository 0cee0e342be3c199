"""The protocols that the service speaks, by name. Each one's library is imported only if a socket speaks it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from ratekeeper.errors import MissingExtraError
from ratekeeper.service.bounds import Bounds
from ratekeeper.service.core import Core
from ratekeeper.service.wire import Channel, MakeWire, Wire

WireOf: TypeAlias = Callable[[Core, Channel, Bounds], Wire]

PROTOCOLS = {"http": "HTTP", "grpc": "gRPC", "resp": "Redis clients (RESP)"}
"""The names, as the options of `ratekeeper serve` have them, and as people read them."""


def make_wire(kind: str, core: Core, bounds: Bounds) -> MakeWire:
    """Return the maker of a protocol's wires. Raise `MissingExtraError` if its library is not installed."""
    wire = _wire_of(kind)
    return partial(_made, wire, core, bounds)


def check_installed(kind: str) -> None:
    """Raise `MissingExtraError` if the library of a protocol is not installed."""
    _wire_of(kind)


def _made(wire: WireOf, core: Core, bounds: Bounds, channel: Channel) -> Wire:
    return wire(core, channel, bounds)


def _wire_of(kind: str) -> WireOf:
    try:
        if kind == "grpc":
            from ratekeeper.service.grpc.wire import GrpcWire  # noqa: PLC0415

            return GrpcWire
        if kind == "resp":
            from ratekeeper.service.resp.wire import RespWire  # noqa: PLC0415  an extra

            return RespWire
        from ratekeeper.service.http.wire import HttpWire  # noqa: PLC0415  an extra

        return HttpWire
    except ModuleNotFoundError:
        raise MissingExtraError("ratekeeper serve", "service") from None
