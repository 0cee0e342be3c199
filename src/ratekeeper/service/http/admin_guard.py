"""The checks of a request to the admin API: its token, the page that sent it, and the key of each change.

The service sets no cookie, so the page of another site cannot act for an admin. Its requests are refused all the
same, with a token or without. This module knows no operation.
"""

from __future__ import annotations

import re
from hmac import compare_digest
from typing import TYPE_CHECKING

from ratekeeper.decision import Charge
from ratekeeper.limits import parse_limit
from ratekeeper.service.admin.operation import NotDoneError
from ratekeeper.service.core import Core
from ratekeeper.service.http.exchange import GatewayExchange
from ratekeeper.service.limiter import decide_async
from ratekeeper.service.operator_options import token_digest

if TYPE_CHECKING:
    from collections.abc import Mapping

USED_KEYS = "ratekeeper-admin:used-keys"
"""The scope of the keys of changes. A scope of a rule ends with "/" and a number, so this is not one's."""

_ONCE = parse_limit("1/day")
_KEY = re.compile(r"[A-Za-z0-9_-]{8,64}", re.ASCII)
_BEARER = ("WWW-Authenticate", 'Bearer realm="ratekeeper"')
_OFF = "the admin API is off: start the service with --admin-tokens FILE"


def signed_in(core: Core, request: GatewayExchange) -> str:
    """Return the name of the admin who sends a request. Raise `NotDoneError` if nobody may send it."""
    if not core.operator.tokens:
        raise NotDoneError(404, _OFF)
    _check_origin(request)
    scheme, _, token = (request.header("authorization") or "").partition(" ")
    name = _name_of(core.operator.tokens, token.strip(" ")) if scheme.lower() == "bearer" else None
    if name is None:
        raise NotDoneError(401, "send the token of an admin: Authorization: Bearer TOKEN", _BEARER)
    return name


def _name_of(tokens: Mapping[str, bytes], token: str) -> str | None:
    """Return the name of a token's admin. It takes as long for each token: digests are compared, and all of them."""
    digest, found = token_digest(token), None
    for name, own in tokens.items():
        if compare_digest(own, digest):
            found = name
    return found


def _check_origin(request: GatewayExchange) -> None:
    """Raise `NotDoneError` if a page of another host sent the request. Only browsers send an `Origin`."""
    origin = request.header("origin")
    if origin is None:
        return
    _, between, host = origin.partition("://")
    if not between or host.lower() != (request.header("host") or "").lower():
        raise NotDoneError(
            403,
            "a page of another host sent this request, or a proxy has changed its header Host: let the proxy hand the "
            "header on unchanged",
        )


def key_of_change(request: GatewayExchange) -> str:
    """Return the key by which a change is known when it is sent again. Raise `NotDoneError` without one."""
    key = request.header("idempotency-key")
    if key is None or not _KEY.fullmatch(key):
        raise NotDoneError(400, "each change needs its own header Idempotency-Key: 8 to 64 letters, digits, - and _")
    return key


async def use_up(core: Core, key: str) -> None:
    """Use up the key of a change, for a day. Raise `NotDoneError` if it is used already.

    It is charged in the store, so each process of the fleet knows it, and of two at once only one passes.
    """
    [decision] = await decide_async(core.store, [Charge.of(USED_KEYS, key, _ONCE, 1, 0, on_error="raise")])
    if not decision.allowed:
        raise NotDoneError(
            409,
            "this Idempotency-Key was used in the last 24 hours: nothing was changed now; a new change needs a new key",
        )
