"""An ASGI application for several workers: uvicorn --workers 4 asgi_app:app"""

from math import ceil
from typing import Any

from ratekeeper import AsyncLimiter, SharedMemoryStore

limiter = AsyncLimiter("50/10s", store=SharedMemoryStore("ratekeeper-example"))


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    decision = await limiter.try_acquire(scope["client"][0])
    status = 200 if decision else 429
    headers = [] if decision else [(b"retry-after", b"%d" % ceil(decision.retry_after))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello\n" if decision else b"slow down\n"})
