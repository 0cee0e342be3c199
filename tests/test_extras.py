"""Without its optional dependency an adapter says what to install; every adapter is found here."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from imports import imported

import ratekeeper

PACKAGES = ("frameworks", "clients", "metrics")
MODULES = {
    f"{package}.{path.stem}": path
    for package in PACKAGES
    for path in (Path(ratekeeper.__file__).parent / package).glob("*.py")
    if path.stem != "__init__"
}
NEEDS = {
    module: {name.split(".")[0] for name in imported(path)} - {"ratekeeper", *sys.stdlib_module_names}
    for module, path in sorted(MODULES.items())
}
"""The third-party packages that each module imports."""
ALL_NEEDS = sorted(set().union(*NEEDS.values()))
IMPORT_ALL = f"""
import importlib, json, sys
sys.modules.update(dict.fromkeys({ALL_NEEDS!r}))  # they cannot be imported
for module in {list(NEEDS)!r}:
    try:
        importlib.import_module(f"ratekeeper.{{module}}")
        said = None
    except BaseException as error:
        said = f"{{type(error).__name__}}: {{error}}"
    print(json.dumps([module, said]))
"""


def extra_packages(extra: str) -> set[str]:
    """The distributions that an extra brings, by their normal names."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    return {normal(re.split(r"[^\w.-]", one)[0]) for one in project["optional-dependencies"][extra]}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def said() -> dict[str, str | None]:
    """Return the error of each module, imported where nothing that it needs is installed."""
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, check=True)
    return dict(map(json.loads, done.stdout.splitlines()))


@pytest.mark.parametrize("module", NEEDS)
def test_without_what_it_needs_an_adapter_says_what_to_install(said: dict[str, str | None], module: str) -> None:
    message = said[module]
    if not NEEDS[module]:
        assert message is None
        return
    named = re.fullmatch(
        r"MissingExtraError: ratekeeper\.([\w.]+) needs an optional dependency: pip install 'ratekeeper\[(.+)\]'",
        message or "",
    )
    assert named is not None, message
    assert module.startswith(named[1]), "a part of an adapter names the whole"
    installed = packages_distributions()
    assert extra_packages(named[2]) & {normal(name) for one in NEEDS[module] for name in installed.get(one, ())}


def test_every_framework_has_rate_limit_under_the_same_name() -> None:
    importlib.import_module("django_site")  # Django REST framework reads settings when it is imported
    parts = {"frameworks.asgi_exchange", "frameworks.asgi_inbox", "frameworks.grpc_call"}
    for module in {module for module in MODULES if module.startswith("frameworks.")} - parts:
        assert "rate_limit" in importlib.import_module(f"ratekeeper.{module}").__all__


def test_importing_ratekeeper_imports_no_adapter_and_nothing_that_one_needs() -> None:
    code = "import sys, ratekeeper; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {*(f"ratekeeper.{package}" for package in PACKAGES), *ALL_NEEDS} & set(done.stdout.split())
