"""`ratekeeper serve`: the arguments, and what a person sees when it starts."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

from ratekeeper.errors import RatekeeperError
from ratekeeper.policy.model import HeaderSource, Policy
from ratekeeper.service.serve import serve
from ratekeeper.stores.memory import MemoryStore
from ratekeeper.stores.shared import SharedMemoryStore, path_of
from ratekeeper.stores.table_store import TableStore

_SHARED = "shared:"
_HELLO = """\
ratekeeper serves {policy} ({rules}) at {url}{workers}
Try:
  curl -i {header}-H 'X-Forwarded-Method: GET' -H 'X-Forwarded-Uri: /api/search' {url}/check
  curl -s -d '{{"attributes": {{{attribute}"path": "/api/search"}}}}' {url}/v1/check
  curl -s {url}/healthz
Stop with Ctrl-C."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("policy", metavar="POLICY", help="the policy file (TOML)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: only this machine)")
    parser.add_argument(
        "--port", type=_port, default=8080, help="port to listen on; 0 takes a free one (default: 8080)"
    )
    parser.add_argument("--workers", type=_count, default=1, help="processes that serve (default: 1)")
    parser.add_argument(
        "--store",
        metavar="STORE",
        help="where buckets live: memory (default for one worker), or shared:NAME, a table in /dev/shm that lives on "
        "when the service stops (default for several workers: one of their own, which does not)",
    )


def run(args: argparse.Namespace) -> int:
    """Serve until stopped."""
    policy = Policy.load(args.policy)
    with _store(args.store, args.workers) as store:

        def announce(url: str) -> None:
            print(_hello(policy, args, store, url), flush=True)

        serve(policy, store, args.host, args.port, args.workers, announce)
    return 0


@contextmanager
def _store(name: str | None, workers: int) -> Iterator[TableStore]:
    """Open the store that was asked for: one that all workers share."""
    if name == "memory" or (name is None and workers == 1):
        if workers > 1:
            raise RatekeeperError(
                f"--store memory with --workers {workers}: each worker would have limits of its own, and so admit "
                f"{workers} times as much; leave --store out, or use shared:NAME"
            )
        yield MemoryStore()
    elif name is None:
        with SharedMemoryStore.temporary("ratekeeper-serve-") as store:
            try:
                yield store
            finally:
                store.unlink()
    elif name.startswith(_SHARED) and name != _SHARED:
        path = path_of(name.removeprefix(_SHARED))
        with SharedMemoryStore.open(path) if path.exists() else SharedMemoryStore(path) as store:
            yield store
    else:
        raise RatekeeperError(f"--store must be memory or shared:NAME, not {name!r}")


def _hello(policy: Policy, args: argparse.Namespace, store: TableStore, url: str) -> str:
    """Return what to try, with the first header that the policy reads."""
    named = [(name, source.name) for name, source in policy.attributes.items() if isinstance(source, HeaderSource)]
    name, header = named[0] if named else ("", "")
    table = f"\nTable: {store.path}" if isinstance(store, SharedMemoryStore) else ""
    return _HELLO.format(
        policy=args.policy,
        rules=f"{len(policy.rules)} rule{'s' * (len(policy.rules) > 1)}",
        url=url,
        workers=(f" from {args.workers} processes" if args.workers > 1 else "") + table,
        header=f"-H '{header}: k-1' " if header else "",
        attribute=f'"{name}": "k-1", ' if name else "",
    )


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"a port is a number from 0 to 65535, not {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:4]) <= 1000:
        raise argparse.ArgumentTypeError(f"must be from 1 to 1000 processes, not {text!r}")
    return int(text)
