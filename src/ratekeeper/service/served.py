"""The seam between the server and the application that it serves. All that the one knows of the other is here."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from functools import reduce
from importlib import import_module
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias

from ratekeeper.errors import RatekeeperError
from ratekeeper.frameworks.asgi import Scope, Send
from ratekeeper.frameworks.asgi_inbox import Receive
from ratekeeper.http.header_styles import DEFAULT, HeaderStyles
from ratekeeper.policy.model import Policy
from ratekeeper.service.app import Service
from ratekeeper.stores.base import AsyncStore, Store

OpenStore: TypeAlias = Callable[[], Store | AsyncStore]


class Served(Protocol):
    """An ASGI application of one policy, which can be replaced."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""

    def replace(self, policy: Policy) -> None:
        """Decide by another policy from the next request on. Raise `PolicyError`, and change nothing, if it may not."""

    async def close(self) -> None:
        """Close the store. No request comes after this."""


MakeService: TypeAlias = Callable[[Policy, OpenStore], Served]


def make_service(
    policy: Policy,
    open_store: OpenStore,
    headers: HeaderStyles = DEFAULT,
    limits: Mapping[str, str] = MappingProxyType({}),
) -> Served:
    """Make the application of a process. `open_store` should lead every worker to the same buckets.

    `limits` names functions that look limits up, as "package.module:function". Each process imports them by itself.
    Raise `RatekeeperError` for one that cannot be imported.
    """
    functions = {name: _imported(name, where) for name, where in limits.items()}
    return Service(policy, open_store(), headers=headers, limits=functions)


def _imported(name: str, where: str) -> Any:
    module, colon, function = where.partition(":")
    if not (module and colon and function):
        raise RatekeeperError(f"--limits {name}={where}: write NAME=package.module:function")
    if os.getcwd() not in sys.path:  # as for `python -m`
        sys.path.insert(0, os.getcwd())
    try:
        return reduce(getattr, function.split("."), import_module(module))
    except (ImportError, AttributeError) as error:
        raise RatekeeperError(f"--limits {name}={where}: {error}") from None
