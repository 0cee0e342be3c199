"""`ratekeeper serve`: the arguments, and the text that a person sees when it starts."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ratekeeper.cli.parser import add_policy
from ratekeeper.errors import MissingExtraError, RatekeeperError
from ratekeeper.http.attributes import ALWAYS_KNOWN
from ratekeeper.http.header_styles import DEFAULT, checked_styles
from ratekeeper.policy.model import Policy
from ratekeeper.policy.sources import HeaderSource
from ratekeeper.service.access_log import AccessLogSpec
from ratekeeper.service.envoy.model import EnvoyConfig
from ratekeeper.service.listeners import Address
from ratekeeper.service.make_core import OpenStore, make_core
from ratekeeper.service.protocols import PROTOCOLS
from ratekeeper.service.serve import Serving, serve
from ratekeeper.stores.shared_memory import SharedMemoryStore
from ratekeeper.stores.spec import MEMORY, StoreSpec

_HELLO = """\
ratekeeper serves {policy} ({rules}) at {at}{notes}
Try:
  curl -i {header}-H 'X-Forwarded-Method: GET' -H 'X-Forwarded-Uri: /api/search' {url}/check
  curl -s -d '{{"attributes": {{{attribute}"path": "/api/search"}}}}' {url}/v1/check
  curl -s {url}/healthz
Stop with Ctrl-C."""


EXAMPLES = (
    ("serve policy.toml", "on http://127.0.0.1:8080, from one process"),
    ("serve policy.toml --host 0.0.0.0 --port 9000 --workers 4", "for other hosts, from four processes"),
    ("serve policy.toml --store redis://10.0.0.5:6379/0", "one limit for all hosts of a fleet"),
)
NOTES = """\
signals:
  SIGTERM, SIGINT (Ctrl-C)  stop: answer the requests that wait, as far as the grace allows; a second one ends at once
  SIGHUP                    read the policy file now"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_policy(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on for HTTP (default: only this machine)"
    )
    parser.add_argument(
        "--port",
        type=_port,
        default=8080,
        metavar="PORT",
        help="port to listen on for HTTP, or unix:PATH, or systemd:NAME; 0 takes a free port (default: 8080)",
    )
    for name, spoken in PROTOCOLS.items():
        if name != "http":
            parser.add_argument(
                f"--{name}",
                type=_address,
                metavar="ADDRESS",
                help=f"listen for {spoken} too, on HOST:PORT, unix:PATH or systemd:NAME; port 0 takes a free one",
            )
    parser.add_argument(
        "--resp-password-file",
        type=_password,
        metavar="FILE",
        help="the file with the password that Redis clients must state, by AUTH or HELLO (default: none)",
    )
    parser.add_argument(
        "--envoy-config",
        metavar="DIR",
        help="answer gRPC by envoyproxy/ratelimit's files in this folder, in place of the policy",
    )
    parser.add_argument("--workers", type=_count, default=1, help="processes that serve (default: 1)")
    parser.add_argument(
        "--grace",
        type=_seconds,
        default=10.0,
        metavar="SECONDS",
        help="how long waiting requests may still wait for their turn once a signal says to stop (default: 10)",
    )
    parser.add_argument(
        "--no-reload", action="store_true", help="take a changed policy file only on SIGHUP, not by itself"
    )
    parser.add_argument(
        "--limits",
        metavar="NAME=MODULE:FUNCTION",
        action="append",
        default=[],
        type=_limits,
        help="the function that looks up the limits of rules with limit = 'app:NAME', such as plan=shop.plans:plan_of; "
        "several are given one by one",
    )
    parser.add_argument(
        "--access-log",
        metavar="FILE",
        help="append a line of JSON to this file for a share of the decisions, with keys as hashes; - is stdout",
    )
    parser.add_argument(
        "--access-log-sample",
        type=_share,
        default=0.01,
        metavar="SHARE",
        help="the share of decisions in the access log, more than 0 and at most 1 (default: 0.01)",
    )
    parser.add_argument(
        "--store",
        metavar="STORE",
        help="where buckets live, in place of the policy's [store]: memory (default for one worker), shared:NAME, a "
        "table in /dev/shm (default for several workers: a new one, removed when they stop), or a server's URL, "
        "redis://, rediss://, valkey://, unix://, redis+cluster:// or redis+sentinel://",
    )

    parser.add_argument(
        "--headers",
        type=_styles,
        default=DEFAULT,
        metavar="STYLES",
        help="the headers about limits: one or more of ietf (the default), ietf-06, x-epoch, x-delta and "
        "retry-after-date, such as ietf,x-epoch",
    )


def run(args: argparse.Namespace) -> int:
    """Serve until stopped."""
    policy = Policy.load(args.policy)
    log = None if args.access_log is None else AccessLogSpec(args.access_log, args.access_log_sample)
    if log is not None:
        log.check()
    with _store(policy, args) as (open_store, place):

        def announce(addresses: Mapping[str, Address]) -> None:
            print(_hello(policy, args, place, addresses), flush=True)

        serving = Serving(
            policy,
            open_store,
            args.policy,
            watched=not args.no_reload,
            workers=args.workers,
            grace=args.grace,
            envoy=_envoy(args),
            make=partial(
                make_core,
                headers=args.headers,
                limits=dict(args.limits),
                password=args.resp_password_file,
                access_log=log,
            ),
        )
        return serve(serving, _addresses(args), announce)


