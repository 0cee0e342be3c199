"""The documentation as a site: it builds without a warning, has every public name, and its search finds each task.

A newcomer types a few words into the search, and follows at most one link from there. So a task is two clicks away.
"""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest
from needs import ROOT, need, need_program

pytestmark = pytest.mark.slow

MODULES = [
    "ratekeeper",
    "ratekeeper.stores",
    "ratekeeper.testing",
    "ratekeeper.metrics.prometheus",
    "ratekeeper.metrics.opentelemetry",
    *(
        f"ratekeeper.frameworks.{name}"
        for name in ("aiohttp", "asgi", "django", "fastapi", "flask", "grpc", "starlette", "wsgi")
    ),
]
CLIENTS = [
    "ratekeeper.clients.aiohttp.RateLimitClientMiddleware",
    "ratekeeper.clients.celery.rate_limit",
    "ratekeeper.clients.httpx.AsyncRateLimitTransport",
    "ratekeeper.clients.httpx.RateLimitTransport",
    "ratekeeper.clients.requests.RateLimitAdapter",
    "ratekeeper.frameworks.drf.RateLimitThrottle",
]
TASKS = re.findall(r"(?m)^\| (.*?) \| `(.*?)` \| \[.*?\]\(docs/(.*?)\.md\) \|$", (ROOT / "CONTRIBUTING.md").read_text())
"""Each task of a newcomer, the words that they type, and the page: as CONTRIBUTING.md lists them."""
SHOWN = 5
"""The results of a search that a reader looks at."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("Sphinx, the group docs", find_spec("sphinx") is not None and find_spec("furo") is not None)
    folder = tmp_path_factory.mktemp("site")
    options = ["-b", "html", "-c", "docs", "-d", str(folder / "doctrees"), "-W", "--keep-going", "-q"]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, ".", str(folder / "html")], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "html"


def documented(site: Path) -> set[str]:
    """Return all Python names that the site has an entry for."""
    header, _, packed = (site / "objects.inv").read_bytes().partition(b"zlib.\n")
    assert header.startswith(b"# Sphinx inventory version 2")
    lines = zlib.decompress(packed).decode().splitlines()
    return {line.split()[0] for line in lines if line.split()[1].startswith("py:")}


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    modules = [importlib.import_module(name) for name in MODULES]
    names = documented(site)
    values = {id(value_of(name)) for name in names}
    for module in modules:
        for name in module.__all__:
            there = f"{module.__name__}.{name}" in names or id(getattr(module, name)) in values
            assert there, f"{module.__name__}.{name} is not in docs/api"
    assert set(CLIENTS) <= names


def value_of(name: str) -> object:
    """Return the value of a name in a module; None for a part of a class."""
    module, _, last = name.rpartition(".")
    return getattr(sys.modules.get(module), last, None)


class Links(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors.add(values.get("id") or "")
        target = values.get("href" if tag == "a" else "src") or ""
        if target and not target.startswith(("http:", "https:", "data:", "mailto:")):
            self.links.append(target)


def test_every_link_within_the_site_leads_to_a_page_and_to_a_place_on_it(site: Path) -> None:
    pages = {page.resolve(): Links(page.read_text()) for page in site.rglob("*.html")}
    broken = []
    for page, found in pages.items():
        for link in found.links:
            path, _, anchor = link.partition("#")
            target = (page.parent / path.partition("?")[0]).resolve() if path else page
            if not target.exists() or (anchor and target in pages and anchor not in pages[target].anchors):
                broken.append(f"{page.relative_to(site.resolve())}: {link}")
    assert not broken


@pytest.fixture(scope="module")
def found(site: Path) -> list[list[str]]:
    """The pages that the search finds for each task, the best first."""
    program = ROOT / "tests" / "support" / "search_site.js"
    queries = [query for _, query, _ in TASKS]
    done = subprocess.run([need_program("node"), program, site, *queries], capture_output=True, text=True, check=True)
    pages: list[list[str]] = [list(dict.fromkeys(names)) for names in json.loads(done.stdout)]
    return pages


@pytest.mark.parametrize("number", range(len(TASKS)), ids=[task for task, _, _ in TASKS])
def test_a_newcomer_finds_a_task_by_the_search(found: list[list[str]], number: int) -> None:
    _, query, page = TASKS[number]
    assert f"docs/{page}" in found[number][:SHOWN], f"{query!r} finds {found[number]}"


def test_the_list_of_tasks_has_ten() -> None:
    assert len(TASKS) >= 10
