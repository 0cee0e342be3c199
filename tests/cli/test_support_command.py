"""`ratekeeper usage`, `reset`, `grant`, `block` and `unblock`: on the stores that others share, and never a key."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from needs import need
from redis_servers import redis_server
from servers import PATIENCE

from ratekeeper import IMPLEMENTATION, Keeper, SharedMemoryStore
from ratekeeper.cli.main import main
from ratekeeper.stores.spec import StoreSpec

POLICY = """
exempt = [{ path = "/healthz" }]
[attributes]
api_key = "header:x-api-key"
[[rules]]
name = "each key"
key = ["api_key"]
limit = "10/hour"
[[rules]]
name = "tried"
key = ["api_key"]
limit = "1/hour"
shadow = true
match = { path = "/api/*" }
[[rules]]
name = "reports"
match = { path = "/reports" }
algorithm = "leaky_bucket"
capacity = 5
leak_rate = 2
"""
ALICE = {"api_key": "k-alice", "path": "/"}


@pytest.fixture
def policy(tmp_path: Path) -> str:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return str(path)


@pytest.fixture(params=["shared memory", "valkey"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "valkey":
        with redis_server() as server:
            yield server.url
        return
    need("the C core", IMPLEMENTATION == "c")
    SharedMemoryStore(tmp_path / "table", 1000)
    yield f"shared:{tmp_path / 'table'}"


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = main(args)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.mark.parametrize(
    ("typed", "read"), [(b"k-\xff", "k-\xff"), (b"k-\xc3\xbf", "k-\xff"), (b"k-\xff\xc3\xbf", "k-\xff\xc3\xbf")]
)
def test_a_value_that_is_not_utf_8_names_the_bucket_that_a_request_with_it_has(
    capsys: pytest.CaptureFixture[str], policy: str, tmp_path: Path, typed: bytes, read: str
) -> None:
    need("the C core", IMPLEMENTATION == "c")
    SharedMemoryStore(tmp_path / "table", 1000)
    store = f"shared:{tmp_path / 'table'}"
    typed_pair = os.fsdecode(b"api_key=" + typed)
    assert run(capsys, "block", policy, "--store", store, "--for", "1h", "--rule", "each key", typed_pair)[0] == 0
    assert not Keeper(policy, store).try_acquire({"api_key": read})


def test_each_command_changes_what_another_process_sees_and_prints_it(
    capsys: pytest.CaptureFixture[str], policy: str, store: str
) -> None:
    serving = Keeper(policy, StoreSpec(store, timeout=PATIENCE).open())
    of = [policy, "--store", store, "api_key=k-alice", "path=/"]
    for _ in range(10):
        serving.try_acquire(ALICE)
    code, out, err = run(capsys, "usage", *of)
    assert (code, err) == (0, "")
    assert out.splitlines()[0].split() == ["rule", "used", "left", "next", "in", "full", "in"]
    assert out.splitlines()[1].startswith("each key  10 of 10  [####################]  0     6 min    ")
    assert "alice" not in out
    assert "  7 of 10  [##############......]  3     now" in run(capsys, "grant", policy, "3", *of[1:])[1]
    assert [bool(serving.try_acquire(ALICE)) for _ in range(4)] == [True, True, True, False]
    assert "refuses for longer" not in run(capsys, "usage", *of)[1]
    assert "each key: refuses for longer" in run(capsys, "block", *of, "--for", "9m")[1], "a token takes 6"
    assert "each key: refuses for longer" in run(capsys, "block", *of, "--for", "2h")[1]
    [usage] = json.loads(run(capsys, "usage", *of, "--json")[1])
    assert usage["rule"] == "each key"
    assert (usage["used"], usage["remaining"], usage["shadow"]) == (10, 0, False)
    assert 7100 < usage["retry_after"] <= 7200
    until = (datetime.now(UTC) + timedelta(hours=3)).isoformat()
    [usage] = json.loads(run(capsys, "block", *of, "--until", until, "--json")[1])
    assert 10_700 < usage["retry_after"] <= 10_800
    assert "  10 of 10  [####################]  0     6 min" in run(capsys, "unblock", *of)[1]
    assert "  0 of 10  [....................]  10    now      0 s" in run(capsys, "reset", *of)[1]
    assert serving.peek(ALICE).remaining == 10


def test_a_table_tells_of_shadows_of_common_buckets_and_of_requests_that_nothing_limits(
    capsys: pytest.CaptureFixture[str], policy: str, store: str
) -> None:
    out = run(capsys, "usage", policy, "--store", store, "path=/api/x")[1]
    assert [line.split("  ")[0] for line in out.splitlines()[1:]] == [
        "each key (all without api_key)",
        "tried (all without api_key, shadow)",
    ]
    out = run(capsys, "usage", policy, "--store", store, "path=/healthz")[1]
    assert out == "exempt, as are all requests with path /healthz\n"
    assert run(capsys, "usage", policy, "--store", store, "path=/healthz", "--json")[1] == "[]\n"
    out = run(capsys, "usage", policy, "--store", store, "api_key=k", "path=/reports", "--rule", "reports")[1]
    assert out.splitlines()[1].startswith("reports  0 of 6  [....................]  6     now")


def test_all_buckets_of_a_rule_are_reset_and_no_others(
    capsys: pytest.CaptureFixture[str], policy: str, store: str
) -> None:
    serving = Keeper(policy, StoreSpec(store, timeout=PATIENCE).open())
    for key in ("k-1", "k-2"):
        serving.try_acquire({"api_key": key, "path": "/api/x"}, 10)
    code, out, err = run(capsys, "reset-rule", policy, "each key", "--store", store)
    assert (code, out, err) == (0, "all buckets of rule 'each key' are full\n", "")
    for key in ("k-1", "k-2"):
        assert [one.remaining for one in serving.usage({"api_key": key, "path": "/api/x"})] == [10, 1]
    code, _, err = run(capsys, "reset-rule", policy, "each kee", "--store", store)
    assert (code, err) == (2, "ratekeeper: the policy has no rule 'each kee': did you mean 'each key'?\n")


def test_a_rule_whose_limit_the_application_looks_up_is_reset_too(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, store: str
) -> None:
    path = tmp_path / "looked-up.toml"
    path.write_text('rules = [{ name = "each key", key = ["api_key"], limit = "app:plan", default = "1/hour" }]')
    plans = {"plan": lambda attributes: ["5/hour", "7/hour"]}
    serving = Keeper(str(path), StoreSpec(store, timeout=PATIENCE).open(), limits=plans)
    serving.try_acquire(ALICE, 3)
    code, out, err = run(capsys, "reset-rule", str(path), "each key", "--store", store)
    assert (code, out, err) == (0, "all buckets of rule 'each key' are full\n", "")
    assert [one.remaining for one in serving.usage(ALICE)] == [5, 7]


def test_a_rule_that_denies_has_no_tokens_to_show_or_to_give(
    capsys: pytest.CaptureFixture[str], policy: str, store: str
) -> None:
    Path(policy).write_text('[[rules]]\nname = "banned"\nkey = ["client"]\ndeny = true\n')
    of = [policy, "--store", store, "client=192.0.2.7"]
    for command in ("usage", "reset", "unblock"):
        out = run(capsys, command, *of)[1]
        assert out.splitlines()[1].split() == ["banned", "refuses", "all", "0", "never"]
    [usage] = json.loads(run(capsys, "usage", *of, "--json")[1])
    assert (usage["remaining"], usage["retry_after"]) == (0, None)
    code, _, err = run(capsys, "grant", policy, "5", *of[1:])
    assert (code, err) == (2, "ratekeeper: the limit deny refuses every request, so it has no tokens to give\n")


MISTAKES = [
    (["usage", "path=/", "--rule", "each kee"], "the policy has no rule 'each kee': did you mean 'each key'?"),
    (["usage", "path=/", "--rule", "reports"], "rule 'reports' does not charge this request: path is '/', not"),
    (["usage", "pth=/"], "the policy knows no attribute 'pth': did you mean 'path'?"),
    (["grant", "0", "path=/"], "tokens must be 1 or more, not 0"),
    (["grant", "1", "path=/api/x"], "several rules charge this request: name one or more of 'each key', 'tried'"),
    (["grant", "1", "path=/healthz"], "no rule charges this request, as it is exempt"),
    (["block", "--for", "1h", "path=/"], "rule 'each key' counts by api_key, and these attributes have no api_key"),
    (["block", "--for", "1h", "path=/reports", "--rule", "tried"], "rule 'tried' does not charge this request"),
    (["block", "--for", "99999days", "api_key=k"], "until must be within nine years"),
    (["block", "--until", "2020-01-01T00:00Z", "api_key=k"], "until must not be past"),
]


@pytest.mark.parametrize(("words", "told"), MISTAKES)
def test_a_mistake_is_one_line_and_changes_nothing(
    capsys: pytest.CaptureFixture[str], policy: str, tmp_path: Path, words: list[str], told: str
) -> None:
    need("the C core", IMPLEMENTATION == "c")
    table = SharedMemoryStore(tmp_path / "table", 1000)
    command, *rest = words
    code, out, err = run(capsys, command, policy, "--store", f"shared:{table.path}", *rest)
    assert (code, out) == (2, "")
    assert told in err
    assert len(err.splitlines()) == 1
    assert table.stats().live == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--for", "soon"], "'soon' is not a length of time, such as 90s, 2h or 7days"),
        (["--for", "0h"], "'0h' is not a length of time"),
        (["--for=-1h"], "'-1h' is not a length of time"),
        (["--until", "2030-01-01T00:00"], "has no zone: write 2030-01-01T00:00:00Z for UTC"),
        (["--until", "2030-01-01"], "has no zone: write 2030-01-01T00:00:00Z for UTC, or 2030-01-01T00:00:00+01:00"),
        (["--until", "now"], "'now' is not a time, such as 2030-01-31T18:00Z"),
        ([], "one of the arguments --for --until is required"),
    ],
)
def test_a_time_that_is_none_is_an_error_with_an_example(
    capsys: pytest.CaptureFixture[str], policy: str, words: list[str], told: str
) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["block", policy, *words, "api_key=k"])
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("store", [[], ["--store", "memory"]])
def test_a_store_that_nobody_else_sees_is_an_error(
    capsys: pytest.CaptureFixture[str], policy: str, store: list[str]
) -> None:
    code, _, err = run(capsys, "block", policy, *store, "--for", "1h", "api_key=k")
    assert code == 2
    assert err.startswith(
        "ratekeeper: the store is this process's memory, where nobody else would see it: give --store"
    )


def test_a_table_that_does_not_exist_is_an_error_and_is_not_made(
    capsys: pytest.CaptureFixture[str], policy: str, tmp_path: Path
) -> None:
    need("the C core", IMPLEMENTATION == "c")
    code, _, err = run(capsys, "usage", policy, "--store", f"shared:{tmp_path / 'none'}", "api_key=k")
    assert code == 2
    assert "No such file" in err
    assert not (tmp_path / "none").exists()


def test_the_policys_own_store_is_the_default(
    capsys: pytest.CaptureFixture[str], policy: str, tmp_path: Path, store: str
) -> None:
    patient = f"timeout = {PATIENCE}\n" if "://" in store else ""
    Path(policy).write_text(f'[store]\nurl = "{store}"\n{patient}' + POLICY.replace("exempt", "# exempt"))
    serving = Keeper(policy)
    serving.try_acquire(ALICE, 10)
    assert "  6 of 10  " in run(capsys, "grant", policy, "4", "api_key=k-alice", "path=/")[1]


PLANS = """
async def plan_of(attributes):
    return ["20/hour", "100/day"] if attributes["user"] == "alice" else None

