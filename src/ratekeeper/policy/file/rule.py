"""Reads one [[rules]] table of a policy file into a `Rule`. Errors go to the table's report; then the rule is not used.

This module knows the keys of a rule. `load` reads the file and its other tables.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ratekeeper.decision import ON_ERROR
from ratekeeper.errors import did_you_mean
from ratekeeper.limits import Deny, LeakyBucket, Limit, TokenBucket, parse_limit
from ratekeeper.policy.file.checks import why_never
from ratekeeper.policy.file.lookup import LOOKUP_KEYS, check_no_lookup, is_looked_up, read_lookup
from ratekeeper.policy.model import MESSAGE_FORM, OTHERS, Override, Rule, is_message
from ratekeeper.policy.reader import Table, kind, shown
from ratekeeper.policy.sources import HeaderSource
from ratekeeper.policy.spelling import has_wildcard

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ratekeeper.decision import OnError
    from ratekeeper.policy.lookups.lookup import Lookup
    from ratekeeper.policy.model import Missing
    from ratekeeper.policy.patterns import Globs
    from ratekeeper.policy.sources import Source

HEADER = "header:"
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token of RFC 9110

_LIMIT_KEYS = ("capacity", "refill_rate", "leak_rate", "limit", "deny")
_RULE_KEYS = (
    "name", "match", "key", "algorithm", *_LIMIT_KEYS, *LOOKUP_KEYS, "overrides", "cost", "max_wait", "shadow",
    "missing", "on_error", "message",
)  # fmt: skip
_BAD_NUMBERS = (ValueError, OverflowError)  # a LimitError, or Python's own of a number with hundreds of digits
_MISSING: Mapping[str, Missing] = {"shared": "shared", "skip": "skip", "reject": "reject"}
_ON_ERROR: Mapping[str, OnError] = {word: word for word in ON_ERROR}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The names that the rules of one file may use: attributes (None: any) and tiers (None: the file has no tiers).

    `sources` are the sources of the attributes that [attributes] declares.
    """

    attributes: frozenset[str] | None
    tiers: frozenset[str] | None
    sources: Mapping[str, Source]

    def check(self, table: Table, name: str, *inner: str | int) -> None:
        """Add an error at `inner` if there is no attribute of this name."""
        if name.startswith(HEADER):
            table.error(
                f'{shown(name)} is not an attribute: add it to [attributes], such as user = "header:x-user"', *inner
            )
        elif self.attributes is not None and name not in self.attributes:
            table.error(f"unknown attribute {shown(name)}{did_you_mean(name[:40], self.attributes)}", *inner)


@dataclass(frozen=True, slots=True)
class _Algorithm:
    name: str
    rate_key: str
    other_rate_key: str
    build: Callable[[Any, Any], Limit]


_ALGORITHMS = {
    "token_bucket": _Algorithm("token bucket", "refill_rate", "leak_rate", TokenBucket),
    "leaky_bucket": _Algorithm("leaky bucket", "leak_rate", "refill_rate", LeakyBucket),
}


def read_rule(table: Table, vocabulary: Vocabulary) -> Rule | None:
    """Return the rule that a table describes, or None if its errors leave no limit."""
    table = _titled(table)
    table.check_keys(_RULE_KEYS)
    algorithm = table.choice("algorithm", _ALGORITHMS, "token_bucket")
    limit, lookup = _limit_or_lookup(table, algorithm) if algorithm else (None, None)
    match = table.table("match", f"{table.title}: match")
    key = table.texts("key", single=False) if "key" in table.values else ()
    for place, attribute in enumerate(key):
        vocabulary.check(table, attribute, "key", place)
    values: dict[str, Any] = {
        "match": {name: read_globs(match, name, vocabulary) for name in match.values} if match else {},
        "overrides": _overrides(table, algorithm, limit, vocabulary) if algorithm else (),
        "cost": _cost(table, limit, vocabulary),
        "max_wait": _max_wait(table),
        "shadow": table.flag("shadow"),
        "missing": table.choice("missing", _MISSING, "shared"),
        "on_error": table.choice("on_error", _ON_ERROR, "") if "on_error" in table.values else None,
        "message": _message(table),
        "lookup": lookup,
    }
    _check_cost_of_overrides(table, values["cost"], values["overrides"])
    if limit is None or table.report:
        return None
    return Rule(table.text("name"), limit, key=key, **values)


def cost_source(rule: Rule) -> HeaderSource | None:
    """Return the header that gives a rule's cost, or None: the attribute of a header is named "header:NAME"."""
    if isinstance(rule.cost, str) and rule.cost.startswith(HEADER):
        return HeaderSource(rule.cost.removeprefix(HEADER))
    return None


