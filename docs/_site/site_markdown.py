"""Markdown for the site, where the plain Markdown of a code host is not enough. It knows no page."""

from __future__ import annotations

import re
from pathlib import Path

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

PICTURE = re.compile(r'<picture>\s*<source media="[^"]*" srcset="([^"]*)">\s*<img (.*?)>\s*</picture>', re.DOTALL)
TREE = re.compile(r"<!-- tree(?:: ([^>]*?))? -->")
"""Marks a page, or a section of it, whose links are the site's tree below it. It may name more pages, if they exist."""
LINK = re.compile(r"\[([^\]]+)\]\(([\w./-]+)\.md\)")
API = re.compile(r"(?m)^```{(auto\w+)} (.*)\n(:no-members:\n)?```$")
"""The place of a docstring."""
MEMBERS = "   :members:\n   :inherited-members: Exception, tuple, object, int, dict\n"
LAST_LINE = re.compile(r"(?m)^\n(?=```$)")
"""The empty line that ends the output of a session, for doctest."""
OTHERS = "---\nnosearch: true\norphan: true\n---\n\n"
"""For pages outside of docs/. A search is for users, and pages such as the changelog have all words."""
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


def one_for_each_theme(found: re.Match[str]) -> str:
    """Return the two images of a `picture` as directives: the reader's theme chooses, not the system's."""
    attributes = dict(re.findall(r'(\w+)="([^"]*)"', found[2]))
    words = " ".join(attributes["alt"].split())
    images = [(found[1], "only-dark"), (attributes["src"], "only-light")]
    return "\n".join(f"```{{image}} {source}\n:class: {theme}\n:alt: {words}\n```\n" for source, theme in images)


def docstring(found: re.Match[str]) -> str:
    """Return the directive of a docstring. autodoc writes reStructuredText."""
    members = MEMBERS if found[1] == "autoclass" and not found[3] else ""
    return f"```{{eval-rst}}\n.. {found[1]}:: {found[2]}\n{members}```"


def trees(text: str, page: Path) -> str:
    """Add the tree of each marked section: its links in their order, so that no list is kept twice.

    A list in a folder may name pages of other folders too. They have their place in the tree already.
    """
    sections = re.split(r"(?m)^(?=## )", text)
    top = page.parent.name == "docs"
    for number, section in enumerate(sections):
        marked = TREE.search(section)
        if marked:
            caption = re.match(r"## (.*)", section)
            words = [f":caption: {caption[1]}"] if caption else []
            pages = [f"{title} <{name}>" for title, name in LINK.findall(section) if top or not name.startswith("../")]
            pages += [name for name in (marked[1] or "").split() if page.with_name(f"{name}.md").exists()]
            sections[number] = "\n".join([section, "```{toctree}", ":hidden:", *words, "", *pages, "```", ""])
    return "\n".join(sections)


def for_the_site(app: Sphinx, docname: str, source: list[str]) -> None:
    text = PICTURE.sub(one_for_each_theme, trees(source[0], app.env.doc2path(docname)))
    text = API.sub(docstring, text)
    if not docname.startswith("docs/"):
        text = OTHERS + text
    source[0] = LAST_LINE.sub("", COMMENT.sub("", text))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", for_the_site)
    app.add_lexer("haproxy", TextLexer)  # Pygments has none
    return {"parallel_read_safe": True}
