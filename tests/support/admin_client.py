"""An admin of a running service: sends its token, and a new key with each change."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from servers import PATIENCE
from service_process import Running, running

TOKEN = "a-token-of-an-admin-in-tests"
POLICY = """\
exempt = [{ path = "/healthz" }]

[attributes]
user = "header:x-user"

[[rules]]
name = "each user"
match = { path = ["/api/*", "/both"] }
key = ["user"]
limit = "3/day"
missing = "reject"
message = "three a day"

[[rules]]
name = "everyone"
match = { path = "/both" }
limit = "100/day"

[[rules]]
name = "queue"
match = { path = "/queue" }
key = ["user"]
algorithm = "leaky_bucket"
capacity = 2
leak_rate = "1/day"
"""


class Admin:
    """Sends requests to the admin API."""

    _numbers = itertools.count()

    def __init__(self, url: str, token: str = TOKEN) -> None:
        self._url = url
        self._token = token

    def send(self, verb: str, name: str, body: Any = None, **headers: str) -> httpx.Response:
        """Send a request. `headers` have "_" for "-"; an empty one is left out."""
        sent = {"authorization": f"Bearer {self._token}"}
        if verb == "POST":
            sent["idempotency-key"] = f"{id(self):x}-{next(self._numbers):08d}"
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.request(
            verb, f"{self._url}/v1/admin/{name}", json=body, timeout=PATIENCE,
            headers={name: value for name, value in sent.items() if value},
        )  # fmt: skip

    def do(self, name: str, **body: Any) -> Any:
        """Carry out an operation, and return its report."""
        answer = self.send("POST", name, body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def see(self, name: str) -> Any:
        """Return the report of an operation that changes nothing."""
        answer = self.send("GET", name)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def error(self, name: str, status: int, **body: Any) -> str:
        """Return why an operation is not carried out."""
        answer = self.send("POST", name, body)
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        return str(answer.json()["detail"])

    def check(self, user: str, path: str = "/api/x") -> bool:
        """Ask whether a request may pass, on a new connection: any process may answer."""
        asked = {"attributes": {"user": user, "path": path}}
        return bool(httpx.post(f"{self._url}/v1/check", json=asked, timeout=PATIENCE).json()["allowed"])


@contextmanager
def admin_service(folder: Path, *options: str, policy: str = POLICY) -> Iterator[tuple[Running, Admin]]:
    """A service with two workers and an admin API."""
    (folder / "policy.toml").write_text(policy)
    (folder / "tokens").write_text(f"# admins\nalice {TOKEN}\nbob another-token-of-an-admin\n")
    tokens = ("--admin-tokens", str(folder / "tokens"))
    with running(folder / "policy.toml", "--workers", "2", *tokens, *options) as service:
        yield service, Admin(service.url)
