"""`ratekeeper serve`: the arguments, and what a person sees when it starts."""

from __future__ import annotations

import argparse

from ratekeeper.errors import RatekeeperError
from ratekeeper.policy.model import HeaderSource, Policy
from ratekeeper.service.serve import serve

_HELLO = """\
ratekeeper serves {policy} ({rules}) at {url}
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
    parser.add_argument("--workers", type=int, default=1, help="processes; in this version only 1")


def run(args: argparse.Namespace) -> int:
    """Serve until stopped."""
    if args.workers < 1:
        raise RatekeeperError(f"--workers must be 1, not {args.workers}")
    if args.workers > 1:
        raise RatekeeperError(
            f"--workers {args.workers}: each worker would keep limits of its own, and so admit {args.workers} times "
            "as much; this version serves from one process"
        )
    policy = Policy.load(args.policy)
    serve(policy, args.host, args.port, lambda url: print(_hello(policy, args.policy, url), flush=True))
    return 0


def _hello(policy: Policy, path: str, url: str) -> str:
    """Return what to try, with the first header that the policy reads."""
    named = [(name, source.name) for name, source in policy.attributes.items() if isinstance(source, HeaderSource)]
    name, header = named[0] if named else ("", "")
    return _HELLO.format(
        policy=path,
        rules=f"{len(policy.rules)} rule{'s' * (len(policy.rules) > 1)}",
        url=url,
        header=f"-H '{header}: k-1' " if header else "",
        attribute=f'"{name}": "k-1", ' if name else "",
    )


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"a port is a number from 0 to 65535, not {text!r}")
    return int(text)
