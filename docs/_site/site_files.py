"""A page for each file of the project that a page links to, such as an example or a test, and a list for a folder.

So the site needs no code host. It does not know the meaning of any file.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.nodes import document
from pygments.lexers import get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.osutil import relative_uri

SKIPPED = {"__pycache__", "build"}
"""Folders of files that programs have made."""
LINKED = "ratekeeper_linked"
log = logging.getLogger(__name__)


def page_of(path: str) -> str:
    return f"files/{path}"


def link_to_pages(app: Sphinx, doctree: document) -> None:
    """Turn links to files into links to their pages. Sphinx itself would have the reader download them."""
    linked: dict[str, set[str]] = app.env.__dict__.setdefault(LINKED, {})
    here = app.env.current_document.docname
    linked[here] = set()
    root, folder = Path(app.srcdir), Path(app.srcdir, here).parent
    for link in [*doctree.findall(addnodes.download_reference), *doctree.findall(addnodes.pending_xref)]:
        target = (folder / link["reftarget"]).resolve()
        if isinstance(link, addnodes.pending_xref) and not (link.get("reftype") == "myst" and target.is_dir()):
            continue
        if not target.is_relative_to(root):
            log.warning("%s links out of the project: %s", here, target, location=link)
            continue
        path = target.relative_to(root).as_posix()
        linked[here].add(path)
        uri = relative_uri(f"{here}.html", f"{page_of(path)}.html")
        link.replace_self(nodes.reference("", "", *link.children, internal=True, refuri=uri))


def forget(app: Sphinx, env: Any, docname: str) -> None:
    env.__dict__.setdefault(LINKED, {}).pop(docname, None)


def with_all_inside(root: Path, paths: set[str]) -> dict[str, Path]:
    """Return the linked files and folders, and all files and folders inside of the folders."""
    found = {}
    for path in sorted(paths):
        inside = [root / path, *(root / path).rglob("*")]
        for one in inside:
            if not SKIPPED & set(one.parts):
                found[one.relative_to(root).as_posix()] = one
    return found


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield the pages of the files, each with its content as HTML."""
    linked: dict[str, set[str]] = getattr(app.env, LINKED, {})
    for path, place in with_all_inside(Path(app.srcdir), set().union(*linked.values())).items():
        body = folder_as_html(place) if place.is_dir() else file_as_html(app, place)
        title = html.escape(path)
        yield page_of(path), {"title": title, "body": f"<h1><code>{title}</code></h1>\n{body}"}, "page.html"


def folder_as_html(folder: Path) -> str:
    names = [(one.name, "/" if one.is_dir() else "") for one in sorted(folder.iterdir()) if one.name not in SKIPPED]
    links = [
        f'<li><a href="{html.escape(f"{folder.name}/{name}")}.html">{html.escape(name + mark)}</a></li>'
        for name, mark in names
    ]
    return f"<ul>{''.join(links)}</ul>"


def file_as_html(app: Sphinx, path: Path) -> str:
    text = path.read_text(errors="replace")
    try:
        language = get_lexer_for_filename(path.name).aliases[0]
    except ClassNotFound:
        language = "text"
    highlighter: Any = app.builder.highlighter  # type: ignore[attr-defined]  # a builder of HTML has one
    return str(highlighter.highlight_block(text, language, force=True))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-read", link_to_pages, priority=400)  # before Sphinx collects downloads
    app.connect("env-purge-doc", forget)
    app.connect("html-collect-pages", pages)
    return {"parallel_read_safe": False}