def _envoy(args: argparse.Namespace) -> EnvoyConfig | None:
    """Return the limits of the folder that the command line names."""
    if args.envoy_config is None:
        return None
    if args.grpc is None:
        raise RatekeeperError("--envoy-config is for Envoy, which asks by gRPC: add --grpc HOST:PORT")
    try:
        from ratekeeper.service.envoy.load import load_envoy_config  # noqa: PLC0415  an extra
    except ModuleNotFoundError:
        raise MissingExtraError("--envoy-config", "service") from None
    return load_envoy_config(args.envoy_config)


def _addresses(args: argparse.Namespace) -> dict[str, Address]:
    """Return the address to listen on for each protocol."""
    own = args.port if isinstance(args.port, Address) else Address(args.host, args.port)
    others = {name: getattr(args, name) for name in PROTOCOLS if name != "http"}
    return {"http": own, **{name: address for name, address in others.items() if address is not None}}


class _Opened(NamedTuple):
    """The function by which a worker opens the store, and the line that says where a shared one is."""

    open_store: OpenStore
    place: str = ""


@contextmanager
def _store(policy: Policy, args: argparse.Namespace) -> Iterator[_Opened]:
    """Choose the store that all workers share, and check that it can be opened."""
    choice = policy.store
    if args.store is not None:
        choice = StoreSpec(args.store) if choice is None else replace(choice, url=args.store)
    if choice is None and args.workers > 1:
        with SharedMemoryStore.temporary("ratekeeper-serve-") as table:
            try:
                yield _Opened(partial(SharedMemoryStore.open, table.path), f"Table: {table.path}")
            finally:
                table.unlink()
        return
    choice = choice or StoreSpec(MEMORY)
    if choice.url == MEMORY and args.workers > 1:
        raise RatekeeperError(
            f"a store in memory with --workers {args.workers}: each worker would have its own limits, and so admit "
            f"{args.workers} times as much; leave it out, or use shared:NAME"
        )
    if choice.expected_nodes is not None:  # each worker counts as a separate node
        choice = replace(choice, expected_nodes=choice.expected_nodes * args.workers)
    opened = choice.open()
    if isinstance(opened, SharedMemoryStore):
        yield _Opened(partial(SharedMemoryStore.open, opened.path), f"Table: {opened.path}")
    else:
        yield _Opened(choice.open_async, f"Store: {choice.shown}" if choice.on_server else "")


def _hello(policy: Policy, args: argparse.Namespace, place: str, addresses: Mapping[str, Address]) -> str:
    """Return the text with requests to try, with the first header that the policy reads."""
    named = [(name, source.name) for name, source in policy.attributes.items() if isinstance(source, HeaderSource)]
    name, header = named[0] if named else ("", "")
    own = addresses["http"]
    url = f"http://{own}" if own.path is None else f"--unix-socket {shlex.quote(own.path)} http://localhost"
    notes = [f"{PROTOCOLS[kind]} at {address}" for kind, address in addresses.items() if kind != "http"]
    notes += [f"Limits of Envoy: {args.envoy_config}"] if args.envoy_config else []
    notes += [place] if place else []
    if lacking := policy.lacking(ALWAYS_KNOWN):
        notes.append(f"Gateways cannot ask /check: nothing in their requests tells {lacking[0]!r}; see [attributes]")
    if not args.no_reload:
        notes.append("Policy changes load automatically; an invalid file is ignored and logged")
    return _HELLO.format(
        policy=args.policy,
        rules=f"{len(policy.rules)} rule{'s' * (len(policy.rules) > 1)}",
        at=url if own.path is None else own,
        url=url,
        notes="\n".join([f" from {args.workers} processes" if args.workers > 1 else "", *notes]),
        header=f"-H '{header}: k-1' " if header else "",
        attribute=f'"{name}": "k-1", ' if name else "",
    )


def _styles(text: str) -> tuple[str, ...]:
    styles: Any = tuple(style.strip() for style in text.split(","))
    try:
        checked_styles(styles)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return styles  # type: ignore[no-any-return]


def _limits(text: str) -> tuple[str, str]:
    name, equals, where = text.partition("=")
    if not (name and equals and where.count(":") == 1):
        raise argparse.ArgumentTypeError(
            f"write NAME=package.module:function, such as plan=shop.plans:plan_of, not {text!r}"
        )
    return name, where


def _address(text: str) -> Address:
    try:
        return Address.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _port(text: str) -> int | Address:
    if text.startswith(("unix:", "systemd:")):
        return _address(text)
    if not text.isascii() or not text.isdigit() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"a port is a number from 0 to 65535, unix:PATH or systemd:NAME, not {text!r}")
    return int(text)


def _password(file: str) -> bytes:
    try:
        password = Path(file).read_bytes().strip(b"\r\n")
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot read {file!r}: {error.strerror}") from None
    if not password or b"\n" in password:
        raise argparse.ArgumentTypeError(f"{file!r} must have the password in one line, and nothing else")
    return password


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,3})?", text):
        raise argparse.ArgumentTypeError(f"must be seconds, 0 or more, such as 10 or 0.5, not {text!r}")
    return float(text)


def _share(text: str) -> float:
    if not re.fullmatch(r"[01](\.[0-9]{1,9})?", text) or not 0 < float(text) <= 1:
        raise argparse.ArgumentTypeError(f"must be a share, more than 0 and at most 1, such as 0.01, not {text!r}")
    return float(text)


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,3}", text) or int(text) > 1000:
        raise argparse.ArgumentTypeError(f"must be from 1 to 1000 processes, not {text!r}")
    return int(text)
