"""`GET /openapi.json`: the description of all routes, in the file beside this one. Tests compare it with them."""

from __future__ import annotations

from functools import cache
from importlib import resources

from ratekeeper.service.core import Core
from ratekeeper.service.http.answer import JSON_LINES, Answer
from ratekeeper.service.http.exchange import GatewayExchange


def openapi(core: Core, request: GatewayExchange) -> Answer:
    """Answer with the document."""
    return Answer(200, JSON_LINES, document())


@cache
def document() -> bytes:
    """Return the document, as JSON."""
    return resources.files("ratekeeper.service.http").joinpath("openapi.json").read_bytes()
