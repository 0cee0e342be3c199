"""`ratekeeper table PATH`: the health of a shared table. It shows counts, never a key or the table's seed."""

from __future__ import annotations

import argparse
import json
import time
from datetime import UTC, datetime
from math import ceil
from pathlib import Path

from ratekeeper.cli.duration import duration
from ratekeeper.errors import MissingExtraError
from ratekeeper.stores.shared_memory import SharedMemoryStore, path_of
from ratekeeper.stores.table_store import StoreStats

EXAMPLES = (
    ("table my-api", 'the table of store="shared:my-api"'),
    ("table my-api --watch", "again every second"),
    ("table my-api --json", "for programs"),
)
NOTES = ""

_BAR = 40
_WHEN_FULL = {"evict": "when full, the one with the least debt goes", "deny": "when full, newcomers are refused"}
_COUNTERS = {
    "evicted_live": "live buckets that had to go for newcomers",
    "refused_full": "newcomers refused for want of room",
    "retries": "decisions begun again, as another changed the bucket meanwhile",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("path", metavar="PATH", type=_path, help="the table's file, or its name in /dev/shm")
    parser.add_argument("--watch", action="store_true", help="show it again every second, until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs; with --watch a line a second")


def _path(text: str) -> Path:
    try:
        return path_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run(args: argparse.Namespace) -> int:
    """Print once, or until interrupted. Raise `StoreError` if the table does not exist."""
    with SharedMemoryStore.open(args.path) as store:
        if args.json:
            _print_json(store, args.watch)
        elif args.watch:
            _watch(store)
        else:
            print(health(store, store.stats()))
    return 0


def _print_json(store: SharedMemoryStore, again: bool) -> None:
    print(json.dumps(_json_of(store), indent=None if again else 2), flush=True)
    while again:
        time.sleep(1)
        print(json.dumps(_json_of(store)), flush=True)


def _json_of(store: SharedMemoryStore) -> dict[str, object]:
    stats = store.stats()
    return {
        "path": str(store.path),
        "made_at": datetime.fromtimestamp(store.made_at, UTC).isoformat(timespec="seconds"),
        "bytes": store.size,
        "max_keys": stats.max_keys,
        "on_full": store.on_full,
        "live": stats.live,
        **{name: getattr(stats, name) for name in _COUNTERS},
    }


def _watch(store: SharedMemoryStore) -> None:
    try:
        from rich.live import Live  # noqa: PLC0415  an extra
        from rich.text import Text  # noqa: PLC0415
    except ImportError:
        raise MissingExtraError("ratekeeper table --watch", "service") from None
    before = store.stats()
    with Live(Text(health(store, before)), auto_refresh=False) as live:
        while True:
            time.sleep(1)
            stats = store.stats()
            live.update(Text(health(store, stats, before)), refresh=True)
            before = stats


def health(store: SharedMemoryStore, stats: StoreStats, second_ago: StoreStats | None = None) -> str:
    """Return a table's health for people; with the figures of a second ago, also the changes since."""
    load = stats.live / stats.max_keys
    filled = min(_BAR, ceil(_BAR * load))
    made = datetime.fromtimestamp(store.made_at, UTC)
    lines = [
        str(store.path),
        f"made     {made:%d %b %Y %H:%M:%S} UTC, {duration(max(0, round(time.time() - store.made_at)))} ago",
        f"size     {store.size / 1e6:.1f} MB, for {stats.max_keys:,} live buckets; {_WHEN_FULL[store.on_full]}",
        f"live     {stats.live:,} bucket{'s' * (stats.live != 1)}, {load:.1%} [{'#' * filled}{'.' * (_BAR - filled)}]",
    ]
    for name, meaning in _COUNTERS.items():
        count = getattr(stats, name)
        since = f" (+{count - getattr(second_ago, name):,} in a second)" if second_ago else ""
        lines.append(f"{name.split('_')[0]:<8} {count:,}{since} {meaning}")
    return "\n".join(lines)
