"""The attributes of a request, also if somebody tries to make them others."""

from __future__ import annotations

from http import HTTPStatus
from http.cookies import SimpleCookie
from string import ascii_letters
from uuid import UUID

import pytest
from exchanges import Asked
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ratekeeper.errors import BadRequestError
from ratekeeper.http.attributes import (
    OWN_KEY,
    AttributeReader,
    client_address,
    put_attribute,
    read_method,
)
from ratekeeper.http.header_lines import MOST_BYTES, MOST_LINES
from ratekeeper.http.paths import MOST_PATH, USUAL_PATH, read_path
from ratekeeper.policy.addresses import UNKNOWN_CLIENT, client_of
from ratekeeper.policy.sources import (
    OTHER,
    BearerSource,
    ClientIP,
    CookieSource,
    HeaderSource,
    PathSource,
    Source,
    readings_of,
)

nasty = st.sampled_from(["/", "//", ".", "..", "a", "%2e", "%2F", "%25", "%", "?", "#", "é", "\\", "x:", ";", ";x=1"])
path_like = st.text() | st.binary() | st.lists(nasty).map("".join)
BY_ONE_PROXY, BY_NONE = ClientIP(1), ClientIP()


# Paths


@given(path_like)
@example("http://")
@example("//")
@example("%2e%2e")
@example(b"\xff%ff")
def test_any_path_has_a_resolved_reading_which_names_no_empty_or_dot_segment_and_no_parameter(raw: str | bytes) -> None:
    path = read_path(raw)
    assert path.startswith("/")
    assert path == "/" or not {"", ".", ".."} & set(path[1:].split("/"))
    assert ";" not in path
    assert path == readings_of(path)[0]
    assert all(reading.startswith("/") for reading in readings_of(path))


@given(path_like)
def test_the_resolved_reading_is_its_own(raw: str | bytes) -> None:
    path = str(read_path(raw))
    assume(not set("%?#\\") & set(path))  # decoded from %25, %3F, %23: here they are letters, there they are not
    assert read_path(path) == path
    assert readings_of(read_path(path)) == (path,)


@given(st.lists(st.text(ascii_letters + "éß漢", min_size=1), min_size=1), st.data())
def test_all_spellings_of_a_path_have_one_resolved_reading(segments: list[str], data: st.DataObject) -> None:
    spelt = ""
    for segment in segments:
        spelt += data.draw(st.sampled_from(["/", "//", "/./", "/x/../", "/%2E/", "%2f", "/x/%2e.//", "/..;x/;/./"]))
        spelt += "".join(data.draw(st.sampled_from([letter, _encoded(letter)])) for letter in segment)
        spelt += data.draw(st.sampled_from(["", ";", ";x", ";x=1;y=2", "%3bx"]))
    spelt += data.draw(st.sampled_from(["", "/", "//", "/.", "?", "?a=/../b", "#", "#x?y"]))
    plain = "/" + "/".join(segments)
    assert read_path(spelt.replace("/..;x/", "/x/..;x/")) == plain
    assert read_path(spelt.replace("/..;x/", "/x/..;x/").encode()) == plain, "the same as raw bytes, UTF-8 or encoded"


def _encoded(letter: str) -> str:
    return "".join(f"%{byte:02x}" for byte in letter.encode())


@pytest.mark.parametrize("raw", ["/api//x", "/%61pi/x", "/y/../api/x", "/api/./x", "/../../api/x", "/api%2Fx",
                                 "api/x", "//api/x?y#z", "http://example.com/api/x", "/%2e%2E/api/x",
                                 "/y//../api/x", "/api/x/", "/api/x;v=1", "/api;a/x;b/", "/y/..;/api/x"])  # fmt: skip
def test_no_spelling_slips_past_a_rule_for_api(raw: str) -> None:
    assert read_path(raw) == "/api/x"


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ("", "/"), ("/", "/"), ("*", "/*"), ("/a/", "/a"), ("/a//", "/a"), ("/a/.", "/a"), ("/a/b/..", "/a"),
        ("/a/..", "/"), ("/..", "/"), ("/...", "/..."), ("/.well-known/x", "/.well-known/x"), ("/a%", "/a%"),
        ("/%2561", "/%61"), ("/a%3Fb", "/a?b"), ("http://example.com", "/"), ("http://example.com?x", "/"),
        ("/x/http://y", "/x/http:/y"), ("/%ff", "\ufffd"), (b"/caf\xc3\xa9", "/café"), ("/?a=//b", "/"),
    ],
)  # fmt: skip
def test_a_path_is_decoded_once(raw: str | bytes, path: str) -> None:
    assert read_path(raw) == (path if path.startswith("/") else f"/{path}")


