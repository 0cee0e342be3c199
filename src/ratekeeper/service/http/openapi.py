"""`GET /openapi.json`: the description of all routes, in the file beside this one. Tests compare it with them."""

from __future__ import annotations

from functools import cache
from importlib import resources

from ratekeeper.http.responses import Response, explained
from ratekeeper.service.core import Core
from ratekeeper.service.http.answer import CLOSE, Answer, answer_of
from ratekeeper.service.http.exchange import GatewayExchange

_HEADERS = (("Content-Type", "application/json"), ("Cache-Control", "no-cache"), ("X-Content-Type-Options", "nosniff"))


def openapi(core: Core, request: GatewayExchange) -> Answer:
    """Answer with the document. The connection ends: else one client could ask for hundreds in one piece."""
    request.connection = CLOSE
    if request.verb not in (b"GET", b"HEAD"):
        return answer_of(explained(405, "ask by GET", ("Allow", "GET, HEAD")))
    return answer_of(Response(200, _HEADERS, document()))


@cache
def document() -> bytes:
    """Return the document, as JSON."""
    return resources.files("ratekeeper.service.http").joinpath("openapi.json").read_bytes()
