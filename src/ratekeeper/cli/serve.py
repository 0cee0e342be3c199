"""`ratekeeper serve`: from arguments to a service, and the text that a person sees when it starts."""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import shlex
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from ratekeeper.cli.serve_arguments import add_arguments
from ratekeeper.cli.streams import drop_output
from ratekeeper.errors import MissingExtraError, RatekeeperError
from ratekeeper.http.attributes import ALWAYS_KNOWN
from ratekeeper.policy.model import Policy
from ratekeeper.policy.sources import HeaderSource
from ratekeeper.service.access_log import SHARE, AccessLogSpec
from ratekeeper.service.envoy.model import EnvoyConfig
from ratekeeper.service.listeners import Address
from ratekeeper.service.make_core import OpenStore, make_core
from ratekeeper.service.operator_options import OperatorOptions, token_digest
from ratekeeper.service.protocols import PROTOCOLS
from ratekeeper.service.serve import Serving, serve
from ratekeeper.service.tls import TlsFiles
from ratekeeper.stores.shared_memory import SharedMemoryStore
from ratekeeper.stores.spec import MEMORY, StoreSpec

__all__ = ["EXAMPLES", "NOTES", "add_arguments", "run"]

_log = logging.getLogger("ratekeeper")

_HELLO = """\
{page}ratekeeper serves {limits} at {at}{notes}
Try:
{questions}  curl -s {url}/healthz
Stop with Ctrl-C."""

_QUESTIONS = """\
  curl -i {header}-H 'X-Forwarded-Method: GET' -H 'X-Forwarded-Uri: /api/search' {url}/check
  curl -s -d '{{"attributes": {{{attribute}"path": "/api/search"}}}}' {url}/v1/check
"""

_NO_POLICY = """
[[rules]]
name = "no policy is loaded"
deny = true
message = "no policy is loaded: start the service with one, by 'ratekeeper serve POLICY --envoy-config DIR'"
"""

EXAMPLES = (
    ("serve policy.toml", "on http://127.0.0.1:8080, from one process"),
    ("serve policy.toml --host 0.0.0.0 --port 9000 --workers 4", "for other hosts, from four processes"),
    ("serve policy.toml --store redis://10.0.0.5:6379/0", "one limit for all hosts of a fleet"),
    ("serve policy.toml --demo", "with made-up traffic and the page, to see how limits work"),
)
NOTES = """\
signals:
  SIGTERM, SIGINT (Ctrl-C)  stop: answer the requests that wait, as far as the grace allows; a second one ends at once
  SIGHUP                    read the policy file now"""


