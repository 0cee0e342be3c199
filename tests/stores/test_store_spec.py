"""Choosing a store by words: in a policy's [store] and by `serve --store`."""

from __future__ import annotations

import asyncio
import pickle
from argparse import Namespace
from pathlib import Path
from typing import Any

import httpx
import pytest
from needs import need
from redis_servers import Server, wait_for
from servers import PATIENCE, free_port, ratekeeper_service

from ratekeeper import (
    IMPLEMENTATION,
    AsyncKeeper,
    AsyncLimiter,
    AsyncRedisStore,
    Keeper,
    MemoryStore,
    Policy,
    PolicyError,
    RedisStore,
    SharedMemoryStore,
    StoreError,
)
from ratekeeper.cli import serve
from ratekeeper.cli.main import main
from ratekeeper.service.make_core import make_core
from ratekeeper.stores.spec import StoreSpec

RULE = """
[attributes]
api_key = "header:x-api-key"

[[rules]]
name = "each key"
key = ["api_key"]
limit = "3/hour"
"""


def policy(store: str) -> Policy:
    return Policy.parse(f"[store]\n{store}\n{RULE}")


def test_a_keeper_opens_the_store_that_its_policy_chooses(server: Server, tmp_path: Path) -> None:
    chosen = policy(f'url = "{server.url}"\nprefix = "keeper:"\ntimeout = {PATIENCE}')
    keepers = [Keeper(chosen), Keeper(chosen)]
    assert all(isinstance(keeper.store, RedisStore) for keeper in keepers)
    assert [bool(keepers[n % 2].try_acquire({"api_key": "k"})) for n in range(5)] == [True] * 3 + [False] * 2
    assert isinstance(AsyncKeeper(chosen).store, AsyncRedisStore)
    assert isinstance(Keeper(chosen, MemoryStore(10)).store, MemoryStore)
    need("the C core", IMPLEMENTATION == "c")
    shared = policy(f'url = "shared:{tmp_path}/table"\nmax_keys = 100')
    store = Keeper(shared).store
    assert isinstance(store, SharedMemoryStore)
    assert store.stats().max_keys == 100
    assert isinstance(AsyncKeeper(policy('url = "memory"\nmax_keys = 50')).store, MemoryStore)


