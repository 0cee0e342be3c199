"""From source distribution to a clean environment: with a compiler the C core is there, without one all else works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from needs import need

import ratekeeper

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SMOKE = ROOT / "tests" / "support" / "smoke.py"
WARNING = "ratekeeper uses its slower Python core, because the C core was not built: install a C compiler and Python"
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


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> Path:
    """A wheel with the C core, built from the source distribution."""
    need("a C compiler", shutil.which("cc") is not None)
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", sdist.parent)
    built = run(*pip, sdist, RATEKEEPER_CORE="require")
    assert built.returncode == 0, built.stderr
    return next(sdist.parent.glob("*.whl"))


def test_the_source_distribution_has_every_file_that_git_tracks(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(tracked.stdout.split()) <= packed


def test_a_wheel_has_the_package_and_no_sources_in_c(wheel: Path) -> None:
    tracked = subprocess.run(["git", "ls-files", "src"], cwd=ROOT, capture_output=True, text=True, check=True)
    package = {name.removeprefix("src/") for name in tracked.stdout.split() if not name.endswith((".c", ".h"))}
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert {Path(name).name.partition(".")[0] for name in packed - package} == {"_table"}
    assert package <= packed


def test_every_link_and_picture_of_the_package_index_is_absolute_and_of_this_version(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"ratekeeper-{ratekeeper.__version__}.dist-info/METADATA").decode()
    here = f"https://github.com/ratekeeper/ratekeeper/(?:blob|raw)/v{re.escape(ratekeeper.__version__)}/(.+)"
    targets = re.findall(r'\]\(([^)#\s]+)|\b(?:src|srcset)="([^"]+)"', metadata)
    ours = [found[1] for target in targets if (found := re.fullmatch(here, "".join(target)))]
    assert len(targets) > 50
    assert [target for target in targets if not "".join(target).startswith("https://")] == []
    assert [name for name in ours if not (ROOT / name).exists()] == []
    assert len(ours) > 50


def test_a_wheel_has_the_c_core_where_no_compiler_is(wheel: Path, environment: Path) -> None:
    nowhere = {"PATH": str(environment), "HOME": str(environment), "CC": "/nonexistent/cc"}
    installed = install(environment, wheel, **nowhere)
    assert installed.returncode == 0, installed.stderr
    smoke = run(environment / "python", SMOKE, "c", **nowhere)
    assert (smoke.returncode, smoke.stderr) == (0, "")
    assert "(C core)" in run(environment / "ratekeeper", "--version").stdout
    script = "from ratekeeper.stores.redis.script import load_script; print(len(load_script().sha))"
    assert run(environment / "python", "-c", script).stdout == "40\n"
    forced = run(environment / "python", "-c", USE, RATEKEEPER_CORE="python")
    assert (forced.stdout, forced.stderr) == ("python 1\n", "")


def test_without_a_compiler_all_else_works_and_a_warning_says_so(sdist: Path, environment: Path) -> None:
    installed = install(environment, sdist, CC="/nonexistent/cc")
    assert installed.returncode == 0, installed.stderr
    used = run(environment / "python", "-W", "error", "-c", USE)
    assert used.stdout == "python 1\n"
    assert used.stderr.startswith(WARNING)
    assert used.stderr.count("\n") == 1
    smoke = run(environment / "python", SMOKE, "python", RATEKEEPER_CORE="python")
    assert (smoke.returncode, smoke.stderr) == (0, "")
    assert "(Python core" in run(environment / "ratekeeper", "--version").stdout
    assert run(environment / "ratekeeper", "validate", ROOT / "examples" / "policy.toml").returncode == 0
    required = run(environment / "python", "-c", USE, RATEKEEPER_CORE="require")
    assert "was not built: install a C compiler" in required.stderr


def test_required_but_not_buildable_fails_the_build(sdist: Path, environment: Path) -> None:
    failed = install(environment, sdist, CC="/nonexistent/cc", RATEKEEPER_CORE="require")
    assert failed.returncode != 0
    assert "/nonexistent/cc" in failed.stderr
    assert run(environment / "python", "-c", "import ratekeeper").returncode != 0
