"""`ratekeeper hash`: hashes of secrets, for policies in version control. It reads stdin, and takes no arguments."""

from __future__ import annotations

import argparse
import sys
from getpass import getpass

from ratekeeper.errors import RatekeeperError
from ratekeeper.http.header_lines import decoded
from ratekeeper.policy.hashes import PREFIX, digest_of

EXAMPLES = (
    ("printf %s k-alice | ratekeeper hash", "the hash of one key; echo would add a newline, which changes the hash"),
)
NOTES = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments: there are none, as an argument would stay in the shell's history."""


def run(args: argparse.Namespace) -> int:
    """Print the hash of each line of stdin, or of a value that is typed at a terminal and not shown."""
    if sys.stdin.isatty():
        lines = [getpass("value: ").encode("utf-8", "surrogateescape")]
    else:
        lines = sys.stdin.buffer.read().removesuffix(b"\n").split(b"\n")
    values = [decoded(line.removesuffix(b"\r")) for line in lines]
    for number, value in enumerate(values, 1):
        if not value or value != value.strip():
            raise RatekeeperError(
                f"line {number} is empty or has spaces around it, and no request's value does: if a shell variable "
                "holds the value, is it set?"
            )
    print("\n".join(PREFIX + digest_of(value) for value in values))
    return 0
