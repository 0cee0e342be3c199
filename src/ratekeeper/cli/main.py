"""The command `ratekeeper`: reads its arguments and hands over to a subcommand. Errors are one line, exit code 2."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from ratekeeper import IMPLEMENTATION, __version__
from ratekeeper.cli import completion, explain, hash_value, serve, streams, support, table, top, validate
from ratekeeper.cli.parser import EXIT_CODES, CommandParser, Commands, Parser, add_command, why_no_command
from ratekeeper.cli.replay import command as replay
from ratekeeper.errors import RatekeeperError, why_unread

_CORES = {
    "c": "C core",
    "python": "Python core, slower than the C core",
}
_EPILOG = f"""\
Each command tells more, with examples: ratekeeper help COMMAND

{EXIT_CODES}"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand. Returns the exit code: 0, 1 if the answer is no, 2 for an error."""
    streams.prepare()
    words = sys.argv[1:] if argv is None else argv
    parser = make_parser()
    if not words:
        parser.print_help(sys.stderr)
        return 2
    names = parser.commands.choices
    if not words[0].startswith("-") and words[0] not in names:
        parser.error(why_no_command(words[0], names))
    if words[0].startswith("-") and words[0] not in ("-h", "--help", "-V", "--version"):
        parser.error(f"unknown option {words[0]!r}: write the command first, then its options")
    args = parser.parse_args(words)
    if (why := _why_swapped(args)) is not None:
        names[words[0]].error(why)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has read enough
        streams.drop_output()
        return 128 + signal.SIGPIPE
    except RatekeeperError as error:
        print(f"ratekeeper: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"ratekeeper: {where}{why_unread(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return code


def _why_swapped(args: argparse.Namespace) -> str | None:
    """Return the error that another argument is plainly the policy; None if it is not."""
    policy = getattr(args, "policy", None)
    others = [value for name, value in vars(args).items() if name != "policy" and str(value).endswith(".toml")]
    if not others or not isinstance(policy, str) or policy.endswith(".toml"):
        return None
    return f"{policy!r} stands where the policy file belongs: write {others[0]!r} first"


class _Ratekeeper(Parser):
    """The parser of all commands."""

    commands: Commands


def make_parser() -> _Ratekeeper:
    """Return the parser of all commands."""
    parser = _Ratekeeper(prog="ratekeeper", description="An exact rate limiter.", epilog=_EPILOG)
    version = f"ratekeeper {__version__} ({_CORES[IMPLEMENTATION]})"
    parser.add_argument("-V", "--version", action="version", version=version, help="show the version, and exit")
    commands = parser.commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", parser_class=CommandParser, required=True
    )
    for name, help_text, command in (
        ("validate", "find the mistakes of policy files, and show the limits", validate),
        ("explain", "say of each rule whether it applies to a request, and why", explain),
        ("replay", "run an access log through a policy, to choose limits before enforcing them", replay),
        ("serve", "answer gateways and programs that ask about requests", serve),
        ("top", "show live what a service admits, rejects and delays", top),
        ("hash", "print the hashes of secrets on stdin, to list them in a policy", hash_value),
        ("table", "show the health of a table that processes share", table),
    ):
        subparser = add_command(commands, name, help_text, command.EXAMPLES, command.NOTES)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    support.add_commands(commands)
    _add_completion(parser)
    _add_help(parser)
    return parser


def _add_completion(parser: _Ratekeeper) -> None:
    completing = add_command(
        parser.commands,
        "completion",
        "print a script that completes commands in a shell",
        completion.EXAMPLES,
        completion.NOTES,
    )
    completion.add_arguments(completing)

    def run(args: argparse.Namespace) -> int:
        print(completion.script(args.shell, parser.commands.choices), end="")
        return 0

    completing.set_defaults(run=run)


def _add_help(parser: _Ratekeeper) -> None:
    helping = add_command(
        parser.commands, "help", "show this help, or a command's", [("help explain", "the help of one command")]
    )
    helping.add_argument("command", metavar="COMMAND", nargs="?", help="a command")

    def run(args: argparse.Namespace) -> int:
        if args.command is None:
            parser.print_help()
        elif args.command in parser.commands.choices:
            parser.commands.choices[args.command].print_help()
        else:
            helping.error(why_no_command(args.command, parser.commands.choices))
        return 0

    helping.set_defaults(run=run)


if __name__ == "__main__":
    sys.exit(main())