def _titled(table: Table) -> Table:
    """Return the table under its rule's name; until it has one, under its number."""
    numbered = Table(table.values, table.path, f"rule {int(table.path[-1]) + 1}", table.report)
    if numbered.lacks("name", 'name = "free keys"', _RULE_KEYS) or not (name := numbered.text("name")):
        return numbered
    if not name.isprintable() or name != name.strip():  # names go into headers, metrics and logs
        numbered.error("'name' must be printable, without spaces around it", "name")
    if name == OTHERS:
        numbered.error(f"'name' cannot be {OTHERS!r}, as metrics count many rules by this name", "name")
    return Table(table.values, table.path, f"rule {shown(name)}", table.report)


def _limit_or_lookup(table: Table, algorithm: _Algorithm) -> tuple[Limit | None, Lookup | None]:
    """Return a rule's limit. If the application gives it, return the default, and how it is looked up."""
    if is_looked_up(table):
        return read_lookup(table, ("algorithm", *(key for key in _LIMIT_KEYS if key != "limit"))) or (None, None)
    check_no_lookup(table)
    return _limit(table, algorithm), None


def _limit(table: Table, algorithm: _Algorithm, inherited: Limit | None = None) -> Limit | None:
    """Return the limit of a rule or an override. An override takes missing values from `inherited`."""
    given, rate_key = table.values, algorithm.rate_key
    if table.flag("deny"):
        return _denial(table)
    if not isinstance(given.get("deny", False), bool):
        return None  # `flag` has told the mistake: a missing limit would be a second one for it
    if algorithm.other_rate_key in given:
        other = next(word for word, other in _ALGORITHMS.items() if other.rate_key == algorithm.other_rate_key)
        hint = f"write {rate_key!r}, or algorithm = {other!r} in the rule"
        table.error(f"{algorithm.other_rate_key!r} is not for a {algorithm.name}: {hint}", algorithm.other_rate_key)
        return None
    if "limit" in given:
        return _limit_from_text(table, algorithm)
    lacking = []
    if inherited is not None and inherited.refuses_all:  # a limit of nothing has no part for an override to take
        inherited = None
    if not inherited:
        examples = {"capacity": "capacity = 20", rate_key: f"{rate_key} = 5"}
        lacking = [key for key, example in examples.items() if table.lacks(key, example, _RULE_KEYS)]
    default = inherited or algorithm.build(1, 1)  # if one of the two is missing, check the other
    try:
        limit = algorithm.build(given.get("capacity", default.capacity), given.get(rate_key, default.rate))
        return None if lacking else limit
    except _BAD_NUMBERS as error:
        table.error(str(error), next((key for key in (rate_key, "capacity") if key in given and key in str(error)), ""))
        return None


def _denial(table: Table) -> Limit | None:
    waiting = () if "overrides" in table.values else ("max_wait",)  # an override may allow, and let wait
    others = [key for key in ("algorithm", *_LIMIT_KEYS, *waiting) if key in table.values and key != "deny"]
    for key in others:
        table.error(f"{key!r} means nothing beside deny = true, which refuses every request: take one of them out", key)
    return None if others else Deny()


def _limit_from_text(table: Table, algorithm: _Algorithm) -> Limit | None:
    text = table.values["limit"]
    if is_looked_up(table):
        table.error("'limit' must be a fixed limit here: only a rule's own limit is looked up", "limit")
        return None
    if algorithm.build is not TokenBucket:
        table.error(f"'limit' is for a token bucket: write 'capacity' and {algorithm.rate_key!r}", "limit")
        return None
    twice = [key for key in ("capacity", algorithm.rate_key) if key in table.values]
    if twice:
        table.error(f"'limit' says what {' and '.join(map(repr, twice))} would: give one or the other", twice[0])
    try:
        return parse_limit(text)  # type: ignore[arg-type]  # its error explains a wrong type
    except _BAD_NUMBERS as error:
        table.error(str(error), "limit")
        return None


def _overrides(
    table: Table, algorithm: _Algorithm, inherited: Limit | None, vocabulary: Vocabulary
) -> tuple[Override, ...]:
    overrides = []
    example = 'overrides = [{ user = "alice", capacity = 500 }]'
    for number, override in enumerate(table.tables("overrides", example), 1):
        titled = Table(override.values, override.path, f"{table.title}: override {number}", override.report)
        match = _override_match(titled, algorithm, vocabulary)
        if match.keys() == {key for key, value in titled.values.items() if (key, value) != ("deny", False)}:
            titled.error(f"it changes nothing: give a 'capacity' or a {algorithm.rate_key!r}")
        # Without the rule's limit there is nothing to inherit, and the rule has its error already.
        limit = _limit(titled, algorithm, inherited) if inherited else None
        if limit and match and all(match.values()):
            overrides.append(Override(match, limit))
    return tuple(overrides)


