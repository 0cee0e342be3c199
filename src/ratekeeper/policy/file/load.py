"""Reads a policy file (TOML) into a `Policy`, or raises one `PolicyError` that lists every error in it.

Knows the file's top level, `exempt` and [tiers]; a rule's table is read by `load_rule`, [attributes] by
`load_attributes`, [store] by `load_store`.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from contextlib import contextmanager
from hashlib import sha256
from os import fspath
from typing import IO, TYPE_CHECKING

from ratekeeper.errors import PolicyError, did_you_mean
from ratekeeper.policy.file.attributes import read_attributes
from ratekeeper.policy.file.checks import exempts_all_together, why_no_exemption, why_no_tier_value
from ratekeeper.policy.file.rule import Vocabulary, cost_source, read_globs, read_rule
from ratekeeper.policy.file.store import read_store
from ratekeeper.policy.file.toml_lines import lines_of
from ratekeeper.policy.hashes import is_hash
from ratekeeper.policy.model import Policy, Rule, Tiers
from ratekeeper.policy.reader import Report, Table, shown
from ratekeeper.policy.spelling import digest, spelled

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

    from ratekeeper.policy.patterns import Globs

_TOP = ("exempt", "attributes", "tiers", "store", "rules")
_BUILTIN = frozenset({"method", "path", "client", "route", "endpoint"})
"""The attributes that a file need not declare. With a table [tiers], `tier` is one more."""

MAX_BYTES = 4 * 2**20
"""The longest policy file that is read."""

_KINDS = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO"}

_TOML_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


class PolicyUnreadable(PolicyError):
    """A policy file that cannot be read: it is not there, it is not a file, or its permissions forbid it."""


def load_policy(path: str | PathLike[str]) -> Policy:
    """Read a policy file. Raises `PolicyError`."""
    return parse_policy(policy_text(path), fspath(path))


def policy_text(path: str | PathLike[str]) -> str:
    """Return a policy file's content. Raise `PolicyError` if the path is not a readable regular file of UTF-8.

    Nothing can hang this, or fill memory: a FIFO or a device is refused unread, and at most `MAX_BYTES` are read.
    """
    with regular_file(path) as file:
        return decoded_policy(file, fspath(path))


@contextmanager
def regular_file(path: str | PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a file for reading. Raise `PolicyUnreadable` for a FIFO or a device, which could hang the reader."""
    source = fspath(path)
    if not source:
        raise PolicyUnreadable("the policy file's name is empty: name a file, such as policy.toml")
    try:
        descriptor = os.open(source, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise PolicyUnreadable(f"{source}: is {_KINDS.get(stat.S_IFMT(mode), 'a device')}, not a policy file")
            with open(descriptor, "rb", closefd=False) as file:
                yield file
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise PolicyUnreadable(f"{source}: no such file") from None
    except OSError as error:
        raise PolicyUnreadable(f"{source}: cannot be read: {error.strerror}") from error


def decoded_policy(file: IO[bytes], source: str) -> str:
    """Return the content of an open policy file. Raise `PolicyError` if it is too long, or not UTF-8."""
    data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise PolicyError(f"{source}: is longer than 4 MiB ({MAX_BYTES:,} bytes), the most that a policy may have")
    try:
        return data.decode("utf-8-sig")  # editors on Windows put a byte order mark first
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PolicyError(f"{source}:{line}: not UTF-8 text: byte 0x{data[error.start]:02x}") from None


def parse_policy(text: str, source: str = "<policy>") -> Policy:
    """Read a policy from the text of a policy file. Raises `PolicyError`, naming `source`."""
    top = Table(_toml(text, source), (), "", Report(source, lines_of(text)))
    _check_top(top)
    attributes, tiers_table = top.table("attributes", "[attributes]"), top.table("tiers", "[tiers]")
    sources = read_attributes(attributes, has_tiers="tiers" in top.values)
    any_name = "attributes" not in top.values
    vocabulary = Vocabulary(
        None if any_name else _BUILTIN | set(sources) | ({"tier"} if "tiers" in top.values else set()),
        _tier_names(tiers_table),
        sources,
    )
    tiers = _tiers(tiers_table, vocabulary)
    rules = _rules(top, vocabulary)
    exempt = _exempt(top, vocabulary)
    store_table = top.table("store", "[store]")
    store = read_store(store_table, any(rule.on_error == "local" for rule in rules)) if store_table else None
    top.report.finish()
    sources |= {rule.cost: header for rule in rules if isinstance(rule.cost, str) and (header := cost_source(rule))}
    version = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return Policy(rules, sources, tiers, source, store, exempt, version, text)


def _toml(text: str, source: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise PolicyError(f"{source}: not TOML: nested too deep") from None
    except ValueError as error:  # TOMLDecodeError, or Python's own of a number with too many digits
        message = str(error)
    place = _TOML_PLACE.search(message)
    if place is None:
        raise PolicyError(f"{source}: not TOML: {message}")
    line = place[1] or text.rstrip("\n").count("\n") + 1
    column = f" (column {place[2]})" if place[2] else " (the file ends too early)"
    raise PolicyError(f"{source}:{line}: not TOML: {message[: place.start()]}{column}")


def _check_top(top: Table) -> None:
    for key, value in top.values.items():
        if key not in _TOP:
            what = "table" if isinstance(value, dict | list) else "key"
            top.error(f"unknown {what} {shown(key)}{did_you_mean(key[:40], _TOP)}", key)
    _check_place_of_exempt(top)
    if top.lacks("rules", "[[rules]], for a policy without a rule would limit nothing", _TOP):
        return
    if isinstance(top.values["rules"], dict):
        top.error("'rules' is a list of tables: write [[rules]], with two brackets", "rules")
    elif top.values["rules"] == []:
        top.error("'rules' is empty: a policy without a rule would limit nothing", "rules")


def _check_place_of_exempt(top: Table) -> None:
    """Add an error for an `exempt` after a table's header: TOML makes it a key of that table."""
    for key, value in top.values.items():
        tables = value if isinstance(value, list) else [value]
        for place, table in enumerate(tables):
            if key != "exempt" and isinstance(table, dict) and isinstance(table.get("exempt"), list):
                where = (key, place, "exempt") if isinstance(value, list) else (key, "exempt")
                top.error(f"'exempt' is a key of the file, here it is one of [{key}]: move it above all tables", *where)


def _exempt(top: Table, vocabulary: Vocabulary) -> tuple[Globs, ...]:
    entries = []
    for number, entry in enumerate(top.tables("exempt", 'exempt = [{ path = "/healthz" }]'), 1):
        table = Table(entry.values, entry.path, f"exempt {number}", entry.report)
        if not table.values:
            table.error("it is empty, so every request would match it: say whom it is for, such as { path = '/x' }")
        match = {name: read_globs(table, name, vocabulary) for name in table.values}
        if match and all(match.values()):  # else it has its error already
            if why := why_no_exemption(match, vocabulary.sources, vocabulary.tiers or ()):
                table.error(why)
            entries.append(match)
    if not top.report and (name := exempts_all_together(entries, vocabulary.sources, vocabulary.tiers or ())):
        top.error(f"'exempt': its entries for {name!r} match every request between them: nothing is limited", "exempt")
    return tuple(entries)


def _tier_names(table: Table | None) -> frozenset[str] | None:
    """Return every tier there is; None where that cannot be known, so that no rule is blamed for it."""
    if table is None or not isinstance(table.values.get("default"), str):
        return None
    return frozenset({str(table.values["default"]), *(table.values.keys() - {"by", "default"})})


def _tiers(table: Table | None, vocabulary: Vocabulary) -> Tiers | None:
    if table is None:
        return None
    tier_by_value: dict[str, str] = {}
    seen: dict[str, str] = {}
    by = ""
    lists = [value for value in table.values.values() if isinstance(value, list)]
    own = digest if any(isinstance(value, str) and is_hash(value) for each in lists for value in each) else spelled
    if not table.lacks("by", "by = 'api_key'", table.values) and (by := table.text("by")):
        if by == "tier":
            table.error("'by' cannot be 'tier', which is what this table gives", "by")
        vocabulary.check(table, by, "by")
    if not table.lacks("default", "default = 'free'", table.values):
        table.text("default")
    for tier in table.values:
        if tier in ("by", "default"):
            continue
        for place, value in enumerate(table.texts(tier, single=False)):
            tier_by_value.setdefault(value, tier)
            other = seen.setdefault(own(by, value, vocabulary.sources), tier)
            # The value is likely to be a key, so it is not named.
            if other != tier:
                table.error(
                    f"number {place + 1} of {shown(tier)} is also in {shown(other)}: it can be in one", tier, place
                )
            elif why := why_no_tier_value(by, value, vocabulary.sources):
                table.error(f"number {place + 1} of {shown(tier)} {why}", tier, place)
    return Tiers(str(table.values.get("by")), str(table.values.get("default")), tier_by_value)


def _rules(top: Table, vocabulary: Vocabulary) -> tuple[Rule, ...]:
    if isinstance(top.values.get("rules"), dict):
        return ()
    first: dict[str, int] = {}
    rules = []
    for number, table in enumerate(top.tables("rules", "[[rules]]"), 1):
        name = table.values.get("name")
        if isinstance(name, str) and first.setdefault(name, number) != number:
            table.error(f"rule {number}: rule {first[name]} is named {shown(name)} too: each needs its own", "name")
        rule = read_rule(table, vocabulary)
        if rule:
            rules.append(rule)
    return tuple(rules)
