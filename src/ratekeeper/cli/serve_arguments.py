"""The arguments of `ratekeeper serve`, each checked when it is read. Knows no service."""

from __future__ import annotations

import argparse
import mmap
import re
from typing import Any

from ratekeeper.cli.limits import add_limits
from ratekeeper.cli.parser import policy_path
from ratekeeper.http.header_styles import DEFAULT, checked_styles
from ratekeeper.secret_file import read_secret
from ratekeeper.service.listeners import Address
from ratekeeper.service.operator_options import RECORDING_BYTES, read_tokens
from ratekeeper.service.protocols import PROTOCOLS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "policy",
        metavar="POLICY",
        nargs="?",
        type=policy_path,
        help="the policy file (TOML); without one only Envoy is answered, by --envoy-config",
    )
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
        help="answer gRPC by envoyproxy/ratelimit's files in this folder, in place of POLICY, which may be left out",
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
    add_limits(parser)
    parser.add_argument(
        "--access-log",
        metavar="FILE",
        help="append a line of JSON to this file for a share of the decisions, with keys as hashes; - is stdout",
    )
    parser.add_argument(
        "--access-log-sample",
        type=_share,
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
    parser.add_argument(
        "--otlp",
        action="store_true",
        help="send the metrics to an OpenTelemetry Collector: OTEL_EXPORTER_OTLP_ENDPOINT says where "
        "(default: http://localhost:4318)",
    )
    _add_operating(parser)
    parser.add_argument(
        "--tls-cert",
        metavar="FILE",
        help="speak TLS on all sockets but unix sockets, with this certificate and its chain (PEM)",
    )
    parser.add_argument("--tls-key", metavar="FILE", help="the key of that certificate (PEM, without a password)")
    parser.add_argument(
        "--tls-client-ca",
        metavar="FILE",
        help="take only clients whose certificate these authorities have signed (PEM)",
    )


def _add_operating(parser: argparse.ArgumentParser) -> None:
    """Declare what an operator may see and do."""
    parser.add_argument("--no-page", action="store_true", help="serve neither the page at / nor /v1/status")
    parser.add_argument(
        "--recording",
        type=_size,
        default=RECORDING_BYTES,
        metavar="SIZE",
        help="the memory of each process for a recording of the last minutes, as hashes, such as 64M; 0 for none "
        "(default: 16M)",
    )
    parser.add_argument(
        "--admin-tokens",
        type=read_tokens,
        default={},
        metavar="FILE",
        help="the file with a line NAME TOKEN for each admin: the admin API is off without it",
    )
    parser.add_argument(
        "--demo",
        action="store_true",
        help="make up traffic, so that the page has something to show, and a token for it; on this machine alone",
    )


def _size(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,6})([KMG]?)", text)
    size = int(found[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[found[2]] if found else -1
    if size != 0 and not 128 << 10 <= size <= 16 << 30:
        raise argparse.ArgumentTypeError(f"must be 0, or a size from 128K to 16G, such as 64M, not {text!r}")
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def _styles(text: str) -> tuple[str, ...]:
    styles: Any = tuple(style.strip() for style in text.split(","))
    try:
        checked_styles(styles)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return styles  # type: ignore[no-any-return]


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
        return read_secret(file)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


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
