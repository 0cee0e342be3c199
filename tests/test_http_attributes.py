"""What a request's attributes are, whoever would rather that they were others."""

from __future__ import annotations

from string import ascii_letters
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ratekeeper.http.attributes import (
    UNKNOWN_CLIENT,
    AttributeReader,
    Request,
    client_address,
    forwarded_request,
    header_map,
    normal_path,
)
from ratekeeper.policy.sources import ClientIP, CookieSource, HeaderSource

nasty = st.sampled_from(["/", "//", ".", "..", "a", "%2e", "%2F", "%25", "%", "?", "#", "é", "\\", "x:"])
path_like = st.text() | st.binary() | st.lists(nasty).map("".join)


# Paths


@given(path_like)
@example("http://")
@example("//")
@example("%2e%2e")
@example(b"\xff%ff")
def test_any_path_has_a_normal_form_which_begins_with_a_slash_and_names_no_empty_or_dot_segment(
    raw: str | bytes,
) -> None:
    path = normal_path(raw)
    assert path.startswith("/")
    assert not {"", ".", ".."} & set(path[1:].removesuffix("/").split("/")) or path == "/"


@given(path_like)
def test_a_normal_path_is_its_own_normal_form(raw: str | bytes) -> None:
    path = normal_path(raw)
    assume(
        not set("%?#") & set(path)
    )  # decoded from %25, %3F, %23: here they are letters of the path, there they are not
    assert normal_path(path) == path


@given(st.lists(st.text(ascii_letters + "éß漢", min_size=1), min_size=1), st.data())
def test_all_spellings_of_a_path_have_one_normal_form(segments: list[str], data: st.DataObject) -> None:
    spelt = ""
    for segment in segments:
        spelt += data.draw(st.sampled_from(["/", "//", "/./", "/x/../", "/%2E/", "%2f", "/x/%2e.//"]))
        spelt += "".join(data.draw(st.sampled_from([letter, _encoded(letter)])) for letter in segment)
    spelt += data.draw(st.sampled_from(["", "?", "?a=/../b", "#", "#x?y"]))
    plain = "/" + "/".join(segments)
    assert normal_path(spelt) == plain
    assert normal_path(spelt.encode()) == plain, "the same as raw bytes, UTF-8 or encoded"


def _encoded(letter: str) -> str:
    return "".join(f"%{byte:02x}" for byte in letter.encode())


@pytest.mark.parametrize("raw", ["/api//x", "/%61pi/x", "/y/../api/x", "/api/./x", "/../../api/x", "/api%2Fx",
                                 "api/x", "//api/x?y#z", "http://example.com/api/x", "/%2e%2E/api/x",
                                 "/y//../api/x"])  # fmt: skip
def test_no_spelling_slips_past_a_rule_for_api(raw: str) -> None:
    assert normal_path(raw) == "/api/x"


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ("", "/"), ("/", "/"), ("*", "/*"), ("/a/", "/a/"), ("/a//", "/a/"), ("/a/.", "/a/"), ("/a/b/..", "/a/"),
        ("/a/..", "/"), ("/..", "/"), ("/...", "/..."), ("/.well-known/x", "/.well-known/x"), ("/a%", "/a%"),
        ("/%2561", "/%61"), ("/a%3Fb", "/a?b"), ("http://example.com", "/"), ("/x/http://y", "/x/http:/y"),
        ("/%ff", "/\ufffd"), (b"/caf\xc3\xa9", "/café"), ("/?a=//b", "/"),
    ],
)  # fmt: skip
def test_a_path_is_decoded_once_and_keeps_its_trailing_slash(raw: str | bytes, path: str) -> None:
    assert normal_path(raw) == path


# Whose request it is


@given(st.lists(st.text(), max_size=5).map(",".join))
@example("10.0.0.1, 10.0.0.2")
def test_whatever_a_client_forges_it_is_who_the_trusted_proxies_saw(forged: str) -> None:
    assert client_address(f"{forged}, 203.0.113.9", "10.0.0.1", 1) == "203.0.113.9"
    assert client_address(f"{forged}, 203.0.113.9, 10.0.0.2", "10.0.0.1", 2) == "203.0.113.9"
    assert client_address(forged, "203.0.113.9", 0) == "203.0.113.9"


