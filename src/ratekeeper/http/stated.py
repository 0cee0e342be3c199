"""The attributes of a request that a person states, on a command line or to the admin API. Pure functions.

A person may mistype, and a change of the wrong bucket may shut out everybody. So what no request can have is an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ratekeeper.errors import BadRequestError, did_you_mean
from ratekeeper.http.attributes import ALWAYS_KNOWN, AttributeReader
from ratekeeper.policy.addresses import UNKNOWN_CLIENT
from ratekeeper.policy.sources import ClientIP
from ratekeeper.policy.spelling import source_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ratekeeper.policy.model import Policy

_SHOWN = 40


def stated_attributes(stated: Mapping[str, str], policy: Policy) -> dict[str, str]:
    """Return attributes in the spelling that a policy looks at.

    Raise `BadRequestError` for a name that no rule could ever see, and for a client that is not an address.
    """
    known = (ALWAYS_KNOWN | policy.attributes.keys() | policy.names()) - ({"tier"} if policy.tiers else set())
    for name in stated:
        if name not in known:
            raise BadRequestError(
                f"the policy knows no attribute {name[:_SHOWN]!r}{did_you_mean(name[:_SHOWN], known)}"
            )
    attributes = AttributeReader(policy.attributes).respell(stated)
    for name, value in attributes.items():
        if value == UNKNOWN_CLIENT != stated[name] and isinstance(source_of(name, policy.attributes), ClientIP):
            shown = stated[name][:_SHOWN]
            raise BadRequestError(f"{name}={shown} is not an address, such as 192.0.2.7, or {UNKNOWN_CLIENT}")
    return attributes
