"""Make the core of a process: by its policy, its store, and the functions that look limits up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

from ratekeeper.http.header_styles import DEFAULT, HeaderStyles
from ratekeeper.policy.lookups.lookup import import_function
from ratekeeper.policy.model import Policy
from ratekeeper.service.access_log import AccessLog, AccessLogSpec
from ratekeeper.service.core import Core
from ratekeeper.service.metrics.counters import Metrics
from ratekeeper.stores.base import AsyncStore, Store

OpenStore: TypeAlias = Callable[[], Store | AsyncStore]


MakeCore: TypeAlias = Callable[[Policy, OpenStore, Metrics], Core]


def make_core(
    policy: Policy,
    open_store: OpenStore,
    metrics: Metrics | None = None,
    headers: HeaderStyles = DEFAULT,
    limits: Mapping[str, str] = MappingProxyType({}),
    password: bytes | None = None,
    access_log: AccessLogSpec | None = None,
) -> Core:
    """Return the core of a process. `open_store` should lead every worker to the same buckets.

    `limits` names functions that look limits up, as "package.module:function". Each process imports them by itself.
    `password` is that of `Core`. Raise `RatekeeperError` for a function that cannot be imported.
    """
    log = None if access_log is None else AccessLog(access_log)
    functions = {name: import_function(name, where) for name, where in limits.items()}
    return Core(
        policy, open_store(), headers=headers, limits=functions, password=password, metrics=metrics, access_log=log
    )
