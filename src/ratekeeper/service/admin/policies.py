"""The operations on the policy: its rules, its text now and before, a reload, and pauses of one rule. Know no HTTP."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from difflib import unified_diff

from ratekeeper.errors import BadRequestError, StoreError, did_you_mean
from ratekeeper.policy.model import Rule
from ratekeeper.policy.reports import limit_report
from ratekeeper.service.admin.fields import Field, is_name
from ratekeeper.service.admin.operation import Given, NotDoneError, Operation, Report
from ratekeeper.service.admin.times import TIMES, end_of
from ratekeeper.service.core import Core
from ratekeeper.service.policy_news import PolicyText

_MOST_DIFFED = 20_000
"""The lines of a policy that is compared with another. The time to compare grows faster than their number."""
_PATIENCE = 15.0
"""Seconds to wait for the policy's file to be read, and taken by all processes."""
_POLL = 0.02


async def rules(core: Core, given: Given) -> Report:
    """Return the rules, in the file's order, with the pauses that other processes have begun or ended a moment ago."""
    with suppress(StoreError):  # while the store does not answer, the pauses that are known go on
        await core.pauses.look()
    return {"rules": [_rule_report(core, rule) for rule in core.loaded.rules]}


def _rule_report(core: Core, rule: Rule) -> Report:
    return {
        "name": rule.name,
        **limit_report(rule.limit),
        "key": list(rule.key),
        "match": {name: list(globs) for name, globs in rule.match.items()},
        "overrides": len(rule.overrides),
        "cost": rule.cost,
        "max_wait": rule.max_wait,
        "shadow": rule.shadow,
        "paused_until": core.pauses.until.get(rule.name),
        "looked_up": None if rule.lookup is None else rule.lookup.name,
        "message": rule.message,
    }


async def policy(core: Core, given: Given) -> Report:
    """Return the policy now and before, how they differ, and how the file was last read."""
    news = core.news
    return {
        "now": _text_report(news.now),
        "before": None if news.before is None else _text_report(news.before),
        "diff": "" if news.before is None else await asyncio.to_thread(_diff, news.before, news.now),
        "last_reload": {"ok": news.error is None, "at": news.read_at, "error": news.error},
    }


def _text_report(text: PolicyText) -> Report:
    return {"version": text.version, "text": text.text, "loaded_at": text.loaded_at}


def _diff(before: PolicyText, now: PolicyText) -> str:
    old, new = before.text.splitlines(), now.text.splitlines()
    if max(len(old), len(new)) > _MOST_DIFFED:
        return f"(not shown: a policy has more than {_MOST_DIFFED:,} lines)\n"
    lines = unified_diff(old, new, f"before {before.version}", f"now {now.version}", lineterm="")
    return "".join(f"{line}\n" for line in lines)


async def reload(core: Core, given: Given) -> Report:
    """Have the policy's file read, and return the version that all processes use then."""
    if core.reload is None:
        raise NotDoneError(409, "this service has no policy file to read again")
    last, deadline = core.news, time.monotonic() + _PATIENCE
    core.reload()
    while core.news is last:
        if time.monotonic() > deadline:
            raise NotDoneError(503, "the policy's file is not read yet: the service's log says why")
        await asyncio.sleep(_POLL)
    if core.news.error is not None:
        raise NotDoneError(422, f"the last good policy stays in use, as the file has mistakes:\n{core.news.error}")
    return {"version": core.news.now.version, "loaded_at": core.news.now.loaded_at}


async def pause(core: Core, given: Given) -> Report:
    """Let a rule refuse nothing until a time."""
    await core.pauses.begin(_rule(core, given).name, end_of(given))
    return _rule_report(core, _rule(core, given))


async def resume(core: Core, given: Given) -> Report:
    """End the pause of a rule, also of one that has left the policy: its pause would come back with it."""
    if not await core.pauses.end(given["rule"]):
        _rule(core, given)
    found = [rule for rule in core.loaded.rules if rule.name == given["rule"]]
    return _rule_report(core, found[0]) if found else {"name": given["rule"], "paused_until": None}


def _rule(core: Core, given: Given) -> Rule:
    found = {rule.name: rule for rule in core.loaded.rules}
    if given["rule"] not in found:
        name = given["rule"][:100]
        raise BadRequestError(f"the policy has no rule {name!r}{did_you_mean(name, found)}")
    return found[given["rule"]]


_RULE = Field(is_name, "the name of a rule", required=True)

OPERATIONS = {
    "rules": Operation(rules),
    "policy": Operation(policy),
    "reload": Operation(reload, {}, changes=True),
    "pause": Operation(pause, {"rule": _RULE, **TIMES}, changes=True),
    "resume": Operation(resume, {"rule": _RULE}, changes=True),
}
