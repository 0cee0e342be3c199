"""The option `--limits NAME=package.module:function` of all commands that look limits up. It must not know a store."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ratekeeper.coroutines import is_async_function
from ratekeeper.errors import RatekeeperError
from ratekeeper.policy.lookups.lookup import LookupFunction, function_of, import_function

_PATIENCE = 5.0
"""Seconds to wait for a look-up at least: a person is less hurried than a request."""


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Declare the option. `args.limits` is a list of a name and the place of its function each."""
    parser.add_argument(
        "--limits",
        metavar="NAME=MODULE:FUNCTION",
        action="append",
        default=[],
        type=_name_and_place,
        help="the function that looks up the limits of rules with limit = 'app:NAME', such as plan=shop.plans:plan_of; "
        "may be repeated",
    )


def functions_of(limits: Iterable[tuple[str, str]]) -> dict[str, LookupFunction]:
    """Return the functions of the option for a command that asks once. An async one runs to its end.

    Raise `RatekeeperError` if one cannot be imported.
    """
    return {name: _patient(name, import_function(name, where)) for name, where in limits}


def _patient(name: str, given: object) -> LookupFunction:
    try:
        found = function_of(name, given)
    except TypeError as error:
        raise RatekeeperError(f"--limits {name}: {error}") from None
    function: Any = found.function

    def run(attributes: Mapping[str, str]) -> Any:
        return asyncio.run(function(attributes))

    return replace(
        found, function=run if is_async_function(function) else function, timeout=max(found.timeout, _PATIENCE)
    )


def _name_and_place(text: str) -> tuple[str, str]:
    name, equals, where = text.partition("=")
    if not (name and equals and where.count(":") == 1):
        raise argparse.ArgumentTypeError(
            f"write NAME=package.module:function, such as plan=shop.plans:plan_of, not {text!r}"
        )
    return name, where
