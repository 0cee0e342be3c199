"""Load a folder of envoyproxy/ratelimit's configuration files, unchanged. All mistakes are told at once.

A limit of N requests per unit becomes a bucket of N tokens that refills at N per unit. So the start of a new window
allows no second burst. Keys that only name statistics (`detailed_metric`, `value_to_metric`) are read and have no
effect. A key that cannot be honoured is an error. Knows no protocol and no store.
"""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from ratekeeper.errors import LimitError, PolicyError, did_you_mean
from ratekeeper.policy.file.load import PolicyUnreadable, regular_file
from ratekeeper.service.envoy.model import EnvoyConfig, EnvoyLimit, Node, Wildcard, bucket
from ratekeeper.service.envoy.strict_yaml import StrictYaml

UNITS = {"second": 1, "minute": 2, "hour": 3, "day": 4, "week": 7, "month": 5, "year": 6}
"""The number of each unit in Envoy's messages."""

_MOST = 2**32 - 1
_MOST_BYTES = 16 * 2**20
_DEEPEST = 32
_ROOT = ("domain", "descriptors")
_DESCRIPTOR = (
    "key", "value", "rate_limit", "descriptors", "shadow_mode", "quota_mode", "share_threshold",
    "detailed_metric", "value_to_metric",
)  # fmt: skip
_LIMIT = ("unit", "requests_per_unit", "unlimited", "name", "replaces")
_NOT_HONOURED = {"metadata": "it is not sent to Envoy here: take it out, or give the limit a name"}


def load_envoy_config(folder: str | os.PathLike[str]) -> EnvoyConfig:
    """Return the configuration in a folder's `*.yaml` and `*.yml` files. Raise `PolicyError` with all mistakes."""
    source = os.fspath(folder)
    domains: dict[str, Node] = {}
    errors: list[str] = []
    for path in config_files(source):
        try:
            with regular_file(path) as file:
                data = file.read(_MOST_BYTES + 1)
            text = data.decode()
        except PolicyUnreadable as error:
            errors.append(str(error))
            continue
        except UnicodeDecodeError as error:
            errors.append(f"{path}: {error}")
            continue
        if len(data) > _MOST_BYTES:
            errors.append(f"{path}: the file has more than {_MOST_BYTES} bytes")
            continue
        try:
            _File(str(path), errors).load(text, domains)
        except PolicyError as error:
            errors = [str(error)]
            break
    if errors:
        raise PolicyError("\n".join(errors))
    return EnvoyConfig(domains, source)


