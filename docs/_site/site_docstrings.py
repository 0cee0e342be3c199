"""The API's pages: docstrings as reStructuredText, and names as links.

A docstring is written to be read as it stands: paragraphs, `names` in backticks, examples, and tables of options with
their words in columns. It knows no docstring.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable
from typing import Any

from docutils import nodes
from docutils.parsers.rst import roles
from docutils.parsers.rst.states import Inliner
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import ratekeeper

ROW = re.compile(r"(\S+(?: \S+)*) {2,}(\S.*)")
"""A row of a table of options: a name, and its meaning in a column."""
SPECIAL = re.compile(r"(?<!`)([*|\\]|_\b)(?!`)")
PAGE = re.compile(r"(docs/[\w/-]+)\.md")
PUBLIC = {
    f"{value.__module__}.{value.__qualname__}": f"{module}.{name}"
    for module in ("ratekeeper.stores", "ratekeeper")
    for name, value in vars(importlib.import_module(module)).items()
    if hasattr(value, "__qualname__") and value.__module__.startswith("ratekeeper")
}
"""By the place where a name is defined, the place where people find it."""


def as_rst(lines: list[str]) -> list[str]:
    """Return a docstring as reStructuredText."""
    found: list[str] = []
    for block in "\n".join(lines).split("\n\n"):
        found += [*of_block(block.strip("\n").splitlines()), ""]
    return found


def of_block(block: list[str]) -> Iterable[str]:
    if not block or block[0].lstrip().startswith((">>> ", "- ", "* ", ".. ")):
        return block
    if all(line.startswith("    ") for line in block):
        return ["::", "", *block]
    if ROW.fullmatch(block[0]) and all(ROW.fullmatch(line) or line.startswith("  ") for line in block):
        return of_table(block)
    return plain("\n".join(block)).split("\n")


def of_table(block: list[str]) -> Iterable[str]:
    for line in block:
        row = None if line.startswith("  ") else ROW.fullmatch(line)
        if row:
            yield f"``{row[1]}``"
        yield f"    {plain(row[2] if row else line.strip())}"


def plain(text: str) -> str:
    """Escape the characters that mean something in reStructuredText, outside of backticks. Pages become links."""
    parts = re.split(r"(`[^`]*`)", text)
    for number in range(0, len(parts), 2):
        words = PAGE.sub(r":doc:`/\1`", SPECIAL.sub(r"\\\1", parts[number]))
        parts[number] = "\\ " + words if number and words[:1].isalnum() else words
    return "".join(parts)


def process(app: Sphinx, what: str, name: str, value: object, options: Any, lines: list[str]) -> None:
    lines[:] = as_rst(lines)


def name_role(
    name: str, rawtext: str, text: str, lineno: int, inliner: Inliner, options: Any = None, content: Any = None
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    """Return the node of a name in backticks: a link if it is a public name, and code in any case."""
    first = text.partition(".")[0].partition("(")[0]
    code = nodes.literal(text, text)
    if first not in ratekeeper.__all__:
        return [code], []
    target = f"ratekeeper.{text.partition('(')[0]}"
    link = addnodes.pending_xref(
        "", code, refdomain="py", reftype="obj", reftarget=target, refexplicit=True, refwarn=False
    )
    return [link], []


def resolve(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.Element
) -> nodes.Node | None:
    """Return the link of a type in a signature. Types of others, and those that are not public, are only shown."""
    if node.get("refdomain") != "py":
        return None
    if isinstance(content, addnodes.pending_xref_condition):
        short = next(one for one in node.findall(addnodes.pending_xref_condition) if one["condition"] == "resolved")
        content = nodes.inline("", "", *short.children)
    target = PUBLIC.get(node["reftarget"])
    if target and target != node["reftarget"]:
        domain: Any = env.domains["py"]
        found = domain.resolve_xref(env, node["refdoc"], app.builder, "obj", target, node, content)
        if found is not None:
            return found  # type: ignore[no-any-return]
    return content


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", process)
    app.connect("missing-reference", resolve)
    roles.register_local_role("name", name_role)  # type: ignore[arg-type]
    return {"parallel_read_safe": True}
