"""`ratekeeper usage`, `reset`, `grant`, `block` and `unblock`: see and change the buckets of one request; `reset-rule`.

The store is one that other processes share. A value that the caller did not type is never printed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from ratekeeper.cli.attributes import conditions, read_attributes
from ratekeeper.cli.limits import add_limits, functions_of
from ratekeeper.cli.parser import add_command, add_policy, whole_number
from ratekeeper.cli.support_service import run_at_service
from ratekeeper.cli.usage_table import Row, usage_table
from ratekeeper.errors import LimitError, RatekeeperError
from ratekeeper.policy.keeper import Keeper
from ratekeeper.policy.model import Policy
from ratekeeper.policy.reports import rule_of, usage_report
from ratekeeper.policy.support import chosen
from ratekeeper.rates import parse_rate
from ratekeeper.stores.base import Store
from ratekeeper.stores.shared_memory import SharedMemoryStore, path_of
from ratekeeper.stores.spec import MEMORY, SHARED, StoreSpec
from ratekeeper.usage import Usage

if TYPE_CHECKING:
    from ratekeeper.cli.parser import CommandParser, Commands

Change: TypeAlias = Callable[[Keeper, dict[str, str], argparse.Namespace], object]

_OF = "policy.toml --store shared:my-api"
_EXAMPLES = {
    "usage": [
        (f"usage {_OF} api_key=k-7 path=/api/search", "how full the buckets of this request are"),
        (
            "usage --service http://127.0.0.1:8080 --token-file token api_key=k-7 path=/api/search",
            "the same, asked of a service that runs",
        ),
    ],
    "reset": [(f"reset {_OF} api_key=k-7 path=/api/search", "full buckets for this caller")],
    "grant": [(f"grant {_OF} 25 api_key=k-7 path=/api/search --rule 'free keys'", "25 tokens more")],
    "block": [
        (f"block {_OF} --for 2h api_key=k-7 path=/api/search --rule 'free keys'", "refuse this caller for two hours"),
        (f"block {_OF} --until 2030-01-31T18:00Z api_key=k-7 path=/api/search --rule 'free keys'", "until a time"),
    ],
    "unblock": [(f"unblock {_OF} api_key=k-7 path=/api/search", "end this caller's block")],
    "reset-rule": [(f"reset-rule {_OF} 'free keys'", "full buckets for all callers of a rule")],
}
_NOTES = {
    "grant": "If several rules charge the request, say which one is meant by --rule.",
    "block": "If several rules charge the request, or one without a key, say which one is meant by --rule.",
}

_PATIENCE = 5.0
"""Seconds to wait for a server at least: a person is less hurried than a request."""

_NOT_SHARED = (
    "the store is this process's memory, where nobody else would see it: give --store shared:NAME or a server's URL, "
    "the store of the processes that serve"
)


def add_commands(commands: Commands) -> None:
    """Declare the commands."""
    _add(commands, "usage", "show how much of each limit a request's buckets have used", _look)
    _add(commands, "reset", "forget the debts and blocks of a request's buckets: they are full again", _reset)
    _add(commands, "grant", "give a request's bucket some tokens more, up to a full bucket", _grant, "tokens")
    blocking = _add(commands, "block", "refuse all requests of a bucket until a time", _block)
    _add(commands, "unblock", "end a block of a request's buckets; what they owe stays", _unblock)
    whole = add_command(
        commands, "reset-rule", "forget the debts and blocks of all buckets of a rule", _EXAMPLES["reset-rule"]
    )
    add_policy(whole)
    whole.add_argument("rule", metavar="NAME", help="the rule")
    _add_store(whole)
    whole.set_defaults(run=_run_reset_rule)
    end = blocking.add_mutually_exclusive_group(required=True)
    end.add_argument("--for", dest="length", type=_length, metavar="TIME", help="a length of time, such as 90s or 2h")
    end.add_argument("--until", type=_time, metavar="WHEN", help="a time with its zone, such as 2030-01-31T18:00Z")


def _add(commands: Commands, name: str, help_text: str, change: Change, *more: str) -> CommandParser:
    parser = add_command(commands, name, help_text, _EXAMPLES[name], _NOTES.get(name, ""))
    add_policy(parser)
    for argument in more:
        parser.add_argument(argument, metavar=argument.upper(), type=whole_number(0), help=f"how many {argument}")
    parser.add_argument("attributes", metavar="KEY=VALUE", nargs="+", help="an attribute, such as path=/api/search")
    place = parser.add_mutually_exclusive_group()
    _add_store(place)
    place.add_argument(
        "--service",
        metavar="URL",
        help="ask the admin API of this service; leave POLICY out, as the service has its own",
    )
    parser.without_policy = "--service"
    parser.add_argument("--token-file", metavar="FILE", help="the file with an admin's token, for --service")
    parser.add_argument("--rule", metavar="NAME", action="append", help="only the bucket of this rule; may be repeated")
    add_limits(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.set_defaults(run=lambda args: _run(args, change) if args.service is None else run_at_service(args, name))
    return parser


def _add_store(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--store",
        metavar="STORE",
        help="where the buckets are, in place of the policy's [store]: shared:NAME, or a URL",
    )


def _run_reset_rule(args: argparse.Namespace) -> int:
    """Reset all buckets of one rule."""
    policy = Policy.load(args.policy)
    # The functions are the application's; to reset all buckets, no limit needs to be known.
    unasked = {rule.lookup.name: _unknown for rule in policy.rules if rule.lookup is not None}
    with _opened(policy, args.store) as store:
        try:
            Keeper(policy, store, limits=unasked).reset_rule(args.rule)
        except ValueError as error:
            raise RatekeeperError(str(error)) from None
    print(f"all buckets of rule {args.rule!r} are full")
    return 0


def _unknown(attributes: Mapping[str, str]) -> None:
    raise RatekeeperError("a command knows no limit that the application looks up")


def _run(args: argparse.Namespace, change: Change) -> int:
    """Change the buckets, and print what they are then."""
    policy = Policy.load(args.policy)
    attributes = read_attributes(args.attributes, policy)
    with _opened(policy, args.store) as store:
        keeper = Keeper(policy, store, limits=functions_of(args.limits))
        try:
            change(keeper, attributes, args)
        except ValueError as error:
            raise RatekeeperError(str(error)) from None
        usages = keeper.usage(attributes)
        if args.rule:
            usages = [usage for usage in usages if rule_of(usage.name, keeper.policy).name in args.rule]
    if args.json:
        print(json.dumps([usage_report(usage, policy) for usage in usages], indent=2))
        return 0
    exempt_by = keeper.compiled.exempting(keeper.compiled.seen(attributes))
    if exempt_by is not None:
        print(f"exempt, as are all requests with {conditions(exempt_by)}")
    elif not usages:
        print("no rule charges this request")
    else:
        print("\n".join(_table(usages, keeper, attributes)))
    return 0


@contextmanager
def _opened(policy: Policy, url: str | None) -> Iterator[Store]:
    """Open the store that is shared. A shared table must exist: a new one would have another name by mistake."""
    spec = policy.store or StoreSpec(MEMORY)
    if url is not None:
        spec = replace(spec, url=url)
    if spec.url == MEMORY:
        raise RatekeeperError(_NOT_SHARED)
    if not spec.on_server:
        with SharedMemoryStore.open(path_of(spec.url.removeprefix(SHARED))) as table:
            yield table
        return
    patient = replace(spec, on_error="raise", expected_nodes=1, timeout=max(spec.timeout, _PATIENCE))
    store: Any = patient.open()
    with store:
        yield store


def _look(keeper: Keeper, attributes: dict[str, str], args: argparse.Namespace) -> None:
    chosen(keeper.compiled, attributes, args.rule)  # a rule that does not charge the request is an error


def _reset(keeper: Keeper, attributes: dict[str, str], args: argparse.Namespace) -> None:
    keeper.reset(attributes, args.rule)


def _grant(keeper: Keeper, attributes: dict[str, str], args: argparse.Namespace) -> None:
    keeper.grant(attributes, args.tokens, args.rule)


def _block(keeper: Keeper, attributes: dict[str, str], args: argparse.Namespace) -> None:
    keeper.block(attributes, time.time() + args.length if args.until is None else args.until, args.rule)


def _unblock(keeper: Keeper, attributes: dict[str, str], args: argparse.Namespace) -> None:
    keeper.unblock(attributes, args.rule)


def _table(usages: Sequence[Usage], keeper: Keeper, attributes: dict[str, str]) -> list[str]:
    """Return the lines of a table, and notes on the limits that refuse for longer than by use."""
    lines = usage_table(
        Row(
            _title(usage, keeper, attributes), usage.used, usage.limit.max_cost, usage.remaining, usage.retry_after,
            usage.reset_after,
        )
        for usage in usages
    )  # fmt: skip
    for usage in usages:
        own = usage.limit
        if not own.refuses_all and not own.queues and usage.retry_after > 1 / own.rate:
            note = "refuses for longer than a token takes: blocked, or requests wait for their turns"
            lines.append(f"{usage.name}: {note}")
    return lines


def _title(usage: Usage, keeper: Keeper, attributes: dict[str, str]) -> str:
    """Return a limit's label, and what makes its bucket another than it seems to be."""
    rule = rule_of(usage.name, keeper.policy)
    lacking = [f"all without {part}" for part in rule.key if part not in keeper.compiled.seen(attributes)]
    notes = [*lacking, *(["shadow"] if rule.shadow else [])]
    return f"{usage.name} ({', '.join(notes)})" if notes else usage.name


def _length(text: str) -> float:
    try:
        return float(1 / parse_rate(f"1/{text.strip()}"))
    except LimitError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a length of time, such as 90s, 2h or 7days") from None


def _time(text: str) -> datetime:
    try:
        until = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time, such as 2030-01-31T18:00Z") from None
    if until.utcoffset() is None:
        read = until.isoformat()  # a date alone cannot have a zone
        raise argparse.ArgumentTypeError(f"{text!r} has no zone: write {read}Z for UTC, or {read}+01:00")
    return until
