"""The common parts of the sites of `web_sites`."""

from __future__ import annotations

from typing import Any

from ratekeeper import Limiter

PIECES = [bytes([number]) * 5000 for number in range(100)]


def of_user(request: Any) -> str | None:
    """Whom a request is from, for whatever a framework calls a request."""
    user: str | None = request.get("HTTP_X_USER") if isinstance(request, dict) else request.headers.get("x-user")
    return user


def exceed_a_limit_of_its_own() -> str:
    """Exceed the application's own limit, which its middleware answers."""
    limiter = Limiter("1/hour")
    limiter.acquire("job")
    limiter.acquire("job", timeout=0)
    return "never said"