def _override_match(table: Table, algorithm: _Algorithm, vocabulary: Vocabulary) -> Globs:
    """Return what an override matches: every key of its table that is not about the limit."""
    match = {}
    limit_keys = ("capacity", algorithm.rate_key, "limit", "deny")
    names = [key for key in table.values if key not in _LIMIT_KEYS]
    for name in names:
        if _is_slip(name, table.values[name], vocabulary):
            table.unknown(name, {*limit_keys, *(vocabulary.attributes or ())})
        else:
            match[name] = read_globs(table, name, vocabulary)
    if not names:
        table.error('it has no attribute to match: say whom it is for, such as user = "alice"')
    return match


def _is_slip(name: str, value: object, vocabulary: Vocabulary) -> bool:
    """Return whether a key of an override is a mistake rather than an attribute: a misspelt "refil_rate"."""
    if vocabulary.attributes is not None:
        return name not in vocabulary.attributes
    likeness = 0.75 if isinstance(value, str | list) else 0.6
    near = difflib.get_close_matches(name[:40].lower(), _LIMIT_KEYS, n=1, cutoff=likeness)
    return name in _RULE_KEYS or bool(near)


def read_globs(table: Table, name: str, vocabulary: Vocabulary) -> tuple[str, ...]:
    """Return the patterns that a table gives for an attribute. A tier that nobody can be in is an error."""
    vocabulary.check(table, name, name)
    globs = table.texts(name)
    if not globs and table.values[name] == []:
        table.error(f"{shown(name)} has no pattern, so nothing would match: leave it out to match everything", name)
    in_list = isinstance(table.values[name], list)
    for place, glob in enumerate(globs):
        inner = (name, place) if in_list else (name,)
        if name == "tier" and vocabulary.tiers is not None and glob not in vocabulary.tiers and not has_wildcard(glob):
            table.error(f"unknown tier {shown(glob)}{did_you_mean(glob[:40], vocabulary.tiers)}", *inner)
        elif why := why_never(name, glob, vocabulary.sources):
            table.error(f"{name!r}: {why}", *inner)
    return globs


def _cost(table: Table, limit: Limit | None, vocabulary: Vocabulary) -> int | str:
    cost = table.values.get("cost", 1)
    if isinstance(cost, str) and cost.startswith(HEADER):
        if not HEADER_NAME.fullmatch(cost, len(HEADER)):
            table.error(f"{shown(cost)} names no header: write, say, cost = 'header:x-cost'", "cost")
    elif isinstance(cost, str) and cost and not cost.isdigit():
        vocabulary.check(table, cost, "cost")
    elif isinstance(cost, bool) or not isinstance(cost, int) or cost < 0:
        hint = "a whole number (without quotes), an attribute's name, or 'header:NAME'"
        table.error(f"'cost' must be {hint}, not {kind(cost)}", "cost")
        return 1
    elif cost == 0:
        table.error("'cost' must be 1 or more: at a cost of 0 the rule would limit nothing", "cost")
        return 1
    elif limit and not limit.refuses_all and cost > limit.max_cost:
        table.error(f"'cost' is more than {limit} can ever admit ({limit.max_cost}): nothing would pass", "cost")
    return cost


def _check_cost_of_overrides(table: Table, cost: int | str, overrides: tuple[Override, ...]) -> None:
    for number, override in enumerate(overrides, 1):
        limit = override.limit
        if isinstance(cost, int) and not limit.refuses_all and cost > limit.max_cost:
            why = f"'cost' is more than {limit} of override {number} can ever admit ({limit.max_cost})"
            table.error(f"{why}: nothing would pass", "cost")


def _message(table: Table) -> str | None:
    text = table.values.get("message")
    if text is not None and not is_message(text):
        table.error(f"'message' {MESSAGE_FORM}", "message")
    return text if isinstance(text, str) else None


def _max_wait(table: Table) -> float | None:
    wait = table.values.get("max_wait")
    if "max_wait" not in table.values:
        return None
    if isinstance(wait, bool) or not isinstance(wait, int | float) or not wait >= 0:
        table.error(f"'max_wait' must be 0 or more seconds, not {kind(wait)}", "max_wait")
        return None
    return wait
