"""`ratekeeper usage`, `reset`, `grant`, `block` and `unblock` with --service: by the admin API of a service that runs.

The service has the policy and the store, so it reads the attributes. Knows no store and no policy.
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from typing import Any

from ratekeeper.cli.attributes import read_pairs
from ratekeeper.cli.service_client import ServiceClient, ServiceError, read_token
from ratekeeper.cli.style import safe
from ratekeeper.cli.usage_table import Row, usage_table
from ratekeeper.errors import RatekeeperError

_SHOWN = 100
_NO_POLICY = ": with --service, no POLICY is given"


def run_at_service(args: argparse.Namespace, operation: str) -> int:
    """Carry out an operation of the admin API, and print the buckets as they are then."""
    if args.token_file is None:
        raise RatekeeperError("--service needs the token of an admin: add --token-file FILE")
    if args.limits:
        raise RatekeeperError("--limits is for --store: a service looks limits up by itself")
    client = ServiceClient(args.service, read_token(args.token_file))
    report = client.post(f"/v1/admin/{operation}", _body(args))
    try:
        rules, exempt = report["rules"], report["exempt"]
        rows = [_row(rule) for rule in rules]
        notes = [_note(rule) for rule in rules if rule["blocked_until"] is not None]
    except (KeyError, TypeError) as error:
        raise ServiceError(f"{args.service} answers as another version does: {error!r}") from None
    if args.json:
        print(json.dumps(rules, indent=2))
    elif exempt:
        print("exempt, by the policy of the service")
    elif not rows:
        print("no rule charges this request")
    else:
        print("\n".join([*usage_table(rows), *notes]))
    return 0


def _body(args: argparse.Namespace) -> dict[str, Any]:
    body: dict[str, Any] = {"attributes": read_pairs(args.attributes, lambda name: _NO_POLICY)}
    if args.rule:
        body["rule"] = args.rule
    if getattr(args, "tokens", None) is not None:
        body["tokens"] = args.tokens
    if getattr(args, "length", None) is not None:
        body["seconds"] = args.length
    if getattr(args, "until", None) is not None:
        body["until"] = args.until.timestamp()
    return body


def _row(rule: Any) -> Row:
    notes = [note for note, has in (("shadow", rule["shadow"]), ("paused", rule["paused_until"])) if has]
    title = safe(rule["rule"], _SHOWN) + (f" ({', '.join(notes)})" if notes else "")
    used, remaining = rule["used"], rule["remaining"]
    most = -1 if rule["capacity"] is None else used + remaining
    return Row(title, used, most, remaining, rule["retry_after"] or 0.0, rule["reset_after"])


def _note(rule: Any) -> str:
    until = datetime.fromtimestamp(rule["blocked_until"], UTC)
    return f"{safe(rule['rule'], _SHOWN)}: blocked until {until:%Y-%m-%dT%H:%M:%SZ}"
