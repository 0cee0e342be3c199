"""A request that is spelled at random, in every framework and behind a gateway, is counted as the application reads it.

All requests that reach a function with one identity are counted in one bucket, so it runs no more often than the limit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

import pytest
from edge_sites import Call, MakeSite, Site, memory
from edge_table import SITES
from raw_client import Header

from ratekeeper import Policy
from ratekeeper.http.attributes import read_method

pytestmark = pytest.mark.slow

LIMIT, TRIES = 3, 200
PATHS = {"graphql": "/graphql/*", "login": "/login", "files": "/files/*"}
KEYS = {"items": "path", "cookie": "session", "key": "api_key", "token": "token", "do": "credentials", "any": "method"}
ATTRIBUTES = """
[attributes]
session = "cookie:session"
api_key = "header:x-api-key"
credentials = "header:authorization"
token = "bearer"
[[exempt]]
path = "/healthz"
"""


def rule(name: str, path: str, limit: int, key: str) -> str:
    return (
        f'[[rules]]\nname = "{name}"\nlimit = "{limit}/hour"\nmissing = "skip"\n'
        f'match = {{ path = "{path}" }}\nkey = [{key}]\n'
    )


POLICY = Policy.parse(
    ATTRIBUTES
    + "".join(rule(name, path, 9999, "") for name, path in PATHS.items())
    + "".join(
        rule(name, "/items/*" if name == "items" else f"/{name}", LIMIT, f'"{key}"') for name, key in KEYS.items()
    )
)

SEGMENTS = ["..", ".", "", "x", "a", "%2e%2e", "%2E", "%2F", "%2f..", ";x=1", "..;", "\\", "%5c", "é", "%C3%A9", "%ff",
            "%25", "%2561", "healthz", "login", "graphql", "#", "%23", "%3B", "%3f", "%00", "+"]  # fmt: skip
BEFORE = ["/", "/", "/", "/", "//", "///", "/./", "/x/../", "/%2e/", "/;/", "/x/..;/", "/\\", "\\", "http://test/",
          "http://other//", "//test/", "/healthz/../", "", "/healthz;/../", "/%2F/"]  # fmt: skip
AFTER = ["", "", "", "/", "//", "/.", "/..", ";", ";x=1", "?", "?a=/healthz", "#", "#/healthz", "/x/..", "%2F", "%20",
         "%0a", "%00", "\t", "/../healthz", "%3B"]  # fmt: skip
METHODS = [b"GET", b"POST", b"HEAD", b"get", b"OPTIONS", b"PUT", b"PURGE", b"X", b"Delete", b"propfind", b"BREW"]
SPACES = [b"", b"", b" ", b"  ", b"\t", b" \t ", b"\xa0", b"\x85", b"\xc2\xa0"]


def spell(random: Random, text: str) -> str:
    """Write some letters of a path as escapes."""
    return "".join(f"%{ord(one):02x}" if one != "/" and random.random() < 0.1 else one for one in text)


def a_path(random: Random, plain: str) -> bytes:
    """Write a path in another way, at one to three places."""
    changed = random.sample(range(4), k=random.choice([1, 1, 2, 3]))
    middle = spell(random, plain) if 0 in changed else plain
    if 1 in changed:
        middle = middle.replace("/", random.choice(["//", "/./", "/y/../", "%2F", "/;/", "\\", "/.//"]), 1)
    if plain.endswith("/"):
        middle += "/".join(random.choice(SEGMENTS) for _ in range(random.randrange(1, 5)))
    before = random.choice(BEFORE) if 2 in changed else "/"
    after = random.choice(AFTER) if 3 in changed else ""
    return (before + middle + after).encode(random.choice(["utf-8", "latin-1"]), "replace")


def a_cookie(random: Random) -> list[Header]:
    value = "".join(
        random.choice([letter, letter, f"%{ord(letter):02x}", rf"\{ord(letter):03o}", f"\\{letter}"])
        for letter in random.choice(["abc", "abd", "a+b"])
    ).encode()
    quote = random.choice([b"", b'"'])
    one = b"session" + random.choice(SPACES) + b"=" + random.choice(SPACES) + quote + value + quote
    pairs = [one, *random.choices([b"a=b", b"session=other", b"Session=x", b"", b"session", b"$Path=/", b'b="c'], k=2)]
    random.shuffle(pairs)
    pairs = random.choice([pairs, [one], pairs[:1]])
    if random.random() < 0.2:
        return [(b"Cookie", pair) for pair in pairs]
    return [(b"Cookie", random.choice([b";", b"; ", b" ;\t"]).join(pairs))]


def a_key(random: Random) -> list[Header]:
    name = random.choice([b"X-Api-Key", b"x-api-key", b"X-API-KEY", b"X_Api_Key"])
    values = random.choices([b"k-1", b"k-2", b"", b"k"], k=random.choice([1, 1, 1, 2, 3]))
    around = SPACES[:-1]  # "Â" before a space is a letter to those who read latin-1
    return [(name, random.choice(around) + value + random.choice(around) if value else b" ") for value in values]


def a_token(random: Random) -> list[Header]:
    scheme = random.choice([b"Bearer", b"bearer", b"BEARER", b"beArer"])
    between = b"".join(random.choices(SPACES, k=3)) or b" "
    after = random.choice([b"", b"", b" ", b"\xa0", b" junk-%d" % random.randrange(99), b"\xa0x", b",Bearer x"])
    return [(b"Authorization", scheme + between + random.choice([b"t-1", b"t-2"]) + after)]


def send_many(site: Site, random: Random) -> None:
    """Ask for each function many times, each time in another way. Check that a path that reaches one is counted."""
    client = site.client
    for _ in range(TRIES):
        for plain in ("graphql/", "files/", "login"):
            path, before = a_path(random, plain), len(site.calls)
            answer = client.send(path, method=random.choice([b"GET", b"POST", b"HEAD"]))
            for call in site.calls[before:]:
                counted = call.function not in PATHS or f'"{call.function}"' in answer.headers.get("ratelimit", "")
                assert counted, f"{path!r} has reached {call.function} uncounted"
        client.send(a_path(random, random.choice(["items/a", "items/b.c"])))
        client.send("/cookie", *a_cookie(random))
        client.send("/key", *a_key(random))
        client.send("/token", *a_token(random))
        client.send("/do", *a_token(random))
        client.send("/any", method=random.choice(METHODS))


IDENTITIES: dict[str, Callable[[Call], object]] = {
    "items": lambda call: call.item,
    "cookie": lambda call: call.cookie,
    "key": lambda call: (call.key or "").strip(),
    "token": lambda call: call.token,
    "do": lambda call: call.token,
    "any": lambda call: read_method(call.method),
}


@pytest.mark.parametrize("framework", SITES)
def test_whatever_reaches_a_function_with_one_identity_was_counted_in_one_bucket(framework: str) -> None:
    make: MakeSite = SITES[framework]
    with make(policy=POLICY, store=memory()) as site:
        send_many(site, Random(f"spellings of {framework}"))
    for function in PATHS:
        assert len(site.ran(function)) > 10, f"few spellings have reached {function}"
    for function, identity in IDENTITIES.items():
        counted = Counter(known for call in site.ran(function) if (known := identity(call)))
        assert counted, f"nothing has reached {function}"
        worst, times = counted.most_common(1)[0]
        assert times <= LIMIT, f"{function} ran {times} times for {worst!r}"
