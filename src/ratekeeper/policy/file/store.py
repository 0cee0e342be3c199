"""Reads the table [store] of a policy file into a `StoreSpec`. Opens nothing."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from ratekeeper.decision import ON_ERROR
from ratekeeper.errors import MissingExtraError, StoreError
from ratekeeper.policy.reader import Table, kind
from ratekeeper.stores.redis.fallback import NODES_NEEDED
from ratekeeper.stores.redis.script import checked_prefix
from ratekeeper.stores.redis.urls import MAX_SECONDS, client_maker
from ratekeeper.stores.shared_memory import path_of
from ratekeeper.stores.spec import SHARED, StoreSpec

_LOCAL = ("max_keys",)
_ON_SERVER = ("prefix", "timeout", "on_error", "expected_nodes", "secret_file")
_KEYS = ("url", *_LOCAL, *_ON_SERVER)


def read_store(table: Table, local_rules: bool) -> StoreSpec | None:
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
        options["prefix"] = _prefix(table)
    if "secret_file" in table.values:
        options["secret_file"] = table.text("secret_file")
    if "on_error" in table.values:
        options["on_error"] = table.choice("on_error", {word: word for word in ON_ERROR}, "")
    try:
        choice = StoreSpec(table.text("url"), **options)
        _check_openable(choice)
    except StoreError as error:
        table.error(str(error), "url")
        return None
    _check(table, choice, local_rules)
    return choice


def _check(table: Table, choice: StoreSpec, local_rules: bool) -> None:
    """Report what does not go with the choice."""
    if choice.on_server and local_rules and choice.expected_nodes is None:
        table.error(NODES_NEEDED, "url")
    for key in _LOCAL if choice.on_server else _ON_SERVER:
        if key in table.values:
            table.error(f"{key!r} means nothing for a store that is {_kind(choice)}: take it out", key)


def _check_openable(choice: StoreSpec) -> None:
    """Raise `StoreError` if a store can never be opened, as far as this can be told without opening it."""
    if choice.on_server:
        with suppress(MissingExtraError):  # a file may be checked where no client library is installed
            client_maker(choice.url, choice.timeout, asynchronous=False)
    elif choice.url.startswith(SHARED):
        path = path_of(choice.url.removeprefix(SHARED))
        if path.is_dir():
            raise StoreError(f"{str(path)!r} is a folder: name a file in it, or a name without a slash")


def _kind(choice: StoreSpec) -> str:
    return "on a server" if choice.on_server else "on this host"


def _count(table: Table, key: str) -> int:
    value = table.values[key]
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 2**32:
        return value
    table.error(f"{key!r} must be a whole number from 1 to 2**32, not {kind(value)}", key)
    return 1


def _prefix(table: Table) -> str:
    prefix = table.text("prefix")
    try:
        return checked_prefix(prefix)
    except ValueError as error:
        table.error(str(error), "prefix")
        return ""


def _seconds(table: Table, key: str) -> float:
    value = table.values[key]
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < MAX_SECONDS:
        return value
    table.error(f"{key!r} must be seconds, more than 0 and less than an hour, not {kind(value)}", key)
    return 1.0