def test_a_thousand_forged_x_forwarded_for_values_give_one_client_one_value() -> None:
    reader = AttributeReader({"client": ClientIP(trusted_proxies=1)})
    seen = set()
    for number in range(1000):
        forged = f"10.{number // 250}.{number % 250}.1".encode()
        raw = [(b"X-Forwarded-For", forged), (b"x-forwarded-for", b"unknown, " * (number % 7)),
               (b"x-forwarded-for", b"203.0.113.9")]  # fmt: skip
        seen.add(reader.read(Request("GET", "/", header_map(raw), "10.0.0.1"))["client"])
    assert seen == {"203.0.113.9"}


@pytest.mark.parametrize(
    ("forwarded_for", "proxies", "client"),
    [
        ("192.0.2.1, 192.0.2.2, 192.0.2.3", 0, "10.0.0.1"),
        ("192.0.2.1, 192.0.2.2, 192.0.2.3", 1, "192.0.2.3"),
        ("192.0.2.1, 192.0.2.2, 192.0.2.3", 2, "192.0.2.2"),
        ("192.0.2.1, 192.0.2.2, 192.0.2.3", 3, "192.0.2.1"),
        ("192.0.2.1,192.0.2.2", 9, "192.0.2.1"),
        ("192.0.2.1", -1, "10.0.0.1"),
        ("", 1, "10.0.0.1"),
        (None, 2, "10.0.0.1"),
    ],
)
def test_hops_are_counted_from_the_right_and_the_leftmost_stands_for_those_that_are_not_there(
    forwarded_for: str | None, proxies: int, client: str
) -> None:
    assert client_address(forwarded_for, "10.0.0.1", proxies) == client


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
    assert client_address(entry, None, 1) == client_address(None, entry.strip(), 0) == client


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_a_customer_with_a_whole_64_has_one_bucket(one: int, other: int) -> None:
    prefix = "2001:db8:1:2:"
    assert len({client_address(prefix + _low_half(low), None, 1) for low in (one, other)}) == 1


def _low_half(number: int) -> str:
    return ":".join(f"{number >> shift & 0xFFFF:x}" for shift in (48, 32, 16, 0))


@pytest.mark.parametrize("entry", ["unknown", "_hidden", "1.2.3", "1.2.3.4.5", "01.2.3.4", "::g", "a" * 100_000,
                                   "[::1", "é", "1.2.3.4, ", ",", "\u0661.2.3.4"])  # fmt: skip
def test_addresses_that_are_none_share_one_bucket(entry: str) -> None:
    assert client_address(entry, "10.0.0.1", 1) == client_address(None, entry, 0) == UNKNOWN_CLIENT


def test_a_request_without_a_peer_is_an_unknown_client() -> None:
    assert client_address(None, None, 0) == client_address(None, None, 3) == client_address(None, "", 1) == "unknown"


@given(st.text(), st.none() | st.text(), st.integers(0, 4))
def test_a_client_can_always_be_named(forwarded_for: str, peer: str | None, proxies: int) -> None:
    assert client_address(forwarded_for, peer, proxies)


# The reader


def test_method_path_and_client_are_always_given_and_absent_or_empty_headers_are_not() -> None:
    reader = AttributeReader({"api_key": HeaderSource("X-API-Key"), "user": HeaderSource("x-user-id")})
    raw = [(b"x-api-key", b"k-1"), (b"X-User-Id", b"  ")]
    assert reader.read(Request("post", "/Api?x", header_map(raw), "192.0.2.1")) == {
        "method": "POST", "path": "/Api", "client": "192.0.2.1", "api_key": "k-1",
    }  # fmt: skip


def test_the_policy_says_where_the_client_comes_from_and_the_default_is_for_policies_that_do_not() -> None:
    request = Request("GET", "/", {"x-forwarded-for": "192.0.2.1, 192.0.2.2", "x-real-ip": "me"}, "10.0.0.1")
    by_default = AttributeReader({}, default_client=ClientIP(2))
    assert by_default.read(request)["client"] == "192.0.2.1"
    assert AttributeReader({}).read(request)["client"] == "10.0.0.1"
    assert AttributeReader({"client": ClientIP(1)}, ClientIP(2)).read(request)["client"] == "192.0.2.2"
    assert AttributeReader({"client": HeaderSource("x-real-ip")}).read(request)["client"] == "me"
    assert "client" not in AttributeReader({"client": HeaderSource("x-other")}).read(request)
    named = AttributeReader({"ip": ClientIP(1)}).read(request)
    assert (named["ip"], named["client"]) == ("192.0.2.2", "10.0.0.1")


