"""The table [store] of a policy file -> a `StoreChoice`. Opens nothing."""

from __future__ import annotations

from typing import Any

from ratekeeper.decision import ON_ERROR
from ratekeeper.errors import StoreError
from ratekeeper.policy.reader import Table, kind
from ratekeeper.stores.choice import StoreChoice
from ratekeeper.stores.redis.fallback import NODES_NEEDED

_LOCAL = ("max_keys",)
_ON_SERVER = ("prefix", "timeout", "on_error", "expected_nodes")
_KEYS = ("url", *_LOCAL, *_ON_SERVER)


def read_store(table: Table, local_rules: bool) -> StoreChoice | None:
    """Read the table; None if there is an error, which is in the report. `local_rules`: a rule has on_error "local"."""
    table.check_keys(_KEYS)
    if table.lacks("url", "url = 'redis://127.0.0.1:6379/0'", _KEYS) or not table.text("url"):
        return None
    options: dict[str, Any] = {}
    for key in ("max_keys", "expected_nodes"):
        if key in table.values:
            options[key] = _count(table, key)
    if "timeout" in table.values:
        options["timeout"] = _seconds(table, "timeout")
    if "prefix" in table.values:
        options["prefix"] = table.text("prefix")
    if "on_error" in table.values:
        options["on_error"] = table.choice("on_error", {word: word for word in ON_ERROR}, "")
    try:
        choice = StoreChoice(table.text("url"), **options)
    except StoreError as error:
        table.error(str(error), "url")
        return None
    _check(table, choice, local_rules)
    return choice


def _check(table: Table, choice: StoreChoice, local_rules: bool) -> None:
    """Report what does not go with the choice."""
    if choice.on_server and local_rules and choice.expected_nodes is None:
        table.error(NODES_NEEDED, "url")
    for key in _LOCAL if choice.on_server else _ON_SERVER:
        if key in table.values:
            table.error(f"{key!r} means nothing for a store that is {_kind(choice)}: take it out", key)


def _kind(choice: StoreChoice) -> str:
    return "on a server" if choice.on_server else "on this host"


def _count(table: Table, key: str) -> int:
    value = table.values[key]
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 2**32:
        return value
    table.error(f"{key!r} must be a whole number from 1 to 2**32, not {kind(value)}", key)
    return 1


def _seconds(table: Table, key: str) -> float:
    value = table.values[key]
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 3600:
        return value
    table.error(f"{key!r} must be seconds, more than 0, not {kind(value)}", key)
    return 1.0