@pytest.mark.parametrize(
    ("raw", "reading"),
    [
        ("/graphql/../x", "/graphql/../x"), ("/login/", "/login/"), ("/login;x=1", "/login;x=1"), ("//a", "//a"),
        ("/healthz#/y", "/healthz#/y"), ("/healthz%2Fx", "/healthz%2Fx"), ("/a/..;/b", "/a/..;/b"),
        ("//graphql/../x", "/graphql/../x"), ("/api//../admin", "/api/admin"), ("//host/login", "/login"),
        ("/a;x%2Fy/b", "/a/b"), ("/api\\login", "/api/login"), ("/login%0a", "/login"), ("/x/..\\api", "/api"),
        ("///host/login", "/login"), ("/\\host/login", "/login"), ("//host\\login", "/login"),
        ("//host/login#f", "/login"),
    ],
)  # fmt: skip
def test_a_path_can_also_be_read_as_it_stands(raw: str, reading: str) -> None:
    assert reading in readings_of(read_path(raw))


@pytest.mark.parametrize("raw", ["http://a?/login", "http://a#/login", "HTTPS://a:1?b=c/d", b"http://a?/login"])
def test_an_origin_that_may_or_may_not_have_a_path_is_refused(raw: str | bytes) -> None:
    with pytest.raises(BadRequestError, match="an origin without a path"):
        read_path(raw)


def test_most_paths_can_be_read_in_one_way_only() -> None:
    for path in ("/", "/a", "/a/b.c", "/.well-known/x", "/a:b@c,d=e"):
        assert type(read_path(path)) is str


def test_an_application_that_ignores_case_has_its_paths_in_lower_case() -> None:
    source = PathSource(ignore_case=True)
    assert read_path("/Login", source) == "/login"
    assert {read_path(f"/log{i}n", source) for i in "iI\u0130\u0131"} == {"/login"}
    assert readings_of(read_path("/X/../Login/", source)) == ("/login", "/login/", "/x/../login", "/x/../login/")


def test_the_readings_of_a_long_path_are_few() -> None:
    for piece in ("/..", "/x;", "%2f..", "//", "/%2e/", ";a/../", "#", "\\..", "//.."):
        assert len(readings_of(read_path("/a" + piece * 1_000))) <= 16


def test_a_path_that_is_too_long_is_refused() -> None:
    with pytest.raises(BadRequestError, match="the path is longer than 8192 characters") as refused:
        read_path("/" + "a" * MOST_PATH)
    assert refused.value.status == 414


# Methods


@pytest.mark.parametrize(
    ("method", "read"),
    [
        ("GET", "GET"),
        ("get", "GET"),
        ("HEAD", "GET"),
        ("Head", "GET"),
        ("PURGE", OTHER),
        ("", OTHER),
        ("G\u00cbT", OTHER),
    ],
)
def test_a_method_is_upper_case_head_is_get_and_one_that_is_not_registered_is_other(method: str, read: str) -> None:
    assert read_method(method) == read


# The client of a request


@given(st.lists(st.text(), max_size=5).map(",".join))
@example("10.0.0.1, 10.0.0.2")
def test_whatever_a_client_forges_it_is_who_the_trusted_proxies_saw(forged: str) -> None:
    assert client_address(f"{forged}, 203.0.113.9", "10.0.0.1", ClientIP(1)) == "203.0.113.9"
    assert client_address(f"{forged}, 203.0.113.9, 10.0.0.2", "10.0.0.1", ClientIP(2)) == "203.0.113.9"
    assert client_address(forged, "203.0.113.9", BY_NONE) == "203.0.113.9"


def test_a_thousand_forged_x_forwarded_for_values_give_one_client_one_value() -> None:
    reader = AttributeReader({"client": ClientIP(trusted_proxies=1)})
    seen = set()
    for number in range(1000):
        forged = f"10.{number // 250}.{number % 250}.1".encode()
        raw = [(b"X-Forwarded-For", forged), (b"x-forwarded-for", b"unknown, " * (number % 7)),
               (b"x-forwarded-for", b"203.0.113.9")]  # fmt: skip
        seen.add(reader.read(Asked("GET", "/", raw, "10.0.0.1"))["client"])
    assert seen == {"203.0.113.9"}


