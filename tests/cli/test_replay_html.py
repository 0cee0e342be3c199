"""The HTML report: one file that asks for nothing, tells the same numbers as the terminal, and obeys no name in it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import pytest
from needs import need

from ratekeeper.cli.main import main

EXAMPLES = Path(__file__).parents[2] / "examples"
EVIL = '\x1b[2J</style><script>alert(1)</script>\u202e"><img src=x onerror=alert(2)>'
ALLOWED = {
    "html", "head", "meta", "title", "style", "body", "header", "main", "footer", "h1", "h2", "p", "bdi", "dl", "div",
    "dt", "dd", "ul", "li", "svg", "rect", "line", "text", "details", "summary", "table", "thead", "tbody", "tr", "th",
    "td", "small", "span",
}  # fmt: skip
VOID = {"meta"}


class Page(HTMLParser):
    """The elements and the text of a page. Each element is closed, in the right order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def written(tmp_path: Path, policy: Path, log: Path, *options: str) -> str:
    report = tmp_path / "report.html"
    assert main(["replay", str(policy), str(log), "--html", str(report), *options]) == 0
    return report.read_text(encoding="utf-8")


def evil(tmp_path: Path) -> tuple[Path, Path]:
    """A policy and a log whose names are hostile."""
    policy, log = tmp_path / "policy.toml", tmp_path / "<b>access&.log"
    policy.write_text('[[rules]]\nname = "<img src=x onerror=alert(3)>"\nkey = ["user"]\nlimit = "2/minute"\n')
    keys = [EVIL, EVIL + "x" * 10_000, "שלום", "a&amp;b", "'"]
    lines = [{"ts": 1_700_000_000 + n, "path": "/", "user": key} for n in range(20) for key in keys]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return policy, log


def test_the_page_has_the_numbers_of_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = Page(written(tmp_path, EXAMPLES / "policy.toml", EXAMPLES / "access.log", "--json"))
    report = json.loads(capsys.readouterr().out)
    for name in ("requests", "admitted", "rejected", "delayed"):
        assert f"{report[name]:,}" in page.words
    for rule in report["rules"]:
        assert rule["rule"] in page.words
    assert report["most_rejected"][0]["bucket"].partition("#")[0] in page.words
    tables = page.words.count("The same as a table")
    assert tables == 1
    assert len(re.findall(r"12:1\d:\d0|12:2\d:\d0", page.words)) >= len(report["timeline"]["admitted"])


def test_the_bars_over_time_fill_the_room_between_their_axes(tmp_path: Path) -> None:
    text = written(tmp_path, EXAMPLES / "policy.toml", EXAMPLES / "access.log")
    [chart] = re.findall(r'<svg class="chart".*?</svg>', text, re.DOTALL)
    lines = [each for tag, each in Page(chart).elements if tag == "line"]
    bars = [each for tag, each in Page(chart).elements if tag == "rect"]
    left, right = ({float(line[end] or "") for line in lines} for end in ("x1", "x2"))
    heights = {float(line["y1"] or "") for line in lines}
    for bar in bars:
        x, y, width, height = (float(bar[name] or "") for name in ("x", "y", "width", "height"))
        assert max(left) <= x
        assert x + width <= min(right)
        assert min(heights) <= y
        assert y + height <= max(heights) + 0.1
    assert float(bars[-1]["x"] or "") > 0.9 * min(right)


def test_the_page_asks_for_nothing_and_runs_nothing(tmp_path: Path) -> None:
    for policy, log in ((EXAMPLES / "policy.toml", EXAMPLES / "access.log"), evil(tmp_path)):
        text = written(tmp_path, policy, log, "--show-keys")
        page = Page(text)
        assert {name for name, _ in page.elements} <= ALLOWED
        names = {attribute for _, attributes in page.elements for attribute in attributes}
        assert not {name for name in names if name.startswith("on") or name in ("style", "src", "href", "srcset")}
        assert "url(" not in text
        assert "@import" not in text


def test_the_policy_of_the_page_allows_its_own_style_and_nothing_else(tmp_path: Path) -> None:
    text = written(tmp_path, EXAMPLES / "policy.toml", EXAMPLES / "access.log")
    [style] = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    [allowed] = [
        attributes["content"]
        for name, attributes in Page(text).elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    digest = b64encode(sha256(style.encode()).digest()).decode()
    assert allowed == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def test_hostile_names_are_shown_and_obeyed_by_nobody(tmp_path: Path) -> None:
    text = written(tmp_path, *evil(tmp_path), "--show-keys")
    page = Page(text)
    assert "<img src=x onerror=alert(3)>" in page.words
    assert r"user=\x1b[2J</style><script>alert(1)</script>\u202e" in page.words
    assert "a&amp;b" in page.words
    assert "x" * 100 not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert re.search(r"<bdi>user=שלום</bdi>", text)
    assert re.search(r"<bdi>&lt;b&gt;access&amp;.log</bdi>", text)


def test_keys_are_hashed_unless_asked_for(tmp_path: Path) -> None:
    assert "שלום" not in written(tmp_path, *evil(tmp_path))


def test_a_log_of_one_moment_without_a_rejection_says_so(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    log.write_text('{"ts": 1700000000, "path": "/healthz"}\n')
    page = Page(written(tmp_path, EXAMPLES / "policy.toml", log))
    assert "All requests came within a second: there is nothing to draw." in page.words
    assert "Nothing was rejected." in page.words


def test_lines_that_were_not_read_are_counted_beside_all_lines(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    log.write_text('{"ts": 1700000000, "path": "/healthz"}\nnonsense\n{}\n')
    assert "lines not read2of 3" in Page(written(tmp_path, EXAMPLES / "policy.toml", log)).words


@pytest.mark.parametrize("target", ["policy.toml", "access.log"])
def test_a_report_overwrites_neither_the_policy_nor_the_log(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("policy.toml", "access.log"):
        shutil.copy(EXAMPLES / name, tmp_path)
    before = (tmp_path / target).read_bytes()
    words = ["replay", str(tmp_path / "policy.toml"), str(tmp_path / "access.log"), "--html"]
    assert main([*words, str(tmp_path / target)]) == 2
    assert "would overwrite what is read: name another file" in capsys.readouterr().err
    assert (tmp_path / target).read_bytes() == before


def test_a_report_that_cannot_be_written_is_an_error_before_the_log_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "none" / "report.html"
    assert main(["replay", str(EXAMPLES / "policy.toml"), str(tmp_path / "no.log"), "--html", str(page)]) == 2
    assert capsys.readouterr().err == f"ratekeeper: {page}: No such file or directory\n"


def test_a_replay_that_fails_leaves_no_empty_report_and_the_old_one_as_it_was(tmp_path: Path) -> None:
    new, old = tmp_path / "new.html", tmp_path / "old.html"
    old.write_text("an old report")
    for page in (new, old):
        assert main(["replay", str(EXAMPLES / "policy.toml"), str(tmp_path / "no.log"), "--html", str(page)]) == 2
    assert not new.exists()
    assert old.read_text() == "an old report"


@pytest.mark.slow
def test_a_browser_runs_nothing_of_it(tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    need("chromium", chromium is not None)
    assert chromium is not None
    written(tmp_path, *evil(tmp_path), "--show-keys")
    options = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    command = [
        chromium, *options.split(), "--disable-component-update", f"--user-data-dir={tmp_path / 'browser'}",
        "--enable-logging=stderr", "--dump-dom", f"file://{tmp_path / 'report.html'}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "Rule by rule" in done.stdout
    assert "<script" not in done.stdout
    assert "CONSOLE" not in done.stderr
