"""The words are true: every block of README.md and docs/ is run, every example too, every picture is what is drawn."""

from __future__ import annotations

import doctest
import importlib
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from needs import need, need_program
from pages import PAGES, ROOT, Block, blocks, folder_of, modules, name_of, session
from redis_servers import patient_stores, redis_server
from resp_service import node_modules, ran, resp_example
from servers import backend, caddy, ratekeeper_service
from service_process import poll

from ratekeeper import IMPLEMENTATION, Limiter, Policy, SharedMemoryStore
from ratekeeper.service.http.admin_routes import OPERATIONS
from ratekeeper.testing import frozen

PACKAGE = ROOT / "src" / "ratekeeper"
MODULES = [path for path in PACKAGE.rglob("*.py") if ">>> " in path.read_text()]
# Run elsewhere: these by .ci/run in a fresh clone, installing by test_install.py, gateways by test_gateway.py.
RUN_BY_CI = ("make run", "make test", "pip install ")
PIPED = "printf "
REDIS_CLI = "redis-cli "
ADMIN_API = "/v1/admin/"
REDIS_URL = "redis://127.0.0.1:6379/0"
"""Where the pages have a server; the tests have one elsewhere."""
RESP_PORT = "6380"
"""Where the pages have a service for Redis clients."""
SUPPORT_STORE = "shared:my-api"
"""The store of the page on support; the tests have another."""
RUN_BY_TEST_WORKERS = ("gunicorn ", "uvicorn ")
LANGUAGES = {"console", "pycon", "python", "toml", "caddyfile", "nginx", "yaml", "haproxy", "javascript"}
TIME_PASSES = {"first-limiter.md", "waiting.md"}
"""The pages that show that time passes. A stall of seconds changes nothing that they show."""
OF_OTHERS = {"text"}
"""Lines of other libraries, those of frameworks beside them, and pictures."""


