"""Steps: how the C core reads a request's attributes from its header lines, where they are usual. Knows no policy.

`AttributeReader` is the definition. A C reader (core/line_reader_object.c) returns None where a request is unusual: a
header is repeated or has other dashes, a value is not ASCII, a list is where one value should be, a header that must be
there is missing, a value is too long, or a path has several readings. Then the definition reads all, and says what is
wrong, if anything is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from ratekeeper import core
from ratekeeper.http.header_lines import MOST_BYTES, is_list
from ratekeeper.http.paths import USUAL_PATH, plain_path
from ratekeeper.policy.addresses import LONGEST_ADDRESS, known_client
from ratekeeper.policy.sources import ClientIP, HeaderSource, PathSource

if TYPE_CHECKING:
    from ratekeeper.policy.sources import Source

ReadLines: TypeAlias = Callable[[Any, "str | None"], "dict[str, str] | None"]
"""Returns the attributes of a request by its header lines and its peer; None if it is unusual."""

SAID_BY_GATEWAYS = {"path": "x-forwarded-uri", "method": "x-forwarded-method"}
"""The headers by which a gateway tells the path and the method of a client's request."""


class Step(NamedTuple):
    """How one attribute is read. The C core reads it too, in this order.

    name      of the attribute
    header    its name, in lower case
    is_list   whether the header is a list, so that a comma divides values
    required  whether a request without the header is unusual; else it lacks the attribute
    hops      of a client's address: the proxies that have written an entry of the list; without it, it is the peer
    most      the characters of a usual value
    convert   returns the attribute of a value, and `more` arguments; None if it is unusual
    """

    name: str
    header: str
    is_list: bool
    required: bool
    hops: int = 0
    most: int = MOST_BYTES
    convert: Callable[..., str | None] | None = None
    more: tuple[Any, ...] = ()


def line_reader(sources: Mapping[str, Source], methods: Mapping[str, str] | None) -> ReadLines | None:
    """Return a reader in C of a gateway's request; None if it cannot read one of the attributes.

    `methods` has the spellings of `method`; None if no rule looks at it.
    """
    steps = [_step_of(name, source) for name, source in sources.items()]
    if methods is not None:
        steps.insert(0, Step("method", SAID_BY_GATEWAYS["method"], False, True, 0, MOST_BYTES, methods.get))
    if core.line_reader is None or None in steps:
        return None
    read: ReadLines = core.line_reader(tuple(steps)).read
    return read


def _step_of(name: str, source: Source) -> Step | None:
    if name in SAID_BY_GATEWAYS and not isinstance(source, PathSource):  # it must be told in the usual way too
        return None
    if isinstance(source, PathSource) and not source.ignore_case:
        return Step(name, SAID_BY_GATEWAYS["path"], False, True, 0, USUAL_PATH, plain_path)
    if isinstance(source, ClientIP) and source.trusted_proxies:
        prefixes = source.ipv4_prefix, source.ipv6_prefix
        return Step(
            name, "x-forwarded-for", True, False, source.trusted_proxies, LONGEST_ADDRESS, known_client, prefixes
        )
    if isinstance(source, HeaderSource) and source.name != "authorization" and source.name.isascii():
        convert = source.spelled if source.is_host else None
        return Step(name, source.name, is_list(source.name), False, convert=convert)
    return None