def test_the_names_of_buckets_are_keyed_by_the_secret_in_a_file(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("open sesame\n")
    keyed = Keeper(policy(f'url = "{server.url}"\nprefix = "keyed:"\ntimeout = {PATIENCE}\nsecret_file = "{file}"'))
    by_hand = RedisStore(server.url, prefix="keyed:", timeout=PATIENCE, secret="open sesame")
    bare = RedisStore(server.url, prefix="keyed:", timeout=PATIENCE)
    request = {"api_key": "k"}
    admitted = [bool(Keeper(policy('url = "memory"'), by_hand).try_acquire(request)), bool(keyed.try_acquire(request))]
    assert admitted == [True, True]
    assert keyed.usage(request)[0].remaining == 1
    assert Keeper(policy('url = "memory"'), bare).usage(request)[0].remaining == 3
    assert str(file) not in repr(keyed.store)
    for wrong, why in (("", "one line"), ("a\nb", "one line"), (None, "cannot read")):
        file.unlink() if wrong is None else file.write_text(wrong)
        with pytest.raises(StoreError, match=rf"secret_file: .*{why}"):
            Keeper(policy(f'url = "{server.url}"\nsecret_file = "{file}"'))


def test_a_worker_that_starts_later_has_the_secret_of_the_first_ones(server: Server, tmp_path: Path) -> None:
    """Else the limits would be there twice, once for each secret, and so admit twice as much."""
    file, request = tmp_path / "secret", {"api_key": "k"}
    file.write_text("before")
    text = f'url = "{server.url}"\nprefix = "workers:"\ntimeout = {PATIENCE}\nsecret_file = "{file}"'
    with serve._store(policy(text), Namespace(store=None, workers=2)) as opened:
        assert Keeper(policy(text)).try_acquire(request).remaining == 2
        file.write_text("after")
        later = pickle.loads(pickle.dumps(opened.open_store))
        assert "before" not in repr(later)

        async def left() -> float:
            async with later() as store:
                return (await AsyncKeeper(policy(text), store).usage(request))[0].remaining

        assert asyncio.run(left()) == 2


def test_a_shared_table_that_keeps_another_size_than_asked_for_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    need("the C core", IMPLEMENTATION == "c")
    url = f"shared:{tmp_path}/table"

    def size(asked: int | None) -> int:
        store = StoreSpec(url, asked).open()
        assert isinstance(store, SharedMemoryStore)
        return store.stats().max_keys

    assert [size(asked) for asked in (100, 100, None)] == [100] * 3
    assert not caplog.messages
    assert size(5000) == 100
    assert "keeps its room for 100 live buckets: max_keys = 5000 needs a table of another name" in caplog.text


@pytest.mark.parametrize(
    ("store", "says"),
    [
        ("", r"2: \[store\]: 'url' is missing|: \[store\]: 'url' is missing"),
        ('url = "reddis://host"', r":2: \[store\]: .*did you mean 'redis'\?"),
        ('url = "localhost"', r":2: \[store\]: .*memory, shared:NAME, or the URL"),
        ("url = 5", r":2: \[store\]: 'url' must be a string"),
        ('url = "redis://h"\non_error = "alow"', r":3: .*'alow': did you mean 'allow'\?"),
        ('url = "redis://h"\non_eror = "allow"', r":3: .*unknown key 'on_eror': did you mean 'on_error'\?"),
        ('url = "redis://h"\nmax_keys = 5', r":3: .*'max_keys' means nothing for a store that is on a server"),
        ('url = "memory"\non_error = "allow"', r":3: .*'on_error' means nothing for a store that is on this host"),
        ('url = "redis://h"\ntimeout = 0', r":3: .*'timeout' must be seconds, more than 0"),
        ('url = "redis://h"\ntimeout = 7200', r":3: .*'timeout' must be seconds, more than 0 and less than an hour"),
        ('url = "redis://h"\nprefix = "a{b"', r":3: .*prefix must be a str without '\{'"),
        ('url = "redis://h"\nsecret_file = ""', r":3: .*'secret_file' must be a string, not an empty string"),
        ('url = "memory"\nsecret_file = "f"', r":3: .*'secret_file' means nothing for a store that is on this host"),
        ('url = "shared://table"', r":2: .*write shared:NAME, or with a path shared:/PATH"),
        ('url = "redis://h"\non_error = "local"', r":2: .*write expected_nodes, the number"),
        ('url = "redis://h"\nexpected_nodes = 0', r":3: .*'expected_nodes' must be a whole number from 1"),
    ],
)
def test_a_bad_choice_is_an_error_that_names_the_line_and_the_right_word(store: str, says: str) -> None:
    with pytest.raises(PolicyError, match=says):
        policy(store)


def test_a_rule_that_is_decided_locally_needs_the_number_of_nodes() -> None:
    rule = RULE + 'on_error = "local"\n'
    with pytest.raises(PolicyError, match="write expected_nodes, the number"):
        Policy.parse(f'[store]\nurl = "redis://h"\n{rule}')
    for store in ('url = "redis://h"\nexpected_nodes = 2', 'url = "memory"'):
        assert Policy.parse(f"[store]\n{store}\n{rule}").rules[0].on_error == "local"


@pytest.mark.parametrize("keeper_of", [Keeper, AsyncKeeper])
def test_a_keeper_takes_no_rule_that_is_decided_locally_on_a_store_without_the_number_of_nodes(keeper_of: Any) -> None:
    url, plain = f"redis://127.0.0.1:{free_port()}", Policy.parse(RULE)
    local = Policy.parse(RULE + 'on_error = "local"\n')
    with pytest.raises(PolicyError, match=r"^<policy>: rule 'each key': .*write expected_nodes, the number"):
        keeper_of(local, url)
    keeper = keeper_of(plain, url)
    with pytest.raises(PolicyError, match=r"^<policy>: rule 'each key': .*write expected_nodes, the number"):
        keeper.replace(local)
    assert keeper.policy is plain
    keeper_of(local, "memory").replace(local)


def test_validate_says_which_rules_share_a_slot_of_a_cluster(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "policy.toml"
    more = '[[rules]]\nname = "each path"\nkey = ["api_key", "path"]\nlimit = "1/s"\n'
    whole = '[[rules]]\nname = "all"\nlimit = "9/s"\n'
    path.write_text(f'[store]\nurl = "redis+cluster://h:1"\n{RULE}{more}')
    assert main(["validate", str(path)]) == 0
    assert "all rules of a request share a slot" in capsys.readouterr().out
    path.write_text(f'[store]\nurl = "redis+cluster://h:1"\n{RULE}{more}{whole}')
    assert main(["validate", str(path)]) == 0
    assert "  by api_key: each key, each path\n  all, without a key: all\n" in capsys.readouterr().out


def test_a_password_is_never_shown() -> None:
    choice = StoreSpec("redis://user:sesame@host:6379/0")
    assert choice.shown == "redis://***@host:6379/0"
    assert "sesame" not in repr(choice)
    assert StoreSpec("unix:///run/r.sock?password=sesame").shown == "unix:///run/r.sock"
    for url in ("redis://h:x/0?password=sesame", "redis:/user:sesame@h/0", "redis:user:sesame@h/0"):
        with pytest.raises(StoreError) as caught:
            StoreSpec(url).open()
        assert "sesame" not in str(caught.value)
    with pytest.raises(StoreError) as caught:
        StoreSpec("rdis://user:sesame@host")
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize("kind", ["server", "shared"])
def test_a_service_that_stops_closes_the_store_that_it_opened(server: Server, tmp_path: Path, kind: str) -> None:
    need("the C core", IMPLEMENTATION == "c")
    url = f"{server.url}?client_name=served" if kind == "server" else f"shared:{tmp_path}/table"
    choice = StoreSpec(url, timeout=PATIENCE)
    opened: list[Any] = []

    def open_store() -> Any:
        opened.append(choice.open_async())
        return opened[-1]

    async def serve() -> None:
        service = make_core(Policy.parse(RULE), open_store)
        await AsyncLimiter("5/s", store=opened[0]).try_acquire("a")
        assert (b"name=served" in clients()) == (kind == "server")
        await service.close()

    def clients() -> bytes:
        listed: bytes = server.ask("CLIENT", "LIST")
        return listed

    asyncio.run(serve())
    if kind == "server":
        wait_for(lambda: b"served" not in clients())
    else:
        with pytest.raises(ValueError, match="closed"):
            opened[0].stats()


@pytest.mark.slow
@pytest.mark.parametrize("by", ["option", "policy"])
def test_two_services_on_one_server_admit_what_one_limit_allows(server: Server, tmp_path: Path, by: str) -> None:
    path = tmp_path / "policy.toml"
    url = server.url.replace("/0", "/1" if by == "option" else "/2")
    path.write_text(RULE if by == "option" else f'[store]\nurl = "{url}"\ntimeout = {PATIENCE}\n{RULE}')
    options = ["--store", url] if by == "option" else []
    announced: list[str] = []
    with (
        ratekeeper_service(path, announced, *options) as one,
        ratekeeper_service(path, None, *options, "--workers", "2") as two,
    ):
        assert f"Store: {url}\n" in announced
        statuses: list[int] = []

        def six_decided() -> bool:
            url = (one, two)[len(statuses) % 2]
            statuses.append(httpx.get(f"{url}/check", headers={"X-Api-Key": "k"}).status_code)
            return len(statuses) - statuses.count(503) == 6

        wait_for(six_decided)
    late = statuses.count(503)  # by the option an answer has 50 ms, and one that comes later may have been charged
    decided = [status for status in statuses if status != 503]
    admitted = decided.count(200)
    assert decided == [200] * admitted + [429] * (6 - admitted)
    assert 3 - late <= admitted <= 3


@pytest.mark.slow
def test_workers_that_decide_locally_admit_together_what_one_limit_allows(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    store = f'[store]\nurl = "redis://127.0.0.1:{free_port()}/0"\non_error = "local"\nexpected_nodes = 1\n'
    path.write_text(store + RULE.replace("3/", "8/"))
    with ratekeeper_service(path, None, "--workers", "4") as url:
        statuses = [httpx.get(f"{url}/check", headers={"X-Api-Key": "k"}).status_code for _ in range(60)]
    assert 2 <= statuses.count(200) <= 8


@pytest.mark.slow
def test_a_service_whose_server_is_away_says_so_with_a_503(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(RULE)
    with ratekeeper_service(path, None, "--store", f"redis://127.0.0.1:{free_port()}/0") as url:
        answer = httpx.get(f"{url}/check", headers={"X-Api-Key": "k"})
        assert answer.status_code == 503
        assert answer.json()["type"].endswith("#temporary-reduced-capacity")
        assert httpx.get(f"{url}/healthz").status_code == 200
