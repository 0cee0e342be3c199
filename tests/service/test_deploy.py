"""The files of deploy/: each is checked by the program that checks its kind, and says what the service can do."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from needs import ROOT, need_program

from ratekeeper import Policy
from ratekeeper.cli.serve import add_arguments

pytestmark = pytest.mark.slow

DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
KUBERNETES = {one["kind"]: one for one in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
UNIT = (DEPLOY / "ratekeeper.service").read_text()
[CONTAINER] = KUBERNETES["Deployment"]["spec"]["template"]["spec"]["containers"]


def checked(*command: str | Path, folder: Path = DEPLOY) -> str:
    ran = subprocess.run([str(word) for word in command], cwd=folder, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def serve_arguments(words: list[str]) -> Any:
    """Return the arguments of `ratekeeper serve` as the command reads them."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


def test_hadolint_accepts_the_dockerfile() -> None:
    checked(need_program("hadolint"), "Dockerfile")


def test_the_dockerfile_copies_files_that_are_there_and_that_are_not_ignored() -> None:
    copied = [words.split()[:-1] for words in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)]
    kept = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {name for names in copied for name in names} == kept
    assert all((ROOT / name).exists() for name in kept)


def test_the_image_serves_as_a_user_without_rights() -> None:
    [command] = re.findall(r"^CMD (.+)$", DOCKERFILE, re.MULTILINE)
    arguments = serve_arguments(yaml.safe_load(command))
    assert (arguments.policy, arguments.host, arguments.port) == ("/etc/ratekeeper/policy.toml", "0.0.0.0", 8080)
    [user] = re.findall(r"^USER (\d+):", DOCKERFILE, re.MULTILINE)
    assert int(user) == KUBERNETES["Deployment"]["spec"]["template"]["spec"]["securityContext"]["runAsUser"] > 0


def test_the_compose_file_is_one_of_the_compose_specification() -> None:
    checked(need_program("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", "compose.yaml")
    service = COMPOSE["services"]["ratekeeper"]
    assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).samefile(DEPLOY / "Dockerfile")
    arguments = serve_arguments(service["command"])
    assert Path(arguments.policy).parent == Path("/etc/ratekeeper")
    assert (ROOT / "examples" / Path(arguments.policy).name).exists()
    assert f"{arguments.port}:{arguments.port}" in service["ports"][0]
    assert float(service["stop_grace_period"].removesuffix("s")) > arguments.grace
    assert arguments.store == "valkey://valkey:6379/0"


def test_the_manifest_is_one_of_kubernetes() -> None:
    checked(need_program("kubernetes-validate"), "--strict", "kubernetes.yaml")
    assert KUBERNETES.keys() == {"ConfigMap", "Deployment", "Service", "PodDisruptionBudget"}


def test_the_manifest_selects_its_own_pods_and_serves_its_own_policy() -> None:
    deployment = KUBERNETES["Deployment"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert KUBERNETES["Service"]["spec"]["selector"] == labels == deployment["selector"]["matchLabels"]
    assert KUBERNETES["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert KUBERNETES["PodDisruptionBudget"]["spec"]["minAvailable"] < deployment["replicas"]
    arguments = serve_arguments(CONTAINER["args"])
    [mount] = CONTAINER["volumeMounts"]
    name = str(Path(arguments.policy).relative_to(mount["mountPath"]))
    assert Policy.parse(KUBERNETES["ConfigMap"]["data"][name]).rules
    [volume] = deployment["template"]["spec"]["volumes"]
    assert volume["configMap"]["name"] == KUBERNETES["ConfigMap"]["metadata"]["name"]
    assert CONTAINER["ports"][0]["containerPort"] == arguments.port
    sleep = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert deployment["template"]["spec"]["terminationGracePeriodSeconds"] > sleep + arguments.grace


def test_systemd_accepts_the_units_and_finds_the_service_confined(tmp_path: Path) -> None:
    verify = need_program("systemd-analyze")
    [command] = re.findall(r"^ExecStart=(\S+) (.+)$", UNIT, re.MULTILINE)
    (tmp_path / "ratekeeper.service").write_text(UNIT.replace(command[0], sys.executable))
    (tmp_path / "ratekeeper.socket").write_text((DEPLOY / "ratekeeper.socket").read_text())
    said = checked(verify, "verify", "./ratekeeper.service", "./ratekeeper.socket", folder=tmp_path)
    assert "ratekeeper" not in said, "no warning"
    checked(verify, "security", "--offline=true", "--threshold=20", "./ratekeeper.service", folder=tmp_path)
    arguments = serve_arguments(shlex.split(command[1].removeprefix("serve ")))
    assert arguments.port.handed == "http"
    assert "FileDescriptorName=http" in (tmp_path / "ratekeeper.socket").read_text()
    [timeout] = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE)
    assert int(timeout) > arguments.grace
