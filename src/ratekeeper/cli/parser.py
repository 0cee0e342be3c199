"""The argument parser of every command: help with examples and exit codes, and errors that name what is meant.

It knows no command: a command declares its arguments, its examples and its notes. Options may stand anywhere.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypeAlias

from ratekeeper.errors import did_you_mean

Commands: TypeAlias = "argparse._SubParsersAction[CommandParser]"

Example: TypeAlias = tuple[str, str]
"""A command line, and the words that say what it does."""

EXIT_CODES = """\
exit codes:
  0        done, or the answer is yes
  1        the answer is no: a policy has mistakes, or a request would be refused
  2        an error, which stderr tells: wrong arguments, or a file or store that cannot be used
  128 + N  ended by signal N, such as 130 by Ctrl-C"""

_MEANT = {
    "check": "validate", "lint": "validate", "test": "explain", "run": "serve", "start": "serve", "server": "serve",
    "stats": "top", "status": "top", "watch": "top", "monitor": "top", "show": "usage", "ban": "block",
    "unban": "unblock", "version": "--version", "completions": "completion", "stat": "table", "health": "table",
    "simulate": "replay",
}  # fmt: skip
"""Words that people try, and the command or option that they mean."""

_MOST_DIGITS = 18

_STORES = ("shared:", "redis://", "rediss://", "valkey://", "unix://", "redis+cluster://", "redis+sentinel://")


class Parser(argparse.ArgumentParser):
    """The parser of `ratekeeper` itself. An error is one line, and a second that says where to read more."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            **options, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, add_help=False
        )
        self.add_argument("-h", "--help", action="help", help="show this help, and exit")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\nTry: {self.prog} --help\n")


class CommandParser(Parser):
    """The parser of one command. It reads options anywhere, and names the right one for a mistyped one."""

    _inside = False
    without_policy: str | None = None
    """The option with which the first argument, POLICY, is left out. Then it is an empty string."""

    def __init__(self, *, siblings: Mapping[str, CommandParser], **options: Any) -> None:
        super().__init__(**options)
        self._siblings = siblings

    @property
    def options(self) -> list[str]:
        """All options, such as --json."""
        return [option for action in self._actions for option in action.option_strings]

    @property
    def actions(self) -> Sequence[argparse.Action]:
        """All arguments and options, in the order of their declaration."""
        return self._actions

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self._inside:  # the parser calls itself, for positional arguments between options
            return super().parse_known_args(args, namespace)
        without = self.without_policy
        if without is not None and any(word == without or word.startswith(f"{without}=") for word in args):
            args = ["", *args]
        self._inside = True
        try:
            found, strangers = self.parse_known_intermixed_args(args, namespace)
        finally:
            self._inside = False
        if strangers:
            self.error(self._why_unknown(strangers[0]))
        return found, strangers

    def _why_unknown(self, word: str) -> str:
        if not word.startswith("-") or word == "-":
            if all(action.option_strings for action in self._actions):  # the word may be a secret
                return "it takes no arguments, and reads stdin"
            return f"one argument too many: {word!r}"
        option = word.partition("=")[0]
        others = [name for name, parser in self._siblings.items() if option in parser.options]
        if others:
            return (
                f"{self.prog.split()[-1]} has no option {option}: {listed(others)} {'have' if others[1:] else 'has'} it"
            )
        return f"unknown option {option!r}{did_you_mean(option, (it for it in self.options if it.startswith('--')))}"


def add_command(
    commands: Commands, name: str, help_text: str, examples: Iterable[Example], notes: str = ""
) -> CommandParser:
    """Declare a command, whose help has the examples, the notes and the exit codes."""
    shown = [(f"  ratekeeper {line}" if not line.startswith("printf") else f"  {line}", why) for line, why in examples]
    lines = [part for line, why in shown for part in (f"  # {why}", line)]
    parts = ["\n".join(["examples:", *lines]), notes, EXIT_CODES]
    return commands.add_parser(
        name,
        help=help_text,
        description=f"{help_text[0].upper()}{help_text[1:]}.",
        epilog="\n\n".join(filter(None, parts)),
        siblings=commands.choices,
    )


def add_policy(parser: argparse.ArgumentParser) -> None:
    """Declare the argument POLICY."""
    parser.add_argument("policy", metavar="POLICY", type=policy_path, help="the policy file (TOML)")


def policy_path(text: str) -> str:
    """Return the path of a policy. Raise `ArgumentTypeError` if it is plainly another argument in the wrong place."""
    if text.startswith(_STORES):
        raise argparse.ArgumentTypeError(f"{text!r} is a store, and the policy file belongs here: write --store STORE")
    if "=" in text and not os.path.exists(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is an attribute, and the policy file belongs here: write POLICY first, then KEY=VALUE"
        )
    return text


def why_no_command(word: str, names: Iterable[str]) -> str:
    """Return the error that a word is not a command, with the command that it may stand for."""
    if word in _MEANT:
        return f"unknown command {word!r}: did you mean {_MEANT[word]!r}?"
    return f"unknown command {word!r}{did_you_mean(word, names)}"


def whole_number(least: int) -> Callable[[str], int]:
    """Return a reader of an argument that is a whole number, `least` or more."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS) or int(text) < least:
            most = f" and of at most {_MOST_DIGITS} digits" if len(text) > _MOST_DIGITS else ""
            raise argparse.ArgumentTypeError(f"must be a whole number, {least} or more{most}, not {text!r}")
        return int(text)

    return read


def listed(names: Sequence[str], word: str = "and") -> str:
    """Return names as people list them: "a, b and c"."""
    return f"{', '.join(names[:-1])} {word} {names[-1]}" if len(names) > 1 else "".join(names)
