"""The files around the code: workflows, templates, versions, commands. Each is checked by a program, or by its use."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from contextlib import ExitStack
from pathlib import Path
from subprocess import PIPE

import pytest
import yaml
from needs import ROOT, need_program

import ratekeeper

GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
SCHEMAS = {
    "github-workflows": WORKFLOWS,
    "dependabot": [GITHUB / "dependabot.yml"],
    "github-issue-config": [GITHUB / "ISSUE_TEMPLATE" / "config.yml"],
    "github-issue-forms": [GITHUB / "ISSUE_TEMPLATE" / name for name in ("bug.yml", "feature.yml")],
}


@pytest.mark.parametrize("schema", SCHEMAS)
def test_files_for_the_code_host_fit_its_schema(schema: str) -> None:
    command = [need_program("check-jsonschema"), "--builtin-schema", f"vendor.{schema}", *map(str, SCHEMAS[schema])]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_runs_only_code_that_cannot_change_unseen(workflow: Path) -> None:
    used = re.findall(r"uses: (\S+)", workflow.read_text())
    assert used
    assert [
        name for name in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}|\./\.github/workflows/\w+\.yml", name)
    ] == []


def test_commands_and_files_of_workflows_are_there() -> None:
    text = "\n".join(path.read_text() for path in WORKFLOWS)
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in re.findall(r"make (\w+)", text))
    assert all((ROOT / name).is_file() for name in re.findall(r"\.ci/\w+|tests/[\w/]+\.py", text))


def test_only_the_job_that_publishes_has_more_than_reading() -> None:
    for path in WORKFLOWS:
        workflow = yaml.safe_load(path.read_text())
        assert workflow["permissions"] == {"contents": "read"}
        more = {name: job["permissions"] for name, job in workflow["jobs"].items() if "permissions" in job}
        assert more == ({"publish": {"id-token": "write"}} if path.stem == "release" else {})


def test_the_version_is_one() -> None:
    images = re.findall(r"image: ratekeeper:(\S+)", (ROOT / "deploy" / "kubernetes.yaml").read_text())
    assert set(images) == {ratekeeper.__version__}
    assert "version" not in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    headings = re.findall(r"(?m)^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text())
    assert next(heading for heading in headings if heading != "Unreleased") == ratekeeper.__version__


def test_make_help_lists_every_command() -> None:
    targets = re.search(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets is not None
    shown = subprocess.run(
        ["make", "-s", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert sorted(line.split()[1] for line in shown.stdout.splitlines()) == sorted(targets[1].split())


def test_runs_of_the_tests_at_once_never_choose_the_same_port() -> None:
    """Two runs in CI did: a server of one answered for that of the other, and hundreds of tests failed."""
    code = "import servers; print(*[servers.free_port() for _ in range(350)], flush=True); input()"
    command = [sys.executable, "-c", code]
    with ExitStack() as stack:
        runs = [
            stack.enter_context(
                subprocess.Popen(command, cwd=ROOT / "tests" / "support", stdin=PIPE, stdout=PIPE, text=True)
            )
            for _ in range(3)
        ]
        chosen = [set(map(int, run.stdout.readline().split())) for run in runs if run.stdout is not None]
        for run in runs:
            run.communicate("\n")
    assert [len(ports) for ports in chosen] == [299, 299, 299]
    assert len(set().union(*chosen)) == 3 * 299
