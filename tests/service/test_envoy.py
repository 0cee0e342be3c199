"""Real Envoy in front of a backend, with the examples, asks the real service; its own counters equal ours."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sysconfig
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from envoy_proxy import EXAMPLES, EnvoyProxy, envoy, grpc_address
from needs import need
from servers import PATIENCE, Backend, backend, free_port
from service_process import Running, poll, running

pytestmark = pytest.mark.slow

OVERRIDE = """\
                  - name: envoy.filters.http.set_metadata
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.set_metadata.v3.Config
                      metadata:
                        - metadata_namespace: shop
                          value: {limit: {requests_per_unit: 2, unit: HOUR}}
"""
FILTER = "                  - name: envoy.filters.http.ratelimit\n"


class Site:
    """A running Envoy, its backend, and the service that it asks."""

    def __init__(self, proxy: EnvoyProxy, behind: Backend, service: Running) -> None:
        self.proxy = proxy
        self.behind = behind
        self.service = service

    def ask(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(f"{self.proxy.url}{path}", headers=headers, timeout=PATIENCE)


def _copied(folder: Path) -> Path:
    shutil.copytree(EXAMPLES, folder, dirs_exist_ok=True)
    return folder / "policy.toml"


@contextmanager
def site(folder: Path, config: str, *options: str, **replaced: str) -> Iterator[Site]:
    with (
        running(_copied(folder), "--grpc", "127.0.0.1:0", *options) as service,
        backend() as behind,
        envoy(config, grpc_address(service), behind.address, folder, **replaced) as proxy,
    ):
        proxy.wait_until_connected()
        yield Site(proxy, behind, service)


def test_a_policy_limits_requests_and_tells_clients(tmp_path: Path) -> None:
    with site(tmp_path, "fail-closed.yaml") as it:
        answers = [it.ask("/search?q=1") for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        first, last = answers[0], answers[-1]
        assert first.headers["x-ratelimit-limit"].startswith("3, 3;w=60")
        assert first.headers["x-ratelimit-remaining"] == "2"
        assert "r=2;t=" in first.headers["ratelimit"]
        assert last.headers["x-envoy-ratelimited"] == "true"
        assert 1 <= int(last.headers["retry-after"]) <= 20
        assert last.headers["content-type"] == "application/problem+json"
        assert last.json()["violated-policies"] == ["search"]
        banned = it.ask("/", **{"x-api-key": "k-stolen"})
        assert (banned.status_code, banned.json()["type"]) == (429, "about:blank")
        assert it.ask("/other").status_code == 200
        assert it.proxy.counts() == {"ok": 4, "over_limit": 3}
        assert len(it.behind.seen) == 4


def test_no_repeated_or_underscored_header_hides_a_banned_key(tmp_path: Path) -> None:
    with site(tmp_path, "fail-open.yaml") as it:
        it.behind.seen.clear()
        for lines in (["other", "k-stolen"], ["k-stolen", "other"], ["", "k-stolen"], ["other", "a", "k-stolen"]):
            headers = [("x-api-key", line) for line in lines]
            assert httpx.get(it.proxy.url, headers=headers, timeout=PATIENCE).status_code == 400
        assert it.ask("/", x_api_key="k-stolen").status_code == 400
        assert not it.behind.seen
        assert it.ask("/", **{"x-api-key": "k-good"}).status_code == 200


def test_envoyproxys_files_limit_unchanged_and_are_loaded_again(tmp_path: Path) -> None:
    limits = tmp_path / "limits"
    with site(tmp_path, "fail-closed.yaml", "--envoy-config", str(limits)) as it:
        codes = [it.ask(path).status_code for path in ("/search/a", "/search/b", "/search/c", "/search/d")]
        assert codes == [200, 200, 200, 429]
        assert [it.ask("/beta").status_code for _ in range(3)] == [200, 200, 200]
        banned = it.ask("/admin/users")
        assert banned.status_code == 429
        assert "retry-after" not in banned.headers
        assert it.ask("/").headers["x-ratelimit-limit"].startswith("100, 100;w=60")
        text = (limits / "shop.yaml").read_text()
        (limits / "shop.yaml").write_text(text.replace("domain: shop", "domain: shop\nmistake: 1"))
        poll(lambda: "unknown key 'mistake'" in it.service.log)
        assert it.ask("/admin").status_code == 429
        (limits / "shop.yaml").write_text(text.replace("requests_per_unit: 0", "requests_per_unit: 7"))
        poll(lambda: "changed domains 'shop'" in it.service.log)
        assert it.ask("/admin").headers["x-ratelimit-limit"].startswith("7, 7;w=60")


def test_a_limit_from_envoys_metadata_overrides(tmp_path: Path) -> None:
    limit = "                        - limit: {dynamic_metadata: {metadata_key: {key: shop, path: [{key: limit}]}}}\n"
    actions = "                        - actions:  # one descriptor with everything that a policy needs\n"
    own = limit + actions.replace("- actions", "  actions")
    replaced = {FILTER: OVERRIDE + FILTER, actions: own}
    with site(tmp_path, "fail-closed.yaml", "--envoy-config", str(tmp_path / "limits"), **replaced) as it:
        answers = [it.ask("/admin") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[0].headers["x-ratelimit-limit"].startswith("2, 2;w=3600")


@pytest.mark.parametrize(("config", "status"), [("fail-open.yaml", 200), ("fail-closed.yaml", 500)])
def test_without_the_service_the_failure_mode_decides(config: str, status: int, tmp_path: Path) -> None:
    _copied(tmp_path)
    with backend() as behind, envoy(config, f"127.0.0.1:{free_port()}", behind.address, tmp_path) as proxy:
        codes = {httpx.get(proxy.url, timeout=PATIENCE).status_code for _ in range(5)}
        assert codes == {status}
        counts = proxy.counts()
        assert counts["error"] == 5
        assert counts.get("failure_mode_allowed", 0) == (5 if status == 200 else 0)


def test_the_service_is_killed_and_started_under_load(tmp_path: Path) -> None:
    policy = _copied(tmp_path)
    policy.write_text('rules = [{name = "all", limit = "1/s burst 40"}]')
    port = free_port()
    options = ("--grpc", f"127.0.0.1:{port}")
    shorter = {"timeout: 20s": "timeout: 2s"}  # a call that takes longer passes, and is counted so
    with (
        backend() as behind,
        envoy("fail-open.yaml", f"127.0.0.1:{port}", behind.address, tmp_path, **shorter) as proxy,
    ):
        behind.seen.clear()

        def load(count: int) -> Counter[int]:
            with httpx.Client(base_url=proxy.url, timeout=PATIENCE) as client:
                return Counter(client.get("/x").status_code for _ in range(count))

        with ThreadPoolExecutor(4) as threads:
            with running(policy, *options) as service:
                proxy.wait_until_connected()
                before = [threads.submit(load, 100) for _ in range(4)]
                poll(lambda: proxy.counts().get("over_limit", 0) > 20)
                for pid in sorted(service.pids()):  # the parent first, as it would replace a worker
                    os.kill(pid, signal.SIGKILL)
                poll(lambda: proxy.counts().get("error", 0) > 0 or all(one.done() for one in before))
            with running(policy, *options):
                after = [threads.submit(load, 50) for _ in range(4)]
                seen = sum((one.result(10 * PATIENCE) for one in [*before, *after]), Counter[int]())
        counts = proxy.counts()
        assert sum(seen.values()) == 600
        assert seen[429] == counts["over_limit"]
        assert seen[200] == counts["ok"] + counts.get("failure_mode_allowed", 0) == len(behind.seen)
        assert set(seen) == {200, 429}


def test_a_stop_loses_no_answer(tmp_path: Path) -> None:
    with site(tmp_path, "fail-closed.yaml") as it, ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(it.ask, "/other") for _ in range(40)]
        poll(lambda: any(one.done() for one in asked))
        it.service.signal(signal.SIGTERM)
        codes = Counter(one.result(PATIENCE).status_code for one in asked)
        it.service.wait()
        counts = it.proxy.counts()
        assert codes[200] == counts["ok"]
        assert codes[500] == counts.get("error", 0)


def test_the_examples_say_what_they_do() -> None:
    opened, closed = ((EXAMPLES / f"fail-{how}.yaml").read_text().splitlines() for how in ("open", "closed"))
    differing = [(one, other) for one, other in zip(opened, closed, strict=True) if one != other]
    assert differing[2] == (
        "                      failure_mode_deny: false", "                      failure_mode_deny: true",
    )  # fmt: skip
    assert len(differing) == 3


LOAD = """import http from "k6/http";
import { Counter } from "k6/metrics";
export const options = { scenarios: { all: { executor: "shared-iterations", vus: 16, iterations: 2000 } } };
const allowed = new Counter("allowed"), refused = new Counter("refused"), others = new Counter("others");
export default function () {
  const status = http.get(`${__ENV.SITE}/x`).status;
  (status === 200 ? allowed : status === 429 ? refused : others).add(1);
}
"""


def test_under_load_by_k6_the_clients_envoys_and_our_counts_are_equal(tmp_path: Path) -> None:
    k6 = shutil.which("k6", path=sysconfig.get_path("scripts"))
    need("k6", k6 is not None)
    with site(tmp_path, "fail-closed.yaml", "--workers", "2") as it:
        (tmp_path / "policy.toml").write_text('rules = [{name = "all", limit = "1/day burst 700"}]')
        poll(lambda: "is in use" in it.service.log)
        it.behind.seen.clear()
        (tmp_path / "load.js").write_text(LOAD)
        command = [str(k6), "run", "--quiet", "--no-usage-report", "--summary-export", "summary.json", "load.js"]
        environment = {"SITE": it.proxy.url, "HOME": str(tmp_path), "PATH": os.environ["PATH"]}
        subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=10 * PATIENCE, check=True)
        metrics = json.loads((tmp_path / "summary.json").read_text())["metrics"]
        seen = {name: metrics.get(name, {}).get("count", 0) for name in ("allowed", "refused", "others")}
        assert seen == {"allowed": 700, "refused": 1300, "others": 0}
        assert it.proxy.counts() == {"ok": 700, "over_limit": 1300}
        assert len(it.behind.seen) == 700
        ours = httpx.get(f"{it.service.url}/metrics", timeout=PATIENCE).text
        for result, count in (("allowed", 700), ("refused", 1300)):
            assert f'ratekeeper_requests_total{{protocol="grpc",result="{result}"}} {count}.0' in ours
