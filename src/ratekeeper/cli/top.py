"""`ratekeeper top URL`: what a service does, live in a terminal, or as JSON for programs. It changes nothing.

One thread listens to the service, one to the keyboard; the main thread shows what they find.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, TypeAlias

from ratekeeper.cli.parser import whole_number
from ratekeeper.cli.service_client import NotReachable, ServiceClient, ServiceError, read_token
from ratekeeper.cli.style import Style
from ratekeeper.cli.top_view import View
from ratekeeper.errors import MissingExtraError

EXAMPLES = (
    ("top http://127.0.0.1:8080", "live, until q or Ctrl-C"),
    ("top http://127.0.0.1:8080 --token-file token", "with the keys that are limited most, as an admin sees them"),
    ("top http://127.0.0.1:8080 --json --count 1", "the status now, for programs"),
)
NOTES = "If the service stops, `top` says so, and goes on when the service is there again."

_EVENTS = "/v1/status/events"
_KEYS = "/v1/admin/limited-keys"
_PAUSE = 1.0
"""Seconds between two tries to reach the service."""

_Kind: TypeAlias = Literal["history", "status", "gone", "failed", "resized", "end"]


class _Event(NamedTuple):
    """Something that the screen must show, or that ends it."""

    kind: _Kind
    value: Any = None
    keys: Any = None


_Events: TypeAlias = "queue.SimpleQueue[_Event]"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("url", metavar="URL", help="the service: http://HOST:PORT, https://HOST:PORT or unix:PATH")
    parser.add_argument("--token-file", metavar="FILE", help="the file with an admin's token, to see keys as they are")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs: a line with the status a second")
    parser.add_argument(
        "--count", type=whole_number(1), metavar="N", help="end after N statuses (default: go on until Ctrl-C)"
    )


def run(args: argparse.Namespace) -> int:
    """Show the service until interrupted. Raise `ServiceError` if it cannot be reached at first."""
    client = ServiceClient(args.url, None if args.token_file is None else read_token(args.token_file))
    events: _Events = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(client, events, args.token_file is not None), daemon=True).start()
    try:
        if args.json:
            _print_json(events, args.count)
        elif sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
            return _show(View(args.url), events, args.count)
        else:
            _print(View(args.url), events, args.count)
    except KeyboardInterrupt:
        pass
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ServiceError(f"{args.url} has a status that this version cannot read: {error!r}") from None
    return 0


def _listen(client: ServiceClient, events: _Events, admin: bool) -> None:
    """Hand over all that the service tells, and go on after it was away."""
    while True:
        try:
            for name, value in client.events(_EVENTS):
                if name == "history":
                    events.put(_Event("history", value))
                elif name == "status":
                    events.put(_Event("status", value, _limited_keys(client) if admin else None))
        except NotReachable as error:
            events.put(_Event("gone", error))
        except Exception as error:
            events.put(_Event("failed", error))
            return
        time.sleep(_PAUSE)


def _limited_keys(client: ServiceClient) -> Any:
    return client.get(_KEYS)["limited_keys"]


def _next(events: _Events, seen: bool) -> _Event:
    """Return the next event. Raise its error if the service fails, or was never there."""
    event = events.get()
    if event.kind == "failed" or (event.kind == "gone" and not seen):
        raise event.value
    return event


def _print_json(events: _Events, count: int | None) -> None:
    shown, away = 0, False
    while shown != count:
        event = _next(events, seen=shown > 0)
        if event.kind == "status":
            status = event.value if event.keys is None else event.value | {"limited_keys": event.keys}
            print(json.dumps(status), flush=True)
            shown, away = shown + 1, False
        elif event.kind == "gone" and not away:
            print(f"ratekeeper: {event.value}: trying again", file=sys.stderr, flush=True)
            away = True


def _print(view: View, events: _Events, count: int | None) -> None:
    """Print a screen each second, one below the other."""
    shown, style = 0, Style.of(sys.stdout)
    while shown != count:
        event = _next(events, seen=shown > 0)
        _take(view, event)
        if event.kind in ("status", "gone"):
            print("\n".join(view.lines(style, shutil.get_terminal_size().columns)), end="\n\n", flush=True)
            shown += event.kind == "status"


def _show(view: View, events: _Events, count: int | None) -> int:
    """Show a screen that changes in its place, and return the exit code.

    A signal is an event too. An exception in its place could come in the middle of anything, and be lost there.
    """
    try:
        from rich.console import Console  # noqa: PLC0415  an extra
        from rich.live import Live  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415
    except ImportError:
        raise MissingExtraError("ratekeeper top", "service") from None
    shown, style, console = 0, Style.of(sys.stdout), Console(highlight=False)

    def screen() -> Text:
        columns, rows = console.size
        lines = view.lines(style, columns, rows - 1)
        lines += [""] * (rows - 1 - len(lines)) + [style("q quits", "dim")]
        return Text.from_ansi("\n".join(lines), no_wrap=True, overflow="crop")

    signal.signal(signal.SIGWINCH, lambda number, frame: events.put(_Event("resized")))
    signal.signal(signal.SIGINT, lambda number, frame: events.put(_Event("end", 0)))
    signal.signal(signal.SIGTERM, lambda number, frame: events.put(_Event("end", 128 + number)))
    event = _next(events, seen=False)
    with _keys(events), Live(screen(), console=console, screen=True, auto_refresh=False) as live:
        while event.kind != "end":
            _take(view, event)
            shown += event.kind == "status"
            live.update(screen(), refresh=True)
            event = _Event("end", 0) if shown == count else _next(events, seen=True)
    code: int = event.value
    return code


def _take(view: View, event: _Event) -> None:
    if event.kind == "history":
        view.take_history(event.value)
    elif event.kind == "status":
        view.take(event.value, event.keys)
    elif event.kind == "gone":
        view.gone(str(event.value))


@contextmanager
def _keys(events: _Events) -> Iterator[None]:
    """Have each key read at once and unseen meanwhile: q ends. Without a terminal at stdin, no key is read."""
    if not sys.stdin.isatty():
        yield
        return
    import termios  # noqa: PLC0415  not on Windows
    import tty  # noqa: PLC0415

    def read() -> None:
        while key := os.read(descriptor, 1):
            if key in (b"q", b"Q"):
                break
        events.put(_Event("end", 0))

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor, termios.TCSANOW)
    try:
        threading.Thread(target=read, daemon=True).start()
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)
