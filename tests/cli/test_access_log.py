"""The fields of each line of an access log, in each format, and that no line can stop a replay."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratekeeper.cli.replay.access_log import LineReader
from ratekeeper.cli.replay.log_time import text_ticks, ticks_of
from ratekeeper.http.attributes import AttributeReader
from ratekeeper.limits import TICKS_PER_SECOND
from ratekeeper.policy.model import Policy
from ratekeeper.replay.entries import LogEntry, UnreadableLine

POLICY = """
[attributes]
api_key = "header:x-api-key"
agent = "header:user-agent"
client = { from = "client_ip", trusted_proxies = 1 }
[[rules]]
name = "keys"
key = ["api_key", "client"]
cost = "header:x-cost"
limit = "10/s"
"""
APACHE = (
    '192.0.2.7 - alice [10/Oct/2000:13:55:36 -0700] "GET /apache_pb.gif?a=b HTTP/1.0" 200 2326 '
    '"http://www.example.com/start" "Mozilla/4.08 [en]"'
)
OCTOBER = 971_211_336  # 10 Oct 2000 20:55:36 UTC


def read(line: str, policy: str = POLICY) -> LogEntry:
    return LineReader(Policy.parse(policy)).read(line, 1)


def attributes(line: str, policy: str = POLICY) -> dict[str, str]:
    return read(line, policy).attributes


def of_json(**fields: object) -> dict[str, str]:
    return attributes(json.dumps({"ts": 1, **fields}))


# The common and combined formats


def test_a_combined_line_gives_all_that_a_policy_could_match() -> None:
    assert read(APACHE) == LogEntry(
        OCTOBER * TICKS_PER_SECOND,
        1,
        {
            "method": "GET", "path": "/apache_pb.gif", "status": "200", "client": "192.0.2.7", "user": "alice",
            "referer": "http://www.example.com/start", "user_agent": "Mozilla/4.08 [en]", "agent": "Mozilla/4.08 [en]",
        },
    )  # fmt: skip


def test_a_common_line_is_a_combined_one_without_the_last_two() -> None:
    assert attributes('192.0.2.7 - - [10/Oct/2000:13:55:36 -0700] "GET / HTTP/1.0" 304 -') == {
        "method": "GET", "path": "/", "status": "304", "client": "192.0.2.7",
    }  # fmt: skip


def test_a_dash_is_no_value() -> None:
    assert attributes('- - - [10/Oct/2000:13:55:36 -0700] "GET / HTTP/1.0" 200 - "-" "-"').keys() == {
        "method", "path", "status",
    }  # fmt: skip


def test_quotes_and_bytes_that_the_server_escaped_are_read_as_what_they_were() -> None:
    line = r'192.0.2.7 - - [10/Oct/2000:13:55:36 -0700] "GET /a\"b\\c\xc3\xa9 HTTP/1.0" 200 1 "-" "say \"hi\" \x22"'
    assert attributes(line)["path"] == '/a"b\\cé'
    assert attributes(line)["user_agent"] == 'say "hi" "'


@pytest.mark.parametrize(
    ("host", "client"),
    [("192.0.2.7", "192.0.2.7"), ("192.0.2.7:4711", "192.0.2.7"), ("2001:db8:1:2:3::9", "2001:db8:1:2::/64"),
     ("::1", "::/64"), ("fe80::1%eth0", "fe80::/64"), ("crawl-7.example.com", "crawl-7.example.com")],
)  # fmt: skip
def test_a_client_is_whom_the_limiter_would_charge_live_or_the_name_that_its_address_was_resolved_to(
    host: str, client: str
) -> None:
    assert attributes(APACHE.replace("192.0.2.7", host))["client"] == client


def test_the_path_is_the_one_spelling_that_the_limiter_knows() -> None:
    line = '192.0.2.7 - - [10/Oct/2000:13:55:36 -0700] "post //x/../%61pi?q HTTP/2.0" 200 1'
    assert (attributes(line)["method"], attributes(line)["path"]) == ("POST", "/api")


def test_a_user_may_have_spaces_and_a_virtual_host_may_come_first_and_more_fields_last() -> None:
    line = f'www.example.com:443 {APACHE.replace("alice", "alice b [x]")} 0.003 "more"'
    assert attributes(line)["user"] == "alice b [x]"
    assert attributes(line)["client"] == "192.0.2.7"
    assert attributes(line)["user_agent"] == "Mozilla/4.08 [en]"


def test_the_log_is_the_first_proxys_own_and_with_a_second_the_client_is_whom_that_one_saw() -> None:
    line = f'{APACHE} "6.6.6.6, 203.0.113.9"'
    assert attributes(line)["client"] == "192.0.2.7"
    assert attributes(line, POLICY.replace("trusted_proxies = 1", "trusted_proxies = 2"))["client"] == "203.0.113.9"


@pytest.mark.parametrize(
    ("line", "reason"),
    [("hello", "neither"), ("#Fields: date time", "neither"), ("{", "not JSON"), ('{"a": NaN, ', "not JSON"),
     ('{"a":' * 10_000, "not JSON"), ('{"path": "/"}', "no time"), ('{"ts": 1}', "no path"),
     ('{"ts": true, "path": "/"}', "neither a number nor a string"),
     ('{"ts": Infinity, "path": "/"}', "neither a number"),
     ('{"ts": -1, "path": "/"}', "out of range"), ('{"ts": 1e30, "path": "/"}', "out of range"),
     ('{"ts": "noon", "path": "/"}', "not a date"), (APACHE.replace("10/Oct", "31/Feb"), "not a date"),
     (APACHE.replace("Oct", "Okt"), "not a date"), (APACHE.replace("GET /apache_pb.gif?a=b HTTP/1.0", "-"), "request"),
     (APACHE.replace("GET /apache_pb.gif?a=b HTTP/1.0", r"\x16\x03\x01"), "request")],
)  # fmt: skip
def test_a_line_that_is_no_request_is_refused_with_the_reason(line: str, reason: str) -> None:
    with pytest.raises(UnreadableLine, match=reason):
        read(line)


@given(st.one_of(st.text(), st.text('{}[]",:-/ \\GET0123456789', max_size=200), st.binary().map(str)))
def test_no_text_does_anything_but_be_read_or_be_refused(text: str) -> None:
    reader = LineReader(Policy.parse(POLICY))
    for line in (text, "{" + text, f"{APACHE}{text}", APACHE.replace("alice", text), APACHE.replace("GET /", text)):
        try:
            entry = reader.read(line)
        except UnreadableLine:
            continue
        assert all(type(value) is str for value in entry.attributes.values())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["X-Api-Key", "uri"]), inner),
)
json_names = st.sampled_from(["ts", "time", "path", "method", "request", "headers", "client", "host", "x-cost", "user"])


@given(st.dictionaries(json_names, json_values))
def test_no_json_does_anything_but_be_read_or_be_refused(fields: dict[str, object]) -> None:
    try:
        entry = read(json.dumps(fields))
    except UnreadableLine:
        return
    assert all(type(value) is str for value in entry.attributes.values())


# JSON lines


def test_a_json_line_gives_every_field_that_is_text_or_a_number_and_that_the_policy_asks_for() -> None:
    names = ["plan", "shard", "list", "none", "dash", "empty", "ok"]
    policy = f'[[rules]]\nname = "r"\nkey = {names}\nlimit = "1/s"'
    line = {"ts": 1, "path": "/a?b", "method": "get", "client": "192.0.2.7", "plan": "pro", "shard": 7, "size": 99}
    nothing = {"list": [1], "none": None, "dash": "-", "empty": "", "ok": True}
    assert attributes(json.dumps(line | nothing), policy) == {
        "path": "/a", "method": "GET", "client": "192.0.2.7", "plan": "pro", "shard": "7",
    }  # fmt: skip


def test_a_json_line_of_nginx_is_read_by_the_names_of_nginxs_variables() -> None:
    found = of_json(
        time_iso8601="2000-10-10T20:55:36+00:00", remote_addr="192.0.2.7", remote_user="bob", request="GET /x HTTP/2.0",
        http_x_api_key="k-1", http_user_agent="curl/8", host="www.example.com",
    )  # fmt: skip
    assert {name: found[name] for name in ("method", "path", "client", "user", "api_key", "agent")} == {
        "method": "GET", "path": "/x", "client": "192.0.2.7", "user": "bob", "api_key": "k-1", "agent": "curl/8",
    }  # fmt: skip


def test_a_json_line_of_caddy_is_read() -> None:
    request = {
        "remote_ip": "192.0.2.7", "client_ip": "203.0.113.9", "method": "POST", "host": "example.com", "uri": "/a//b?c",
        "headers": {"X-Api-Key": ["k-1"], "User-Agent": ["curl/8"], "X-Cost": ["3"]},
    }  # fmt: skip
    line = {"level": "info", "ts": OCTOBER + 0.25, "logger": "http.log.access", "request": request, "status": 200}
    entry = read(json.dumps(line))
    assert entry.at == OCTOBER * TICKS_PER_SECOND + TICKS_PER_SECOND // 4
    assert entry.attributes.items() >= {
        "method": "POST", "path": "/a/b", "client": "203.0.113.9", "api_key": "k-1", "agent": "curl/8",
        "header:x-cost": "3",
    }.items()  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"request_method": "post", "request_uri": "/a//b?c", "remote_ip": "192.0.2.7", "user_id": "u"}, "POST"),
        ({"http_method": "PUT", "url": "/a/b", "remote_host": "192.0.2.7", "username": "u"}, "PUT"),
        ({"RequestMethod": "GET", "RequestPath": "/a/b", "ClientHost": "192.0.2.7", "ClientUsername": "u"}, "GET"),
        ({"method": "GET", "http_method": "PUT", "path": "/a/b", "url": "/x", "ip": "192.0.2.7", "user": "u"}, "GET"),
    ],
)
def test_a_json_line_may_name_its_fields_as_others_do_and_the_usual_name_comes_first(
    fields: dict[str, object], found: str
) -> None:
    read_as = of_json(**fields)
    assert [read_as[name] for name in ("method", "path", "client", "user")] == [found, "/a/b", "192.0.2.7", "u"]


def test_what_a_proxy_logs_besides_requests_is_not_taken_for_one() -> None:
    with pytest.raises(UnreadableLine, match="no path"):
        read('{"level": "info", "ts": 971211336.25, "msg": "serving initial configuration"}')


def test_a_line_without_a_path_is_a_request_if_it_has_what_the_policy_asks_for() -> None:
    assert of_json(api_key="k-1")["api_key"] == "k-1"


@pytest.mark.parametrize(
    "fields",
    [{"headers": {"X-API-KEY": "k-1"}}, {"headers": {"x-api-key": ["k-1"]}}, {"x-api-key": "k-1"},
     {"x_api_key": "k-1"}, {"X-Api-Key": "k-1"}, {"api_key": "k-1"}],
)  # fmt: skip
def test_a_header_is_found_in_any_case_in_a_list_or_as_a_field_of_its_or_the_attributes_name(
    fields: dict[str, object],
) -> None:
    assert of_json(path="/", **fields)["api_key"] == "k-1"


def test_a_repeated_header_is_refused_as_it_is_live_unless_it_is_a_list() -> None:
    with pytest.raises(UnreadableLine, match="the header 'x-api-key' is repeated"):
        of_json(path="/", headers={"X-Api-Key": ["k-1", "k-2"]})
    proxies = POLICY.replace("trusted_proxies = 1", "trusted_proxies = 2")
    fields = {"ts": 1, "path": "/", "client": "10.0.0.1", "headers": {"X-Forwarded-For": ["192.0.2.7", "192.0.2.8"]}}
    assert attributes(json.dumps(fields), proxies)["client"] == "192.0.2.8"


def test_a_field_named_host_is_the_client_only_if_it_is_an_address() -> None:
    assert of_json(path="/", host="192.0.2.7")["client"] == "192.0.2.7"
    assert "client" not in of_json(path="/", host="www.example.com")


def test_attributes_have_the_spelling_that_they_have_live() -> None:
    policy = """
    [attributes]
    path = { from = "path", ignore_case = true }
    site = "header:host"
    auth = "header:authorization"
    token = "bearer"
    session = "cookie:session"
    [[rules]]
    name = "logins"
    match = { path = "/login" }
    key = ["site", "auth", "token", "session"]
    limit = "5/minute"
    """
    apache = attributes('192.0.2.7 - - [10/Oct/2000:13:55:36 -0700] "POST /Login HTTP/1.0" 200 1', policy)
    assert apache["path"] == "/login"
    fields = {"ts": 1, "path": "/LOGIN", "headers": {"Host": ["API.example.com"], "Authorization": "TOKEN   k-1"}}
    found = attributes(json.dumps({**fields, "token": " k-2 ", "session": '"a%20b"'}), policy)
    expected = AttributeReader(Policy.parse(policy).attributes).respell(
        {
            "path": "/LOGIN", "site": "API.example.com", "auth": "TOKEN   k-1", "token": " k-2 ",
            "session": '"a%20b"',
        }
    )  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert (found["path"], found["site"], found["auth"]) == ("/login", "api.example.com", "token k-1")


# Times


@pytest.mark.parametrize(
    "value",
    [OCTOBER, float(OCTOBER), OCTOBER * 1000, OCTOBER * 10**6, OCTOBER * 10**9, str(OCTOBER), f"{OCTOBER}.000",
     "2000-10-10T20:55:36Z", "2000-10-10 20:55:36", "2000-10-10T13:55:36-07:00", "20001010T205536Z",
     "10/Oct/2000:13:55:36 -0700", "10/Oct/2000:20:55:36 +0000"],
)  # fmt: skip
def test_one_moment_is_the_same_however_it_is_written(value: object) -> None:
    assert ticks_of(value) == OCTOBER * TICKS_PER_SECOND


@pytest.mark.parametrize(
    ("text", "ticks"),
    [("1700000000.123456789", 1_700_000_000_123_456_789 * 16), ("1700000000123.5", 1_700_000_000_123_500_000 * 16),
     ("2023-11-14T22:13:20.123456Z", 1_700_000_000_123_456_000 * 16),
     ("14/Nov/2023:22:13:20.25 +0000", 1_700_000_000_250_000_000 * 16)],
)  # fmt: skip
def test_fractions_of_a_second_are_exact(text: str, ticks: int) -> None:
    assert text_ticks(text) == ticks


def test_a_float_means_the_microsecond_that_it_prints_as() -> None:
    assert ticks_of(1700000000.123456) == 1_700_000_000_123_456_000 * 16
    assert ticks_of(1700000000123.5) == 1_700_000_000_123_500_000 * 16


def test_a_leap_second_is_the_second_before() -> None:
    assert text_ticks("31/Dec/2016:23:59:60 +0000") == text_ticks("31/Dec/2016:23:59:59 +0000")