def run(args: argparse.Namespace) -> int:
    """Serve until stopped."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it would kill a service that starts, and reads the file now anyway
    policy = _policy(args)
    log = _access_log(args)
    if args.resp_password_file is not None and args.resp is None:
        raise RatekeeperError("--resp-password-file is for Redis clients: add --resp HOST:PORT")
    token = _demo_token(policy, args)
    with _store(policy, args) as (open_store, place):

        def announce(addresses: Mapping[str, Address]) -> None:
            try:
                print(_hello(policy, args, place, addresses, token), flush=True)
            except OSError as error:  # nobody reads it, or the disk is full: the service is there all the same
                _log.warning("cannot print where the service is: %s", error)
                drop_output()

        serving = Serving(
            policy,
            open_store,
            args.policy,
            watched=not args.no_reload,
            workers=args.workers,
            grace=args.grace,
            envoy=_envoy(args),
            tls=_tls(args),
            otlp=args.otlp,
            operator=_operator(args, token),
            make=partial(
                make_core,
                headers=args.headers,
                limits=dict(args.limits),
                password=args.resp_password_file,
                access_log=log,
            ),
        )
        return serve(serving, _addresses(args), announce)


def _policy(args: argparse.Namespace) -> Policy:
    """Return the policy that the command line names; one that denies all if only Envoy is to be answered."""
    if args.policy is not None:
        return Policy.load(args.policy)
    if args.envoy_config is None or args.demo:
        raise RatekeeperError("name the policy file: ratekeeper serve POLICY")
    return Policy.parse(_NO_POLICY, "no policy")


def _operator(args: argparse.Namespace, token: str | None) -> OperatorOptions:
    """Return what an operator may see and do. `token` is that of an admin for this run."""
    tokens = args.admin_tokens if token is None else {"demo": token_digest(token)}
    return OperatorOptions(not args.no_page, args.recording, tokens, args.demo)


def _demo_token(policy: Policy, args: argparse.Namespace) -> str | None:
    """Return a new admin's token for a demo that has none; None if it needs none.

    Raise `RatekeeperError` for a demo that others can reach, or whose traffic would use up the limits of real callers.
    """
    if not args.demo:
        return None
    for address in _addresses(args).values():
        if not address.is_local:
            raise RatekeeperError(f"--demo is for this machine alone, and {address} is for others: use 127.0.0.1")
    spec = _spec(policy, args)
    if spec is not None and spec.url != MEMORY:
        without = "run make run DEMO=" if "MAKELEVEL" in os.environ else "leave --demo out"
        raise RatekeeperError(
            f"the made-up traffic of --demo would use up the limits of real callers in {spec.shown}: add --store "
            f"memory, or {without}"
        )
    shown = not args.no_page and isinstance(args.port, int)  # else no URL of the page is printed, which would have it
    return secrets.token_urlsafe(32) if shown and not args.admin_tokens else None


def _access_log(args: argparse.Namespace) -> AccessLogSpec | None:
    """Return where the access log is, once it can be written there."""
    if args.access_log is None:
        if args.access_log_sample is not None:
            raise RatekeeperError("--access-log-sample is the share of an access log: add --access-log FILE")
        return None
    log = AccessLogSpec(args.access_log, args.access_log_sample or SHARE)
    log.check()
    return log


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


def _tls(args: argparse.Namespace) -> TlsFiles | None:
    """Return the files for TLS that the command line names."""
    if args.tls_cert is None and args.tls_key is None and args.tls_client_ca is None:
        return None
    if args.tls_cert is None or args.tls_key is None:
        raise RatekeeperError("TLS needs a certificate and its key: give both --tls-cert and --tls-key")
    return TlsFiles(args.tls_cert, args.tls_key, args.tls_client_ca)


def _addresses(args: argparse.Namespace) -> dict[str, Address]:
    """Return the address to listen on for each protocol."""
    own = args.port if isinstance(args.port, Address) else Address(args.host, args.port)
    others = {name: getattr(args, name) for name in PROTOCOLS if name != "http"}
    return {"http": own, **{name: address for name, address in others.items() if address is not None}}


class _Opened(NamedTuple):
    """The function by which a worker opens the store, and the line that says where a shared one is."""

    open_store: OpenStore
    place: str = ""


def _spec(policy: Policy, args: argparse.Namespace) -> StoreSpec | None:
    """Return the store that the policy or the command line names."""
    if args.store is None:
        return policy.store
    return StoreSpec(args.store) if policy.store is None else replace(policy.store, url=args.store)


@contextmanager
def _store(policy: Policy, args: argparse.Namespace) -> Iterator[_Opened]:
    """Choose the store that all workers share, and check that it can be opened."""
    choice = _spec(policy, args)
    if choice is None and args.workers > 1:
        with SharedMemoryStore.temporary("ratekeeper-serve-") as table:
            try:
                yield _Opened(partial(SharedMemoryStore.open, table.path), f"Table: {table.path}")
            finally:
                table.unlink()
        return
    choice = (choice or StoreSpec(MEMORY)).settled()  # a worker that starts later has the same secret
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


def _hello(
    policy: Policy, args: argparse.Namespace, place: str, addresses: Mapping[str, Address], token: str | None
) -> str:
    """Return the text with requests to try, with the first header that the policy reads."""
    named = [(name, source.name) for name, source in policy.attributes.items() if isinstance(source, HeaderSource)]
    name, header = named[0] if named else ("", "")
    own = addresses["http"]
    scheme = "http" if args.tls_cert is None else "https"
    url = f"{scheme}://{own}" if own.path is None else f"--unix-socket {shlex.quote(own.path)} http://localhost"
    notes = [f"{PROTOCOLS[kind]} at {address}" for kind, address in addresses.items() if kind != "http"]
    if args.policy is None:
        limits, questions = f"Envoy by {args.envoy_config}", ""
        notes.append("No policy is loaded: /check and /v1/check deny every request")
    else:
        limits = f"{policy.source} ({len(policy.rules)} rule{'s' * (len(policy.rules) > 1)})"
        questions = _QUESTIONS.format(
            url=url, header=f"-H '{header}: k-1' " if header else "", attribute=f'"{name}": "k-1", ' if name else ""
        )
        notes += [f"Limits of Envoy: {args.envoy_config}"] if args.envoy_config else []
    notes += [place] if place else []
    if lacking := policy.lacking(ALWAYS_KNOWN):
        notes.append(f"Gateways cannot ask /check: nothing in their requests tells {lacking[0]!r}; see [attributes]")
    if not args.no_reload:
        notes.append("Policy changes load automatically; an invalid file is ignored and logged")
    if args.demo:
        notes.append("The traffic is made up, by --demo" + (", and the token ends with this run" if token else ""))
    page = f"Page: {url}/{f'#token={token}' if token else ''}\n" if own.path is None and not args.no_page else ""
    return _HELLO.format(
        page=page,
        limits=limits,
        at=url if own.path is None else own,
        url=url,
        notes="\n".join([f" from {args.workers} processes" if args.workers > 1 else "", *notes]),
        questions=questions,
    )