def test_every_block_is_of_a_kind_that_is_run_but_for_what_is_not_ours() -> None:
    assert {block.language for block in blocks()} <= LANGUAGES | OF_OTHERS
    assert {block.page.name for block in blocks(*OF_OTHERS)} <= {"migrate.md", "frameworks.md", "endpoints.md"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_in_the_pages_does_what_it_says(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder_of(page))
    code = session(page)
    with (
        redis_server() if REDIS_URL in code else nullcontext() as server,
        resp_example() if RESP_PORT in code else nullcontext(RESP_PORT) as resp,
    ):
        code = code.replace(REDIS_URL, server.url) if server else code
        code = code.replace(RESP_PORT, resp)
        test = doctest.DocTestParser().get_doctest(code, {}, page.name, str(page), 0)
        runner = doctest.DocTestRunner()
        # A reader of the others does not see time pass, so no stall of this machine may be seen.
        with nullcontext() if page.name in TIME_PASSES else frozen(), patient_stores():
            runner.run(test)
    assert runner.failures == 0


def test_the_type_checkers_get_the_python_of_every_page() -> None:
    assert {f"page_{name_of(block.page).lower()}" for block in blocks("pycon")} <= modules().keys()
    assert {block.text for block in blocks("python")} <= set(modules().values())
    for name, text in modules().items():
        compile(text, name, "exec")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_examples_in_docstrings_do_what_they_say(path: Path) -> None:
    name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    module = importlib.import_module(name)
    with frozen():
        result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed


class Command(NamedTuple):
    """A command of a page, and what the page says that it prints."""

    page: Path
    line: str
    output: str


def commands() -> list[Command]:
    found = []
    for block in blocks("console"):
        for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            line, _, output = part.partition("\n")
            found.append(Command(block.page, line.partition("  #")[0].strip(), output))
    return found


def normal(text: str) -> str:
    """Leave out what differs from run to run: hashes, dates, ports, space at the end of lines.

    A page may break the lines of JSON, and shorten a policy's text.
    """
    with suppress(ValueError):
        text = json.dumps(json.loads(text))
    text = re.sub(r'"text": "(?:[^"\\]|\\.)*"', '"text": "..."', text)
    text = re.sub(r"#[0-9a-f]{8}", "#########", text)
    text = re.sub(r"(?m)^(date: |made    ).*$", r"\1...", text)
    text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", text)
    text = re.sub(r'"((retry|reset)_after|delay|\w+_until|(\w+_)?at|span)": [\d.e-]+', r'"\1": ...', text)
    text = re.sub(r'"(version": "\w+"|key": "#\w+"|times": \[\d+\])', '"...', text)
    text = re.sub(r"(;t=|retry-after: |try again in )\d+", r"\1...", text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


@contextmanager
def table_in_use() -> Iterator[str]:
    """A table, by a name that no other run of the tests on this machine has."""
    need("the C core", IMPLEMENTATION == "c")
    with SharedMemoryStore(f"ratekeeper-docs-{os.getpid()}") as store:
        try:
            Limiter("100/day", store=store).try_acquire_many([f"key {n}" for n in range(123_456)])
            yield store.path.name
        finally:
            store.unlink()


def test_the_commands_for_support_print_what_the_page_shows_one_after_the_other() -> None:
    with table_in_use() as table:
        for command in [it for it in commands() if SUPPORT_STORE in it.line]:
            words = shlex.split(command.line.replace(SUPPORT_STORE, f"shared:{table}"))
            done = subprocess.run(
                [sys.executable, "-m", "ratekeeper.cli.main", *words[1:]], cwd=ROOT, capture_output=True, text=True
            )
            assert (done.returncode, done.stderr) == (0, "")
            assert normal(done.stdout) == normal(command.output)


@pytest.mark.parametrize(
    "command",
    [
        it
        for it in commands()
        if it.line.startswith("ratekeeper ") and "serve" not in it.line and SUPPORT_STORE not in it.line
    ],
    ids=lambda command: f"{command.page.name}: {command.line}",
)
def test_a_command_prints_what_the_page_shows(command: Command) -> None:
    _, *words = shlex.split(command.line)
    with table_in_use() if words[0] == "table" else nullcontext(words[-1]) as last:
        done = subprocess.run(
            [sys.executable, "-m", "ratekeeper.cli.main", *words[:-1], last],
            cwd=folder_of(command.page), capture_output=True, text=True, env={**os.environ, "COLUMNS": "100"},
        )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    assert normal(done.stdout.replace(last, words[-1])) == normal(command.output)


@pytest.mark.parametrize("command", [it for it in commands() if it.line.startswith(PIPED)], ids=lambda it: it.line)
def test_a_pipe_prints_what_the_page_shows(command: Command) -> None:
    line = command.line.replace("ratekeeper", f"{shlex.quote(sys.executable)} -m ratekeeper.cli.main")
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout == command.output


@pytest.mark.parametrize(
    "serving", [it for it in commands() if it.line.startswith("ratekeeper serve")], ids=lambda it: it.page.name
)
def test_the_service_says_and_answers_what_the_page_shows(serving: Command) -> None:
    need_program("curl")
    curls = [it for it in commands() if it.line.startswith("curl ") and it.page == serving.page]
    tries = re.findall(r"(?m)^  (curl .*)$", serving.output)
    assert set(tries) == {it.line for it in curls}, "what it says to try is what the page tries"
    folder, policy = folder_of(serving.page), shlex.split(serving.line)[2]
    announced: list[str] = []
    with ratekeeper_service(folder / policy, announced, held=True) as url:
        assert normal("".join(announced)).replace(f"{folder}/", "") == normal(serving.output)
        for curl in curls:
            line = re.sub(r"http://127\.0\.0\.1:\d+", url, curl.line)
            done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
            assert normal(done.stdout) == normal(curl.output)


@pytest.mark.parametrize("page", ["admin.md", "service.md"])
def test_the_service_answers_what_a_page_without_a_start_of_it_shows(page: str, tmp_path: Path) -> None:
    need_program("curl")
    curls = [it for it in commands() if it.page.name == page and it.line.startswith("curl ")]
    assert curls
    if page == "admin.md":
        assert set(re.findall(f"{ADMIN_API}([a-z-]+)", str(curls))) == OPERATIONS.keys()
    (tmp_path / "tokens").write_text(f"alice {'t' * 40}\n")
    (tmp_path / "admin.curl").write_text(f'header = "Authorization: Bearer {"t" * 40}"\n')
    options = ("--admin-tokens", str(tmp_path / "tokens"))
    with ratekeeper_service(ROOT / "examples" / "policy.toml", None, *options, held=True) as url:
        for curl in curls:
            words = ["bash", "-c", curl.line.replace("http://127.0.0.1:8080", url)]

            def said(words: list[str] = words) -> str:
                return normal(subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout)

            if "limited-keys" in curl.line:  # they are told a second later
                poll(lambda said=said, curl=curl: said() == normal(curl.output))  # type: ignore[misc]
            else:
                assert said() == normal(curl.output)


@pytest.mark.parametrize("command", [it for it in commands() if it.line.startswith(REDIS_CLI)], ids=lambda it: it.line)
def test_redis_cli_prints_what_the_page_shows(command: Command) -> None:
    need_program("redis-cli")
    with resp_example() as port:
        done = subprocess.run(shlex.split(command.line.replace(RESP_PORT, port)), capture_output=True, text=True)
    assert done.stdout == command.output.strip("\n") + "\n"


@pytest.mark.parametrize("block", blocks("javascript"), ids=str)
def test_a_program_for_node_prints_what_its_comments_say(block: Block) -> None:
    node, modules = need_program("node"), node_modules()
    with resp_example() as port:
        said = ran(node, "-e", block.text.replace(RESP_PORT, port), env={"NODE_PATH": str(modules)})
    assert said.splitlines() == re.findall(r"; // (.*)", block.text)


def test_every_other_command_is_run_by_ci() -> None:
    others = [it.line for it in commands() if not it.line.startswith(("ratekeeper ", "curl ", PIPED, REDIS_CLI))]
    assert all(line.startswith(RUN_BY_CI + RUN_BY_TEST_WORKERS) for line in others), others
    ci = (ROOT / ".ci" / "run").read_text()
    assert '" run PORT=0' in ci
    assert '" test PYTHON=' in ci


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_a_program_in_the_pages_is_one_of_the_examples(block: Block) -> None:
    assert block.text in [example.read_text() for example in (ROOT / "examples").rglob("*.py")]


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_every_policy_in_the_pages_loads(block: Block) -> None:
    Policy.parse(block.text if "[[rules]]" in block.text else block.text + '\n[[rules]]\nname = "r"\nlimit = "1/s"')


def test_the_configurations_of_gateways_in_the_page_are_the_examples() -> None:
    examples = [file.read_text() for file in (ROOT / "examples" / "gateways").glob("*/*") if file.is_file()]
    shown = [one for one in blocks("caddyfile", "nginx", "yaml", "haproxy") if one.page.name == "gateways.md"]
    assert len(shown) >= 4
    for block in shown:
        assert block.text in examples, block


@pytest.mark.parametrize("block", blocks("caddyfile"), ids=str)
def test_the_caddyfile_limits_a_real_caddy(block: Block, tmp_path: Path) -> None:
    with backend() as behind, ratekeeper_service(ROOT / "examples" / "policy.toml", held=True) as service:
        site = block.text.replace("127.0.0.1:8080", service.removeprefix("http://"))
        site = site.replace("127.0.0.1:9000", behind.address)
        with caddy(site, tmp_path) as url:
            behind.seen.clear()
            statuses = [httpx.get(f"{url}/api/x", headers={"X-Api-Key": "k-1"}).status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    assert len(behind.asked) == 3


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_every_example_runs(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out


def test_the_pictures_are_what_the_library_draws() -> None:
    draw = runpy.run_path(str(ROOT / "docs" / "pictures" / "draw.py"))
    for name, picture in draw["PICTURES"].items():
        assert (ROOT / "docs" / "pictures" / name).read_text() == draw["draw"](picture)


@pytest.mark.parametrize(
    "page",
    [*PAGES, *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md"))],
    ids=name_of,
)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
