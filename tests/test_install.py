"""From source distribution to a clean environment: with a compiler the C core is there, without one all else works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from needs import need

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
USE = "import ratekeeper as r; print(r.IMPLEMENTATION, r.Limiter('2/s').try_acquire('a').remaining)"


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RATEKEEPER_", "PYTHON"))}
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, env={**env, **environment}, cwd="/"
    )


def empty_environment(folder: Path) -> Path:
    """Return where the programs of a new environment are. It has no pip: to install one takes 10 s."""
    assert run(sys.executable, "-m", "venv", "--without-pip", folder).returncode == 0
    return folder / "bin"


def install(environment: Path, what: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    python = environment / "python"
    return run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", what, **variables)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source distribution, built from the files that git tracks: other files in the tree must not mend it."""
    folder = tmp_path_factory.mktemp("sdist")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    need("a git checkout", tracked.returncode == 0 and bool(tracked.stdout))
    for name in tracked.stdout.rstrip("\0").split("\0"):
        (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "tree" / name)
    build = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"
    builder = empty_environment(folder / "builder")
    installed = install(builder, "setuptools>=77")
    assert installed.returncode == 0, installed.stderr
    built = subprocess.run(
        [builder / "python", "-c", build, str(folder)], cwd=folder / "tree", capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    return next(folder.glob("*.tar.gz"))


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[Path]:
    yield empty_environment(tmp_path / "venv")
    shutil.rmtree(tmp_path / "venv")


def test_the_source_distribution_has_every_file_of_the_package(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    tracked = subprocess.run(["git", "ls-files", "src"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(tracked.stdout.split()) <= packed
    assert "LICENSE" in packed


def test_with_a_compiler_the_c_core_is_there(sdist: Path, environment: Path) -> None:
    need("a C compiler", shutil.which("cc") is not None)
    installed = install(environment, sdist)
    assert installed.returncode == 0, installed.stderr
    assert run(environment / "python", "-c", USE).stdout == "c 1\n"
    assert "(C core)" in run(environment / "ratekeeper", "--version").stdout
    script = "from ratekeeper.stores.redis.script import load_script; print(len(load_script().sha))"
    assert run(environment / "python", "-c", script).stdout == "40\n"
    forced = run(environment / "python", "-c", USE, RATEKEEPER_CORE="python")
    assert forced.stdout == "python 1\n"


def test_without_a_compiler_all_else_works(sdist: Path, environment: Path) -> None:
    installed = install(environment, sdist, CC="/nonexistent/cc")
    assert installed.returncode == 0, installed.stderr
    assert run(environment / "python", "-c", USE).stdout == "python 1\n"
    assert "(Python core" in run(environment / "ratekeeper", "--version").stdout
    assert run(environment / "ratekeeper", "validate", ROOT / "examples" / "policy.toml").returncode == 0
    required = run(environment / "python", "-c", USE, RATEKEEPER_CORE="require")
    assert "was not built: install a C compiler" in required.stderr


def test_required_but_not_buildable_fails_the_build(sdist: Path, environment: Path) -> None:
    failed = install(environment, sdist, CC="/nonexistent/cc", RATEKEEPER_CORE="require")
    assert failed.returncode != 0
    assert "/nonexistent/cc" in failed.stderr
    assert run(environment / "python", "-c", "import ratekeeper").returncode != 0
