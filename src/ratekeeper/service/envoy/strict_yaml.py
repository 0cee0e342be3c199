"""StrictYaml: one YAML file, read with types. An error says the file, the line, and what would be right.

A key that is unknown or repeated is an error. Scalars are read as they are written, as a string such as `404` needs no
quotes. Merge keys and aliases work, up to a bound. Knows no limits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress

import yaml

from ratekeeper.errors import PolicyError, did_you_mean

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_MOST_MAPPINGS = 100_000
_SHOWN = 40


class StrictYaml:
    """One file. Its methods add an error to `errors`, and return a stand-in, if a value is not right."""

    def __init__(self, source: str, errors: list[str]) -> None:
        self._source = source
        self._errors = errors
        self._visited = 0
        self._constructor = yaml.constructor.SafeConstructor()

    def parse(self, text: str) -> yaml.Node | None:
        """Return the document in a string; None if there is none, or if it is not YAML."""
        try:
            document: yaml.Node | None = yaml.compose(text, Loader=_LOADER)
        except yaml.MarkedYAMLError as error:
            line = "" if error.problem_mark is None else f":{error.problem_mark.line + 1}"
            self._errors.append(f"{self._source}{line}: this is not YAML: {error.problem}")
        except (yaml.YAMLError, RecursionError) as error:
            self._errors.append(f"{self._source}: this is not YAML: {error}")
        else:
            if document is None:
                self._errors.append(f"{self._source}: the file is empty")
            return document
        return None

    def add(self, node: yaml.Node, message: str) -> None:
        """Add an error at the line of a node."""
        self._errors.append(f"{self._source}:{node.start_mark.line + 1}: {message}")

    def mapping(self, node: yaml.Node, known: Collection[str], what: str) -> dict[str, yaml.Node]:
        """Return the values of a mapping by their keys, without null. Raise `PolicyError` if there are far too many."""
        self._visited += 1
        if not isinstance(node, yaml.MappingNode):
            self.add(node, f"{what} must be a mapping with {', '.join(known)}")
            return {}
        if self._visited > _MOST_MAPPINGS:
            raise PolicyError(f"{self._source}: more than {_MOST_MAPPINGS:,} mappings: do aliases multiply themselves?")
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if key.tag == f"{_TAG}merge":
                continue
            if name in seen:
                self.add(key, f"{what}: {name[:_SHOWN]!r} is there twice")
            seen.add(name)
            if name not in known:
                self.add(key, f"{what}: unknown key {name[:_SHOWN]!r}{did_you_mean(name[:_SHOWN], known)}")
        try:
            self._constructor.flatten_mapping(node)
        except (yaml.constructor.ConstructorError, RecursionError):
            self.add(node, f"{what}: '<<' must be a mapping")
            return {}
        last = {str(key.value): (key, value) for key, value in node.value}  # its own keys come after the merged ones
        node.value = [*last.values()]
        return {name: value for name, (_, value) in last.items() if value.tag != f"{_TAG}null"}

    def each(self, node: yaml.Node | None, what: str) -> Iterator[yaml.Node]:
        """Yield the values of a list. Yield nothing if the key is missing."""
        if isinstance(node, yaml.SequenceNode):
            yield from node.value
        elif node is not None:
            self.add(node, f"{what} must be a list")

    def text(self, node: yaml.Node | None, what: str) -> str:
        """Return a string, as it is written; "" if there is none."""
        if node is None:
            return ""
        if not isinstance(node, yaml.ScalarNode):
            self.add(node, f"{what} must be a string")
            return ""
        return str(node.value)

    def flag(self, node: yaml.Node | None, what: str) -> bool:
        """Return true or false; false if there is none."""
        if node is None:
            return False
        flag = None
        if isinstance(node, yaml.ScalarNode) and node.tag == f"{_TAG}bool":
            flag = self._constructor.bool_values.get(node.value.lower())
        if flag is None:
            self.add(node, f"{what} must be true or false")
        return bool(flag)

    def number(self, node: yaml.Node, most: int, what: str) -> int:
        """Return a whole number from 0 to `most`. One like `1:30`, which YAML 1.1 reads as 90, is not right."""
        number = -1
        if isinstance(node, yaml.ScalarNode) and node.tag == f"{_TAG}int" and ":" not in node.value:
            with suppress(ValueError, IndexError):  # a tag may stand before any text, and digits may be far too many
                number = self._constructor.construct_yaml_int(node)
        if not 0 <= number <= most:
            self.add(node, f"{what} must be a whole number from 0 to {most}")
            return 0
        return int(number)
