"""FastAPI: Starlette's middleware, which FastAPI is built on. Its `rate_limit` is a decorator and a dependency."""

from __future__ import annotations

from ratekeeper.errors import MissingExtraError

try:
    import fastapi  # noqa: F401  to name its own extra if it is missing
except ImportError:
    raise MissingExtraError("ratekeeper.frameworks.fastapi", "fastapi") from None

from ratekeeper.frameworks.starlette import AsyncRequestLimits, RateLimitMiddleware, exempt, rate_limit

__all__ = ["AsyncRequestLimits", "RateLimitMiddleware", "exempt", "rate_limit"]
