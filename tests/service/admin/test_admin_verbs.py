"""Each operation of the admin API, on a real service of two processes: on shared memory, and on Valkey."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from admin_client import POLICY, Admin, admin_service
from redis_servers import redis_server
from servers import PATIENCE
from service_process import poll

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["shared memory", "valkey"])
def admin(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admin]:
    folder = tmp_path_factory.mktemp("admin")
    if request.param == "valkey":
        with redis_server() as server:
            patient = f'{POLICY}\n[store]\nurl = "{server.url}"\ntimeout = {PATIENCE}\n'
            with admin_service(folder, policy=patient) as (_, client):
                yield client
    else:
        with admin_service(folder) as (_, client):
            yield client


def of(user: str, path: str = "/api/x") -> dict[str, str]:
    return {"user": user, "path": path}


def passed(admin: Admin, user: str, times: int, path: str = "/api/x") -> int:
    return [admin.check(user, path) for _ in range(times)].count(True)


def passes(admin: Admin, user: str, times: int, path: str = "/api/x") -> bool:
    """Whether exactly so many requests pass. A process that remembers a refusal sees a change of it a second later."""
    deadline = time.monotonic() + PATIENCE
    while times and time.monotonic() < deadline:
        times -= admin.check(user, path)
    return times == 0 and passed(admin, user, 3, path) == 0


def test_usage_shows_how_full_each_bucket_is(admin: Admin) -> None:
    passed(admin, "u-1", 2, "/both")
    each, everyone = admin.do("usage", attributes=of("u-1", "/both"))["rules"]
    assert (each["rule"], each["used"], each["remaining"], each["capacity"]) == ("each user", 2, 1, 3)
    assert each["per_second"] == pytest.approx(3 / 86_400)
    assert each["blocked_until"] is each["paused_until"] is None
    assert (everyone["rule"], everyone["used"]) == ("everyone", 2)
    assert [one["rule"] for one in admin.do("usage", attributes=of("u-1", "/both"), rule="everyone")["rules"]] == [
        "everyone"
    ]


def test_reset_leaves_full_buckets(admin: Admin) -> None:
    assert passed(admin, "r-1", 4) == 3
    [usage] = admin.do("reset", attributes=of("r-1"))["rules"]
    assert usage["remaining"] == 3
    assert passes(admin, "r-1", 3)


def test_grant_gives_exactly_so_many_tokens(admin: Admin) -> None:
    assert passed(admin, "g-1", 4) == 3
    admin.do("grant", attributes=of("g-1"), tokens=2)
    assert passes(admin, "g-1", 2)


def test_refund_gives_each_rule_its_own_cost(admin: Admin) -> None:
    assert passed(admin, "f-1", 3, "/both") == 3
    before = admin.do("usage", attributes=of("f-1", "/both"))["rules"]
    after = admin.do("refund", attributes=of("f-1", "/both"), cost=2)["rules"]
    assert [old["used"] - new["used"] for old, new in zip(before, after, strict=True)] == [2, 2]
    admin.do("refund", attributes=of("f-1", "/both"), rule="everyone")
    assert passes(admin, "f-1", 2, "/both")


def test_a_block_holds_until_its_end_and_unblock_ends_it(admin: Admin) -> None:
    end = time.time() + 3600
    [blocked] = admin.do("block", attributes=of("b-1"), until=end)["rules"]
    assert blocked["blocked_until"] == pytest.approx(end, abs=60)
    assert not admin.check("b-1")
    assert admin.check("b-2")
    [seen] = admin.do("unblock", attributes=of("b-1"))["rules"]
    assert (seen["blocked_until"], seen["used"]) == (None, 0)
    assert passes(admin, "b-1", 3)


def test_a_block_for_some_seconds_ends_by_itself(admin: Admin) -> None:
    began = time.monotonic()
    admin.do("block", attributes=of("b-3"), seconds=3)
    assert not admin.check("b-3") or time.monotonic() >= began + 3
    poll(lambda: admin.check("b-3"))


def test_explain_tells_of_each_rule_and_changes_nothing(admin: Admin) -> None:
    passed(admin, "e-1", 2)
    for _ in range(2):
        told = admin.do("explain", attributes=of("e-1"), cost=2)
    assert told["allowed"] is False
    each, everyone, queue = told["rules"]
    assert (each["applies"], each["allowed"], each["key"], each["cost"]) == (True, False, {"user": "e-1"}, 2)
    assert each["message"] == "three a day"
    assert each["bucket"] | {"reset_after": 0, "per_second": 0} == {
        "used": 2, "remaining": 1, "capacity": 3, "per_second": 0, "reset_after": 0, "blocked_until": None,
        "waiting": 0,
    }  # fmt: skip
    assert not everyone["applies"]
    assert "/both" in everyone["reason"]
    assert not queue["applies"]
    assert passed(admin, "e-1", 2) == 1


def test_explain_tells_of_a_queue_how_long_a_request_would_wait(admin: Admin) -> None:
    assert admin.check("q-1", "/queue")
    told = admin.do("explain", attributes=of("q-1", "/queue"))
    assert told["allowed"]
    assert told["delay"] == pytest.approx(86_400, abs=60)


def test_explain_tells_of_an_exemption_and_of_a_missing_attribute(admin: Admin) -> None:
    assert admin.do("explain", attributes={"path": "/healthz"})["exempt"]
    told = admin.do("explain", attributes={"path": "/api/x"})
    assert (told["allowed"], told["missing"]) == (False, "user")


def test_what_is_not_clear_changes_nothing_and_is_told(admin: Admin) -> None:
    both = of("n-1", "/both")
    assert "several rules" in admin.error("grant", 400, attributes=both, tokens=1)
    assert "several rules" in admin.error("block", 400, attributes=both, seconds=60)
    assert "did you mean 'each user'?" in admin.error("reset", 400, attributes=both, rule="each usr")
    assert "did you mean 'user'?" in admin.error("reset", 400, attributes={"usr": "x"})
    assert "one of them" in admin.error("block", 400, attributes=of("n-1"))
    assert "one of them" in admin.error("block", 400, attributes=of("n-1"), seconds=1, until=time.time() + 9)
    assert "is not an address" in admin.error("usage", 400, attributes={"client": "localhost"})
    assert admin.check("n-1")


def test_rules_are_listed_in_order(admin: Admin) -> None:
    each, everyone, queue = admin.see("rules")["rules"]
    assert (each["name"], each["key"], each["match"]) == ("each user", ["user"], {"path": ["/api/*", "/both"]})
    assert (everyone["capacity"], everyone["limit"]) == (100, "token_bucket of 100 at 100/day")
    assert (queue["algorithm"], queue["capacity"]) == ("leaky bucket", 2)


def test_a_paused_rule_refuses_nothing_in_any_process_until_it_is_resumed(admin: Admin) -> None:
    assert passed(admin, "p-1", 4) == 3
    end = time.time() + 3600
    assert admin.do("pause", rule="each user", until=end)["paused_until"] == pytest.approx(end, abs=60)
    poll(lambda: passed(admin, "p-1", 10) == 10)
    [rule] = admin.do("explain", attributes=of("p-1"))["rules"][:1]
    assert (rule["shadow"], rule["allowed"]) == (True, False)
    assert rule["paused_until"] == pytest.approx(end, abs=60)
    assert "resume it first" in admin.error("block", 400, attributes=of("p-1"), seconds=60)
    assert "resume it first" in admin.error("block", 400, attributes=of("p-1", "/both"), rule="each user", seconds=60)
    admin.do("block", attributes=of("p-1", "/both"), rule="everyone", seconds=3600)
    assert not admin.check("p-1", "/both"), "a rule that is not paused holds its block"
    admin.do("unblock", attributes=of("p-1", "/both"), rule="everyone")
    assert admin.do("resume", rule="each user")["paused_until"] is None
    poll(lambda: passed(admin, "p-1", 40) == 0)  # on so many connections that both processes get some


def test_the_limited_keys_are_told_as_they_are(admin: Admin) -> None:
    rejected = 0
    while rejected < 9:  # a process may still see the pause of the test before
        rejected += not admin.check("k-limited")

    def seen() -> bool:
        keys = admin.see("limited-keys")["limited_keys"]
        return any(one["attributes"] == {"user": "k-limited"} and one["rejected"] == 9 for one in keys)

    poll(seen)


def test_what_if_tells_what_the_recorded_requests_would_have_met(admin: Admin) -> None:
    passed(admin, "k-recorded", 8)
    text = admin.see("policy")["now"]["text"]
    padding = "# a policy may be longer than other bodies\n" * 2_000
    by_text, by_long_text, by_numbers = (
        admin.do("what-if", policy=text.replace("3/day", "5/day")),
        admin.do("what-if", policy=padding + text.replace("3/day", "5/day")),
        admin.do("what-if", rules={"each user": {"capacity": 5, "per_second": 5 / 86_400}}),
    )
    for told in (by_text, by_long_text, by_numbers):
        each = told["rules"][0]
        assert (each["name"], each["known"]) == ("each user", True)
        assert each["after"]["admitted"] > each["before"]["admitted"]
        assert "capacity = 5" in told["toml"] or "5/day" in told["toml"]
    assert passed(admin, "k-recorded", 1) == 0, "nothing is enforced by it"
    assert "one of them" in admin.error("what-if", 400)
    assert "not TOML" in admin.error("what-if", 400, policy="[")
    assert "no rule 'nobody'" in admin.error("what-if", 400, rules={"nobody": {"capacity": 1}})
    assert "rules must be" in admin.error("what-if", 400, rules={"each user": {"capacity": 1, "burst": 2}})