@pytest.mark.parametrize(
    ("forwarded_for", "proxies", "client"),
    [
        ("192.0.2.1, 192.0.2.2, 192.0.2.3", 0, "10.0.0.1"),
        ("192.0.2.1, 192.0.2.2, 192.0.2.3", 1, "192.0.2.3"),
        ("192.0.2.1, 192.0.2.2, 192.0.2.3", 2, "192.0.2.2"),
        ("192.0.2.1, 192.0.2.2, 192.0.2.3", 3, "192.0.2.1"),
        ("192.0.2.1,192.0.2.2", 9, "192.0.2.1"),
        ("", 1, "10.0.0.1"),
        (None, 2, "10.0.0.1"),
    ],
)
def test_hops_are_counted_from_the_right_and_the_leftmost_stands_for_those_that_are_not_there(
    forwarded_for: str | None, proxies: int, client: str
) -> None:
    assert client_address(forwarded_for, "10.0.0.1", ClientIP(proxies)) == client


@pytest.mark.parametrize(
    ("entry", "client"),
    [
        ("192.0.2.1:5678", "192.0.2.1"),
        (" 192.0.2.1\t", "192.0.2.1"),
        ("2001:db8:0:1:ffff::7", "2001:db8:0:1::/64"),
        ("[2001:db8::1]:443", "2001:db8::/64"),
        ("[2001:DB8::2]", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("[fe80::1%25eth0]:80", "fe80::/64"),
        ("::1", "::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("[::ffff:c000:201]:80", "192.0.2.1"),
    ],
)
def test_an_address_has_one_spelling_and_ipv6_counts_by_64(entry: str, client: str) -> None:
    assert client_address(entry, None, BY_ONE_PROXY) == client_address(None, entry.strip(), BY_NONE) == client


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_a_customer_with_a_whole_64_has_one_bucket(one: int, other: int) -> None:
    prefix = "2001:db8:1:2:"
    assert len({client_address(prefix + _low_half(low), None, BY_ONE_PROXY) for low in (one, other)}) == 1


def _low_half(number: int) -> str:
    return ":".join(f"{number >> shift & 0xFFFF:x}" for shift in (48, 32, 16, 0))


@pytest.mark.parametrize("entry", ["unknown", "_hidden", "1.2.3", "1.2.3.4.5", "01.2.3.4", "::g", "a" * 100_000,
                                   "[::1", "é", "1.2.3.4, ", ",", "\u0661.2.3.4"])  # fmt: skip
def test_addresses_that_are_none_share_one_bucket(entry: str) -> None:
    assert client_address(entry, "10.0.0.1", BY_ONE_PROXY) == client_address(None, entry, BY_NONE) == UNKNOWN_CLIENT


def test_a_request_without_a_peer_is_an_unknown_client() -> None:
    assert client_address(None, None, BY_NONE) == client_address(None, None, ClientIP(3)) == "unknown"
    assert client_address(None, "", BY_ONE_PROXY) == "unknown"


@given(st.text(), st.none() | st.text(), st.integers(0, 4))
def test_a_client_can_always_be_named(forwarded_for: str, peer: str | None, proxies: int) -> None:
    assert client_address(forwarded_for, peer, ClientIP(proxies))


@pytest.mark.parametrize(
    ("source", "address", "client"),
    [
        (ClientIP(ipv6_prefix=56), "2001:db8:0:1ff::1", "2001:db8:0:100::/56"),
        (ClientIP(ipv6_prefix=48), "2001:db8:7:1::1", "2001:db8:7::/48"),
        (ClientIP(ipv6_prefix=128), "2001:db8::1", "2001:db8::1"),
        (ClientIP(ipv4_prefix=24), "192.0.2.7:80", "192.0.2.0/24"),
        (ClientIP(ipv4_prefix=24), "::ffff:192.0.2.7", "192.0.2.0/24"),
    ],
)
def test_clients_are_told_apart_by_a_prefix_that_is_chosen(source: ClientIP, address: str, client: str) -> None:
    assert client_address(None, address, source) == client


# The reader


def read(source: Source, *lines: tuple[bytes, bytes]) -> str | None:
    return AttributeReader({"it": source}, wanted={"it"}).read(Asked("GET", "/", lines)).get("it")


def test_method_path_and_client_are_always_given_and_absent_or_empty_headers_are_not() -> None:
    reader = AttributeReader({"api_key": HeaderSource("X-API-Key"), "user": HeaderSource("x-user-id")})
    raw = [(b"x-api-key", b"k-1"), (b"X-User-Id", b"  ")]
    assert reader.read(Asked("post", "/Api?x", raw, "192.0.2.1")) == {
        "method": "POST", "path": "/Api", "client": "192.0.2.1", "api_key": "k-1",
    }  # fmt: skip


def test_the_policy_says_where_the_client_comes_from_and_the_default_is_for_policies_that_do_not() -> None:
    request = Asked("GET", "/", [(b"x-forwarded-for", b"192.0.2.1, 192.0.2.2"), (b"x-real-ip", b"me")], "10.0.0.1")
    by_default = AttributeReader({}, default_client=ClientIP(2))
    assert by_default.read(request)["client"] == "192.0.2.1"
    assert AttributeReader({}).read(request)["client"] == "10.0.0.1"
    assert AttributeReader({"client": ClientIP(1)}, ClientIP(2)).read(request)["client"] == "192.0.2.2"
    assert AttributeReader({"client": HeaderSource("x-real-ip")}).read(request)["client"] == "me"
    assert "client" not in AttributeReader({"client": HeaderSource("x-other")}).read(request)
    named = AttributeReader({"ip": ClientIP(1)}).read(request)
    assert (named["ip"], named["client"]) == ("192.0.2.2", "10.0.0.1")


@pytest.mark.parametrize(
    ("raw", "value"), [(b" 1 2\t", "1 2"), (b"\xe9", "é"), (b"\xc3\xa9", "é"), (b"", None), (b" \t", None)]
)
def test_a_headers_value_is_utf8_where_it_is_else_latin_1_without_blanks_around_it(raw: bytes, value: str) -> None:
    assert read(HeaderSource("x-a"), (b"X-A", raw)) == value


def test_lines_of_a_header_that_is_a_list_are_one_list_however_they_are_cut() -> None:
    lines = [(b"accept-language", b"de ,en"), (b"Accept-Language", b" fr")]
    assert read(HeaderSource("accept-language"), *lines) == "de, en, fr"
    assert read(HeaderSource("accept-language"), (b"accept-language", b"de,en,\tfr")) == "de, en, fr"
    assert read(ClientIP(2), (b"X-Forwarded-For", b"192.0.2.1"), (b"x-forwarded-for", b"192.0.2.2")) == "192.0.2.1"


@pytest.mark.parametrize("junk", [b"", b"1", b"k-1"])
def test_a_repeated_header_is_refused_by_its_name_and_names_no_value(junk: bytes) -> None:
    for lines in ([(b"x-api-key", b"k-1"), (b"X-Api-Key", junk)], [(b"x-api-key", junk), (b"x-api-key", b"k-1")]):
        with pytest.raises(BadRequestError, match="the header 'x-api-key' is repeated") as refused:
            read(HeaderSource("x-api-key"), *lines)
        assert refused.value.status == 400
        assert "k-1" not in str(refused.value)


def test_a_repeated_header_that_no_rule_reads_is_the_applications_own_affair() -> None:
    assert read(HeaderSource("x-api-key"), (b"x-api-key", b"k"), (b"x-b", b"1"), (b"x-b", b"2")) == "k"


@given(path_like.filter(bool), st.none() | st.text(max_size=120) | st.sampled_from(["192.0.2.7", "[2001:DB8::1]:443"]))
@example("/" + "a" * USUAL_PATH, "1" * 101)
def test_path_and_peer_are_read_as_by_their_own_functions(raw: str | bytes, peer: str | None) -> None:
    client = ClientIP(ipv4_prefix=24, ipv6_prefix=48)
    for source in (PathSource(), PathSource(ignore_case=True)):
        try:
            path = read_path(raw, source)
        except BadRequestError:
            continue
        found = AttributeReader({"path": source, "client": client}).read(Asked("GET", raw, (), peer))
        assert readings_of(found["path"]) == readings_of(path)
        assert found["client"] == client_of(peer or "", 24, 48)


def test_more_header_lines_and_bytes_than_can_be_looked_at_are_refused() -> None:
    too_many = [(b"cookie", b"a=1")] * (MOST_LINES + 1)
    too_long = [(b"cookie", b"a=1;" * (MOST_BYTES // 8))] * 3
    for lines in (too_many, too_long):
        with pytest.raises(BadRequestError) as refused:
            read(CookieSource("a"), *lines)
        assert refused.value.status == 431


@pytest.mark.parametrize(
    "spelling",
    [
        b"Bearer k-1",
        b"bearer k-1",
        b"BEARER   k-1",
        b"Bearer\tk-1",
        b"Bearer k-1  ",
        b" bEARER \t k-1",
        b"Bearer\xa0k-1",
        b"Bearer \x0b\xa0 k-1",
    ],
)
def test_a_bearer_token_has_one_spelling(spelling: bytes) -> None:
    assert read(BearerSource(), (b"Authorization", spelling)) == "k-1"
    assert read(HeaderSource("authorization"), (b"Authorization", spelling)) == "bearer k-1"


@pytest.mark.parametrize(
    "value", [b"Bearer k-1 x", b"bearer x\xa0k-1", b"Basic azpx x", b"Token k x", b"Bearer k,Bearer x"]
)
@pytest.mark.parametrize("source", [BearerSource(), HeaderSource("authorization")])
def test_an_authorization_of_several_tokens_is_refused_as_applications_differ_in_which_they_take(
    value: bytes, source: Source
) -> None:
    with pytest.raises(BadRequestError, match="the header 'authorization' has several tokens"):
        read(source, (b"authorization", value))


@pytest.mark.parametrize("other", [b"Basic azpx", b"Bearer", b"Bearer ", b"k-1", b"Token k-1"])
def test_what_is_not_a_bearer_token_is_a_missing_one(other: bytes) -> None:
    assert read(BearerSource(), (b"authorization", other)) is None


def test_a_signed_token_has_one_spelling_however_its_signature_is_written() -> None:
    spellings = [b"QUI", b"QUJ", b"QUI=", b"Q!U*I", b"Q.UI".replace(b".", b"~")]
    assert {read(BearerSource(), (b"authorization", b"Bearer a.b." + end)) for end in spellings} == {"a.b.QUI"}
    assert read(BearerSource(), (b"authorization", b"Bearer a.b.-_8")) == "a.b.-_8"
    assert read(BearerSource(), (b"authorization", b"Bearer a.b.+/9")) == "a.b.-_8"


def test_basic_credentials_have_one_spelling() -> None:
    spellings = [b"Basic YWJj", b"BASIC  YWJj", b"basic YW!Jj", b"Basic YWJj "]
    assert {read(HeaderSource("Authorization"), (b"authorization", one)) for one in spellings} == {"basic YWJj"}
    assert read(HeaderSource("authorization"), (b"authorization", b"Basic x")) == "basic x"


def test_a_number_means_its_decimal_string_and_a_uuid_its_string() -> None:
    attributes: dict[str, str] = {}
    for value, string in ((7, "7"), (-(10**20), "-100000000000000000000"), (HTTPStatus.OK, "200"), ("seven", "seven")):
        put_attribute(attributes, "user", value)
        assert attributes == {"user": string}
    put_attribute(attributes, "user", UUID(int=7))
    assert attributes == {"user": "00000000-0000-0000-0000-000000000007"}
    put_attribute(attributes, "user", None)
    assert attributes == {}


@pytest.mark.parametrize("value", [True, 7.0, b"7", ["7"], object()])
def test_an_attribute_of_another_type_is_an_error_that_says_what_is_right(value: object) -> None:
    what = f"must return a string, an int, a UUID or None, not {type(value).__name__}"
    with pytest.raises(TypeError, match=f"the function of the attribute 'user' {what}"):
        put_attribute({}, "user", value)
    with pytest.raises(TypeError, match=f"a key function {what}"):
        put_attribute({}, OWN_KEY, value)


# Cookies


tokens = st.text("abcz09-_.!~", min_size=1, max_size=5)


@given(st.lists(st.tuples(tokens, tokens), max_size=6, unique_by=lambda pair: pair[0]), st.booleans(), st.booleans())
def test_a_cookie_is_found_by_its_whole_name(pairs: list[tuple[str, str]], quoted: bool, split: bool) -> None:
    texts = [f'{name}="{value}"' if quoted else f"{name}={value}" for name, value in pairs]
    lines = texts if split else ["; ".join(texts)]  # HTTP/2 may send each on its own line
    names = {name for name, _ in pairs}
    reader = AttributeReader({name: CookieSource(name) for name in (*names, "other")}, wanted={*names, "other"})
    assert reader.read(Asked("GET", "/", [(b"cookie", line.encode()) for line in lines])) == dict(pairs)


SPELLINGS = ["s=value", "s= value", "s=\tvalue \t", "s = value", '\ts="value"', r's="\166alue"', r's="v\alue"',
             "s=%76alue", "s=v%61lu%65", r's="%76\141lue"',
             r's=" value"'.replace('" ', '"'), "a=b;s=value", "s=value;;", "s=value; s=value"]  # fmt: skip


@pytest.mark.parametrize("header", SPELLINGS)
def test_a_cookie_has_one_value_however_it_is_spelt(header: str) -> None:
    assert read(CookieSource("s"), (b"cookie", header.encode())) == "value"


def test_a_cookie_has_one_spelling_of_a_space_which_is_a_plus_to_some() -> None:
    for header in ("s=a+b", "s=a%20b", "s=a%2Bb", 's="a b"'):
        assert read(CookieSource("s"), (b"cookie", header.encode())) == "a+b"


SPACED = ["s=value a=b", "a=b s=value", "a=b\ts = value", 's="a" s="b"', "s=value s=value", "s = a value"]
"""Headers that `http.cookies` splits at white space, and others do not."""


@pytest.mark.parametrize("header", ["s=value; s=other", "s=value; s=", 's="a"; s="b"', *SPACED])
def test_a_cookie_with_different_values_is_refused_by_its_name(header: str) -> None:
    with pytest.raises(BadRequestError, match="the cookie 's' has several values"):
        read(CookieSource("s"), (b"cookie", header.encode()))


@pytest.mark.parametrize(
    "header", ["", "sid", "sid=", 'sid=""', "SID=x", "asid=x", "a=sid=x", "=x", "a=b c=d", 'a="b sid=x"']
)
def test_without_a_cookie_of_that_name_and_a_value_there_is_no_attribute(header: str) -> None:
    assert read(CookieSource("sid"), (b"cookie", header.encode())) is None


# Newer versions of the library do not write control characters.
cookie_values = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]))


@given(st.dictionaries(tokens.map(lambda name: f"n{name}"), cookie_values), st.data())
def test_cookies_are_read_as_pythons_own_library_reads_them(cookies: dict[str, str], data: st.DataObject) -> None:
    written = SimpleCookie(cookies)
    header = data.draw(st.sampled_from(["; ", ";", " ;\t"])).join(morsel.OutputString() for morsel in written.values())
    again = SimpleCookie(header)
    assume(len(again) == len(cookies))
    for name in cookies:
        asked = Asked("GET", "/", [(b"cookie", header.encode("latin-1"))])
        assert (asked.cookie(name) or "") == again[name].value


# Attributes that programs give


def test_what_a_program_gives_is_read_as_a_request_would_be() -> None:
    reader = AttributeReader({"key": BearerSource(), "client": ClientIP(ipv6_prefix=56)})
    given = {
        "path": "/x/../login/",
        "method": "head",
        "client": " 2001:db8:0:1::7\xa0",
        "key": " k ",
        "user": "",
        "team": "a",
    }
    assert reader.respell(given) == {
        "path": "/login", "method": "GET", "client": "2001:db8::/56", "key": "k", "team": "a",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("stated", "seen"),
    [("GET ", "GET"), ("\t head\xa0", "GET"), ("\u2003PoST", "POST"), ("G ET", "OTHER"), (" ", None), ("", None)],
)
def test_spaces_around_a_programs_method_name_no_other_method(stated: str, seen: str | None) -> None:
    assert AttributeReader({}).respell({"method": stated}).get("method") == seen


PROGRAMS_SPACES = st.text(st.sampled_from(" \t\x0b\x1f\x85\xa0\u2003"), max_size=3)


@given(
    st.sampled_from(["x-user", "accept-language", "host", "authorization"]),
    PROGRAMS_SPACES, st.sampled_from(["a", "a, b", "a ,b,", "Basic  a", "\u200b", ""]), PROGRAMS_SPACES,
)  # fmt: skip
def test_spaces_around_a_programs_value_name_no_other_bucket(name: str, before: str, value: str, after: str) -> None:
    reader = AttributeReader({"it": HeaderSource(name)})
    value = f"{before}{value}{after}"
    try:
        read = reader.read(Asked("GET", "/", [(name.encode(), value.encode())]))
    except BadRequestError:
        assume(False)
    assert reader.respell({"it": value}).get("it") == read.get("it")