NOT_A_FUNCTION = 5
"""
LOOKED_UP = """
[[rules]]
name = "each user"
key = ["user"]
limit = "app:plan"
default = "5/hour"
[[rules]]
name = "all"
limit = "1000/hour"
"""


def test_the_commands_know_limits_from_a_function_and_each_of_several_has_its_row(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop_plans.py").write_text(PLANS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    policy = tmp_path / "looked_up.toml"
    policy.write_text(LOOKED_UP)
    of = [str(policy), "--store", store, "--limits", "plan=shop_plans:plan_of"]
    code, out, err = run(capsys, "usage", *of, "user=alice")
    assert (code, err) == (0, "")
    assert [row[:16].split("  ")[0] for row in out.splitlines()[1:]] == ["each user", "each user/1", "all"]
    code, out, _ = run(capsys, "block", *of, "--rule", "each user", "--for", "2h", "user=alice", "--json")
    assert [(one["rule"], one["remaining"], one["shadow"]) for one in json.loads(out)] == [
        ("each user", 0, False),
        ("each user/1", 0, False),
    ]
    code, out, _ = run(capsys, "usage", *of, "--rule", "each user", "user=bob")
    assert "each user  0 of 5 " in out
    assert run(capsys, "unblock", *of, "--rule", "each user", "user=alice")[0] == 0
    for wrong, words in (
        ("plan=shop_plans:nobody", "--limits plan=shop_plans:nobody: module 'shop_plans' has no attribute 'nobody'"),
        ("plan=no_such_shop:plan", "--limits plan=no_such_shop:plan: No module named 'no_such_shop'"),
        ("plan=shop_plans:NOT_A_FUNCTION", "--limits plan: a look-up must be a function"),
        ("other=shop_plans:plan_of", "nothing gives the limit 'app:plan'"),
    ):
        code, _, err = run(capsys, "usage", str(policy), "--store", store, "--limits", wrong, "user=alice")
        assert code != 0
        assert words in err