def test_a_header_is_found_by_its_name_in_lower_case_without_blanks_around_it() -> None:
    assert header_map([(b"X-A", b" 1 2\t"), (b"x-b", b"\xe9")]) == {"x-a": "1 2", "x-b": "é"}


def test_repeated_forwarded_for_headers_are_one_list() -> None:
    raw = [(b"X-Forwarded-For", b"192.0.2.1"), (b"x-forwarded-for", b"192.0.2.2")]
    assert header_map(raw) == {"x-forwarded-for": "192.0.2.1, 192.0.2.2"}


def test_junk_beside_a_key_buys_no_fresh_bucket() -> None:
    reader = AttributeReader({"api_key": HeaderSource("x-api-key")})
    for junk in (b"", b"1", b"2"):
        for raw in ([(b"x-api-key", b"k-1"), (b"X-Api-Key", junk)], [(b"x-api-key", junk), (b"x-api-key", b"k-1")]):
            assert "api_key" not in reader.read(Request("GET", "/", header_map(raw)))


tokens = st.text("abcz09-_.!~", min_size=1, max_size=5)


@given(st.lists(st.tuples(tokens, tokens), max_size=6), st.booleans(), st.booleans())
def test_a_cookie_is_found_by_its_whole_name_unless_it_is_repeated(
    pairs: list[tuple[str, str]], quoted: bool, split: bool
) -> None:
    texts = [f'{name}="{value}"' if quoted else f"{name}={value}" for name, value in pairs]
    lines = texts if split else ["; ".join(texts)]  # HTTP/2 may send each on a line of its own
    names = [name for name, _ in pairs]
    reader = AttributeReader({name: CookieSource(name) for name in (*names, "other")}, wanted={*names, "other"})
    found = reader.read(Request("GET", "/", header_map([(b"cookie", line.encode()) for line in lines])))
    assert found == {name: value for name, value in pairs if names.count(name) == 1}


@pytest.mark.parametrize("header", ["", "sid", "sid=", 'sid=""', "SID=x", "asid=x", "a=sid=x", "sid=x; sid=y", "=x"])
def test_without_one_cookie_of_that_name_and_a_value_there_is_no_attribute(header: str) -> None:
    reader = AttributeReader({"session": CookieSource("sid")}, wanted={"session"})
    assert reader.read(Request("GET", "/", {"cookie": header})) == {}


# Sub-requests


@pytest.mark.parametrize(
    ("headers", "method", "path"),
    [
        ({}, "GET", "/check"),
        ({"x-forwarded-method": "POST", "x-forwarded-uri": "/a?b"}, "POST", "/a"),
        ({"x-forwarded-uri": "/a"}, "GET", "/a"),
        ({"x-forwarded-method": "", "x-forwarded-uri": ""}, "GET", "/check"),
        ({"x-forwarded-uri": "/caf\xc3\xa9"}, "GET", "/café"),
        ({"x-forwarded-uri": "/caf%C3\xa9"}, "GET", "/café"),
        ({"x-forwarded-uri": "/漢"}, "GET", "/?"),
    ],
)
def test_a_sub_request_speaks_for_the_one_it_asks_about(headers: dict[str, str], method: str, path: str) -> None:
    request = Request("GET", "/check", headers, "10.0.0.1")
    asked = forwarded_request(request)
    assert (asked.method, normal_path(asked.path)) == (method, path.partition("?")[0] if path != "/?" else "/")
    assert asked[2:] == request[2:]


@given(st.binary())
def test_a_path_means_the_same_sent_raw_encoded_or_through_a_proxys_header(raw: bytes) -> None:
    assume(not set(b"%?#") & set(raw) and raw.strip(b" \t"))
    path = b"/" + raw.strip(b" \t")
    headers = header_map([(b"x-forwarded-uri", path)])
    through_proxy = forwarded_request(Request("GET", "/", headers)).path
    assert normal_path(through_proxy) == normal_path(path) == normal_path(quote_from_bytes(path))
