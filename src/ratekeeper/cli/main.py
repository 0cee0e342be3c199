"""The command `ratekeeper`: reads its arguments and hands over to a subcommand. Errors are one line, exit code 2."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ratekeeper import IMPLEMENTATION, __version__
from ratekeeper.cli import check_policy, hash_value, serve, support, table
from ratekeeper.cli.replay import command as replay
from ratekeeper.errors import RatekeeperError

_CORES = {
    "c": "C core",
    "python": "Python core, slower; with a C compiler at install it would be the C core",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand. Returns the exit code: 0, 1 if the answer is no, 2 for an error."""
    args = _parser().parse_args(argv)
    try:
        code: int = args.run(args)
    except (RatekeeperError, OSError) as error:
        print(f"ratekeeper: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ratekeeper", description="An exact rate limiter.")
    parser.add_argument("--version", action="version", version=f"ratekeeper {__version__} ({_CORES[IMPLEMENTATION]})")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, help_text, command in (
        ("serve", "answer a gateway over HTTP", serve),
        ("table", "show the health of a table that processes share", table),
        ("hash", "print the hashes of secrets on stdin, to list them in a policy", hash_value),
        ("replay", "run an access log through a policy, to choose limits before enforcing them", replay),
    ):
        subparser = commands.add_parser(name, help=help_text, description=help_text)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    check_policy.add_commands(commands)
    support.add_commands(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
