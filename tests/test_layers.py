"""The layers of docs/design.md: a module may import only what lies below it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from imports import imported

import ratekeeper

PACKAGE = Path(ratekeeper.__file__).parent

# From the bottom up. Modules of one line may import each other.
LAYERS = [
    {"errors", "coroutines", "forks", "secret_file", "verbs"},
    {"rates"},
    {"limits"},
    {"decision"},
    {"adjustment", "exceeded", "refund", "usage"},
    {"gcra"},
    {"alarms"},
    {"clock"},
    {"core"},
    {"waiting"},
    {"stores"},
    {"limiter", "limiter_base", "guard", "leaky_queue", "testing"},
    {"clients"},
    {"policy"},
    {"replay"},
    {"metrics"},
    {"http"},
    {"frameworks"},
    {"service"},
    {"cli"},
    {"__main__"},
]
HEIGHT = {name: height for height, layer in enumerate(LAYERS) for name in layer}

# The same within the service. A package may not import another one of the same line.
OF_SERVICE = [
    {"bounds", "log", "loop", "operator_options", "policy_news", "systemd", "tls", "wire", "access_log", "envoy"},
    {"limiter", "listeners", "metrics"},
    {"connection", "live", "pauses", "recording"},
    {"core"},
    {"admin", "demo", "make_core", "server"},
    {"control", "grpc", "http", "resp"},
    {"protocols", "worker_state"},
    {"make_server", "supervisor"},
    {"serve", "worker"},
]
HEIGHT_IN_SERVICE = {name: height for height, layer in enumerate(OF_SERVICE) for name in layer}
MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]
ALLOWED_THIRD_PARTY = {
    "service": {"httptools", "ngh2", "opentelemetry", "prometheus_client", "uvloop", "yaml"},
    "cli": {"rich"},
    "stores": {"redis", "valkey"},
    "frameworks": {
        "aiohttp",
        "asgiref",
        "django",
        "fastapi",
        "flask",
        "grpc",
        "rest_framework",
        "starlette",
        "werkzeug",
    },
    "clients": {"aiohttp", "celery", "httpx", "requests"},
    "metrics": {"opentelemetry", "prometheus_client"},
}


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_lies_below_it(path: Path) -> None:
    own = HEIGHT[layer_of(path)]
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "ratekeeper" and len(parts) > 1 and parts[1] in HEIGHT:
            assert HEIGHT[parts[1]] <= own, f"{path.name} ({layer_of(path)}) imports {name} from above"


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "service").rglob("*.py")), ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_a_module_of_the_service_imports_only_what_lies_below_it(path: Path) -> None:
    own = path.relative_to(PACKAGE / "service").parts[0].removesuffix(".py")
    for name in imported(path):
        package, _, other = name.partition("ratekeeper.service.")
        other = other.split(".")[0]
        if not package and other and other != own:
            assert HEIGHT_IN_SERVICE[other] < HEIGHT_IN_SERVICE[own], f"{path} imports {name}, which is not below it"


@pytest.mark.parametrize("name", sorted(name for name in HEIGHT if HEIGHT[name] <= HEIGHT["clock"]))
def test_the_lowest_modules_import_each_other_in_no_circle_even_for_types(name: str) -> None:
    """A type from above would tie them together as much: whoever reads one would have to read all."""
    for other in imported(PACKAGE / f"{name}.py", typing_too=True):
        package, _, rest = other.partition(".")
        if package == "ratekeeper" and rest:
            assert HEIGHT[rest.split(".")[0]] < HEIGHT[name], f"{name} imports {other}, which is not below it"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_library_has_no_dependency(path: Path) -> None:
    allowed = ALLOWED_THIRD_PARTY.get(layer_of(path), set()) | set(sys.stdlib_module_names) | {"ratekeeper"}
    assert {name.split(".")[0] for name in imported(path, typing_too=True)} <= allowed


def test_importing_ratekeeper_imports_no_optional_part() -> None:
    code = "import sys, ratekeeper; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    optional = set().union(*ALLOWED_THIRD_PARTY.values())
    optional |= {
        "ratekeeper.service",
        "ratekeeper.cli",
        "ratekeeper.frameworks",
        "ratekeeper.clients",
        "ratekeeper.metrics",
    }
    assert not optional & set(done.stdout.split())


def test_every_layer_is_in_the_design_page() -> None:
    design = (PACKAGE.parents[1] / "docs" / "design.md").read_text()
    for name in HEIGHT:
        assert name in design, f"docs/design.md does not tell of the layer {name}"


@pytest.mark.parametrize("path", [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.[ch]")], ids=lambda path: path.name)
def test_a_file_is_short_and_opens_with_what_it_is_for(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    assert not text or text.startswith(('"""', "/* "))
