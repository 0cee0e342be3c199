"""The hot path: decisions whose memory is used again, keys of every kind, and batches that are read ahead."""

from __future__ import annotations

import gc
import random
import subprocess
import sys
from typing import Any, Literal

import pytest
from needs import need

from ratekeeper import IMPLEMENTATION, Limiter, TokenBucket, core
from ratekeeper.stores.table_store import TableStore

SUBINTERPRETERS = """
import sys, threading
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters

code = '''
from ratekeeper import Limiter
limiter = Limiter("1000000/s")
kept = [limiter.try_acquire("a") for _ in range(10)]
for n in range(20_000):
    assert limiter.try_acquire(str(n % 7)).key == str(n % 7)
del kept
'''

def run():
    one = interpreters.create()
    failed = interpreters.run_string(one, code)
    assert failed is None, failed
    interpreters.destroy(one)

exec(code)
threads = [threading.Thread(target=run) for _ in range(3)]
for thread in threads: thread.start()
exec(code)
for thread in threads: thread.join()
exec(code)
print("well")
"""


def test_a_decision_that_is_kept_is_not_used_again(store: TableStore) -> None:
    limiter = Limiter(TokenBucket(100, 1), store=store)
    kept = [limiter.try_acquire(str(cost), cost) for cost in range(10)]
    for cost in range(10):
        assert limiter.try_acquire("other", cost).cost == cost
    assert [(one.key, one.cost, one.remaining) for one in kept] == [(str(n), n, 100 - n) for n in range(10)]
    assert len({id(one) for one in kept}) == 10


def test_a_decision_in_used_memory_is_new(store: TableStore) -> None:
    limiter = Limiter(TokenBucket(10, 1), store=store)
    for _ in range(3):
        limiter.refund(limiter.try_acquire("a", 10))  # each may be refunded: nothing is left of the one before
        assert limiter.peek("a").remaining == 10
    assert limiter.try_acquire("a", 10)
    refused = limiter.try_acquire("a")
    assert (refused.allowed, refused.remaining, refused.retry_after) == (False, 0, 1.0)
    del refused
    allowed = limiter.try_acquire("b")
    assert (allowed.allowed, allowed.remaining, allowed.retry_after) == (True, 9, 0.0)


def test_a_decision_that_dies_may_ask(store: TableStore) -> None:
    """A key's own code runs while its decision is freed."""
    limiter = Limiter(TokenBucket(1_000, 1), store=store)
    asked = []

    class Key(str):
        def __del__(self) -> None:
            asked.append(limiter.try_acquire("other").remaining)
            limiter.try_acquire("other")

    for _ in range(50):
        assert limiter.try_acquire(Key("a")).key == "a"
    assert asked == list(range(999, 899, -2))


def test_decisions_release_what_they_refer_to(store: TableStore) -> None:
    limiter = Limiter(TokenBucket(1_000, 1), store=store)
    key = "a key that is counted"
    limiter.try_acquire(key)
    gc.collect()
    kinds = type(limiter.try_acquire(key)), limiter.limits[0], key
    before = [sys.getrefcount(one) for one in kinds]
    for _ in range(100):
        limiter.try_acquire(key)
        del_me = [limiter.try_acquire(key) for _ in range(3)]
        del_me.clear()
    assert [sys.getrefcount(one) for one in kinds] == before


def test_each_interpreter_has_decisions_of_its_own() -> None:
    need("the C core", IMPLEMENTATION == "c")
    ran = subprocess.run([sys.executable, "-c", SUBINTERPRETERS], capture_output=True, text=True, timeout=60)
    assert (ran.stdout, ran.returncode) == ("well\n", 0), ran.stderr


KEYS: list[str | bytes] = ["", "a", b"a", "client:10.11.12.13", "\u00e4", "\u00e4".encode(), "\U0001f600", "x" * 1000]
KEYS += ["k" * length for length in range(20)] + ["\ud800", "\ud800".encode("utf-8", "surrogatepass")]


class Text(str):
    """A string with its own methods, which no core asks."""

    def encode(self, *_: object) -> bytes:
        return b"another"

    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        return True


class Bytes(bytes):
    """The same for bytes."""

    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        return True

    def __bytes__(self) -> bytes:
        return b"another"


def test_a_key_names_one_bucket_in_all_its_forms(store: TableStore) -> None:
    limiter = Limiter(TokenBucket(3, 1), store=store, name="forms")
    for key in dict.fromkeys(key if isinstance(key, bytes) else key.encode("utf-8", "surrogatepass") for key in KEYS):
        text = key.decode("utf-8", "surrogatepass")
        forms = Bytes(key), key, Text(text), text
        assert [bool(limiter.try_acquire(form)) for form in forms] == [True, True, True, False]
        assert limiter.try_acquire_many([text, key, Text(text), Bytes(key)]) == [False] * 4


@pytest.mark.parametrize("limits", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 9, 15, 16, 17, 18, 40, 300])
def test_a_batch_decides_as_one_call_after_another(store: TableStore, count: int, limits: int) -> None:
    choice = random.Random(count)
    buckets = [TokenBucket(3 + more, 1) for more in range(limits)]
    batch, single = (Limiter(*buckets, store=store, name=name) for name in ("batch", "single"))
    for cost, form in ((1, list), (0, tuple), (2, iter), (4, list)):
        keys = [choice.choice(KEYS) for _ in range(count)]
        given: Any = form(keys)
        assert batch.try_acquire_many(given, cost) == [bool(single.try_acquire(key, cost)) for key in keys]
    assert [batch.peek(key) for key in KEYS] == [single.peek(key) for key in KEYS]


def test_a_batch_with_a_bad_key_anywhere_charges_nothing(store: TableStore) -> None:
    limiter = Limiter(TokenBucket(3, 1), store=store)
    for at in (0, 1, 15, 16, 17, 39):
        keys: list[Any] = [f"{n}" for n in range(40)]
        keys[at] = 5
        with pytest.raises(TypeError, match="a key must be str or bytes, not int"):
            limiter.try_acquire_many(keys)
        assert all(limiter.peek(str(n)).remaining == 3 for n in range(40))
    wrong: Any = 5
    with pytest.raises(TypeError, match="not iterable"):
        limiter.try_acquire_many(wrong)


def test_a_list_that_a_clock_changes_meanwhile_was_read_before(implementation: Literal["c", "python"]) -> None:
    keys = [f"{n}" for n in range(100)]

    def forget() -> int:
        keys.clear()
        return 16_000_000_000

    table = core.make_table(100, False, forget, implementation)
    limiter = Limiter(TokenBucket(1, 1), store=TableStore(table, 100, None))
    assert limiter.try_acquire_many(keys) == [True] * 100
    assert keys == []