def config_files(folder: str) -> list[Path]:
    """Return the configuration files of a folder, by name. Raise `PolicyError` if there are none."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise PolicyError(f"{folder}: {error.strerror}: --envoy-config needs a folder of *.yaml files") from None
    found = [Path(folder, name) for name in names if name.endswith((".yaml", ".yml")) and not name.startswith(".")]
    if not found:
        raise PolicyError(f"{folder}: there is no *.yaml file in it, so nothing would be limited")
    return found


class _File:
    """One file."""

    def __init__(self, source: str, errors: list[str]) -> None:
        self._yaml = StrictYaml(source, errors)

    def load(self, text: str, domains: dict[str, Node]) -> None:
        """Add the file's domain to the others."""
        document = self._yaml.parse(text)
        if document is None:
            return
        root = self._yaml.mapping(document, _ROOT, "the file")
        domain = self._yaml.text(root.get("domain"), "domain")
        if not domain:
            self._yaml.add(document, "the file needs a domain")
        elif domain in domains:
            self._yaml.add(root["domain"], f"the domain {domain!r} is in another file too: it can be in one")
        domains[domain] = top = Node()
        self._descriptors(top, root.get("descriptors"), domain, _DEEPEST)

    def _descriptors(self, above: Node, listed: yaml.Node | None, label: str, depth: int) -> None:
        for one in self._yaml.each(listed, "descriptors"):
            if depth == 0:
                self._yaml.add(one, f"descriptors are nested more than {_DEEPEST} deep")
                return
            self._descriptor(above, one, label, depth)

    def _descriptor(self, above: Node, node: yaml.Node, label: str, depth: int) -> None:
        parts = self._yaml.mapping(node, (*_DESCRIPTOR, *_NOT_HONOURED), "a descriptor")
        for name in parts.keys() & _NOT_HONOURED.keys():
            self._yaml.add(parts[name], f"{name!r} cannot be honoured: {_NOT_HONOURED[name]}")
        key, value = (self._yaml.text(parts.get(name), name) for name in ("key", "value"))
        if not key or "*" in key:
            self._yaml.add(node, "a descriptor needs a key" if not key else "a '*' can be in a value, not in a key")
            return
        for name in ("detailed_metric", "value_to_metric"):
            self._yaml.flag(parts.get(name), name)
        own = f"{label}.{key}"
        made = Node(self._limit(parts, own))
        shared = self._yaml.flag(parts.get("share_threshold"), "share_threshold")
        if shared and "*" not in value:
            self._yaml.add(parts["share_threshold"], "share_threshold needs a value with '*'")
        if not self._place(above, key, value, made, shared):
            self._yaml.add(node, f"the descriptor {own!r} is there twice with {'one value' if value else 'no value'}")
        self._descriptors(made, parts.get("descriptors"), own, depth - 1)

    @staticmethod
    def _place(above: Node, key: str, value: str, node: Node, shared: bool) -> bool:
        """Put a descriptor among its siblings. Return False if there is one like it."""
        if "*" in value:
            known = any((one.key, one.value) == (key, value) for one in above.wildcards)
            above.wildcards.append(Wildcard(key, value, node, shared))
            return not known
        if value:
            return above.exact.setdefault((key, value), node) is node
        return above.bare.setdefault(key, node) is node

    def _limit(self, descriptor: dict[str, yaml.Node], label: str) -> EnvoyLimit | None:
        shadow = self._yaml.flag(descriptor.get("shadow_mode"), "shadow_mode")
        quota = self._yaml.flag(descriptor.get("quota_mode"), "quota_mode")
        node = descriptor.get("rate_limit")
        if node is None:
            return None
        parts = self._yaml.mapping(node, _LIMIT, "rate_limit")
        name = self._yaml.text(parts.get("name"), "name")
        replaces = tuple(self._replaced(one, name) for one in self._yaml.each(parts.get("replaces"), "replaces"))
        if self._yaml.flag(parts.get("unlimited"), "unlimited"):
            if "unit" in parts:
                self._yaml.add(parts["unit"], "unit has no meaning beside unlimited: take one of them out")
            return EnvoyLimit(name or label, None, 0, 0, shadow, quota, name, replaces)
        unit = self._unit(node, parts)
        if "requests_per_unit" not in parts:
            self._yaml.add(node, "rate_limit needs requests_per_unit; 0 refuses all requests")
            return None
        requests = self._yaml.number(parts["requests_per_unit"], _MOST, "requests_per_unit")
        try:
            limit = bucket(requests, unit)
        except LimitError as error:
            self._yaml.add(node, str(error))
            return None
        return EnvoyLimit(name or label, limit, requests, unit, shadow, quota, name, replaces)

    def _unit(self, node: yaml.Node, parts: dict[str, yaml.Node]) -> int:
        unit = self._yaml.text(parts.get("unit"), "unit").lower()
        if unit not in UNITS:
            hint = did_you_mean(unit[:40], UNITS) if unit else f": {', '.join(UNITS)}"
            self._yaml.add(parts.get("unit", node), f"rate_limit needs a unit, not {unit[:40]!r}{hint}")
        return UNITS.get(unit, 1)

    def _replaced(self, node: yaml.Node, own: str) -> str:
        replaced = self._yaml.text(self._yaml.mapping(node, ("name",), "replaces").get("name"), "name")
        if not replaced or replaced == own:
            self._yaml.add(node, "replaces needs the name of another limit")
        return replaced
