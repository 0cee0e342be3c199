"""Decorators: what a key or cost function is given, and which mistakes are found when decorating."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from operator import itemgetter
from typing import Any
from unittest.mock import Mock

import pytest
from async_memory import AsyncMemoryStore

from ratekeeper import (
    AsyncLimiter,
    Limiter,
    ManualClock,
    MemoryStore,
    PolicyDecision,
    RateLimitExceeded,
    RuleDecision,
    TokenBucket,
)
from ratekeeper.limits import TICKS_PER_SECOND
from ratekeeper.testing import frozen


class Keys(Limiter):
    """A limiter that notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, int]] = []
        super().__init__("1000/s")

    def _take_turn(self, key: Any, cost: int, timeout: Any) -> Any:
        self.asked.append((key, cost))

    async def _take_turn_async(self, key: Any, cost: int, timeout: Any) -> Any:
        self.asked.append((key, cost))


@pytest.fixture
def limiter() -> Keys:
    return Keys()


def keys(limiter: Keys) -> list[Any]:
    return [key for key, _ in limiter.asked]


# The arguments of a key function


def test_a_key_and_a_cost_function_are_given_only_the_parameters_that_they_name(limiter: Keys) -> None:
    @limiter.limit(key=lambda user: user, cost=lambda text, loud: len(text) * (2 if loud else 1))
    def send(user: str, text: str = "hello", *, loud: bool = False) -> str:
        return user + text

    assert send("alice") == "alicehello"
    assert send(text="yo", user="bob") == "bobyo"
    send("carol", "abc", loud=True)
    assert limiter.asked == [("alice", 5), ("bob", 2), ("carol", 6)]


def test_order_of_the_names_does_not_matter(limiter: Keys) -> None:
    @limiter.limit(key=lambda text, user: f"{user}/{text}")
    def send(user: str, text: str) -> None: ...

    send("alice", "x")
    send(text="y", user="bob")
    assert keys(limiter) == ["alice/x", "bob/y"]


def test_methods_are_limited_by_self_and_by_arguments(limiter: Keys) -> None:
    class Tenant:
        name = "acme"

        @limiter.limit(key=lambda self, user: f"{self.name}/{user}")
        def both(self, user: str) -> None: ...

        @limiter.limit(key=lambda user: user)
        def one(self, user: str) -> None: ...

        @classmethod
        @limiter.limit(key=lambda cls: cls.name)
        def of_class(cls) -> None: ...

        @staticmethod
        @limiter.limit(key=lambda user: user)
        def static(user: str) -> None: ...

    Tenant().both("alice")
    Tenant().one("bob")
    Tenant.of_class()
    Tenant().static("carol")
    limiter.limit(key=lambda user: user)(Tenant().one)("dave")
    assert keys(limiter) == ["acme/alice", "bob", "acme", "carol", "dave", "dave"]


def test_an_async_function_is_limited_by_its_arguments(limiter: Keys) -> None:
    @limiter.limit(key=lambda user: user)
    async def send(text: str, user: str = "alice") -> str:
        return text

    assert asyncio.run(send("x")) == "x"
    assert keys(limiter) == ["alice"]


def test_positional_only_and_keyword_only_parameters_on_either_side(limiter: Keys) -> None:
    def by_place(user: str, /) -> str:
        return user

    def by_name(*, user: str) -> str:
        return user

    def one(user: str, /, text: str) -> None: ...
    def two(text: str, *, user: str) -> None: ...
    def three(user: str, /, **user_: str) -> None: ...

    for key in (by_place, by_name):
        limiter.limit(key=key)(one)("a", text="t")
        limiter.limit(key=key)(two)("t", user="b")
        limiter.limit(key=key)(three)("c", user="not this one")
    assert keys(limiter) == ["a", "b", "c"] * 2


def test_a_key_function_that_takes_anything_is_given_all_arguments_of_the_call(limiter: Keys) -> None:
    def send(user: str, text: str = "t", *more: str, loud: bool = False) -> None: ...

    everything: Callable[..., Any] = lambda *args, **kwargs: repr((args, kwargs))  # noqa: E731
    the_rest: Callable[..., Any] = lambda user, *args, **kwargs: repr((user, args, kwargs))  # noqa: E731
    for key in (everything, the_rest):
        guarded = limiter.limit(key=key)(send)
        guarded("u", "x", "y", loud=True)
        guarded(user="u")
    assert keys(limiter) == [
        "(('u', 'x', 'y'), {'loud': True})", "((), {'user': 'u'})",
        "('u', ('x', 'y'), {'loud': True})", "('u', (), {})",
    ]  # fmt: skip


def test_a_key_function_cannot_name_the_functions_own_args(limiter: Keys) -> None:
    with pytest.raises(TypeError, match="the key function names 'users', not a parameter of "):
        limiter.limit(key=lambda users: users[0])(lambda *users: None)


def test_a_name_that_only_kwargs_may_hold_is_looked_up_in_each_call(limiter: Keys) -> None:
    @limiter.limit(key=lambda user, place="here": f"{user} {place}")
    def send(**options: str) -> None: ...

    send(user="alice")
    send(user="bob", place="there")
    with pytest.raises(TypeError, match=r"send\(\) missing the argument 'user', of which the limiter's key or cost is"):
        send(text="x")

    @limiter.limit(key=lambda user, **rest: f"{user} {rest}")
    def tell(**options: str) -> None: ...

    tell(user="carol", text="x")
    assert keys(limiter) == ["alice here", "bob there", "carol {'text': 'x'}"]


def test_a_default_of_the_key_function_stands_where_the_function_has_no_such_parameter(limiter: Keys) -> None:
    @limiter.limit(key=lambda user, separator=":": f"u{separator}{user}")
    def send(user: str) -> None: ...

    send("alice")
    assert keys(limiter) == ["u:alice"]


def test_the_functions_default_counts_where_both_have_one(limiter: Keys) -> None:
    @limiter.limit(key=lambda user="the key's": user)
    def send(user: str = "the function's") -> None: ...

    send()
    assert keys(limiter) == ["the function's"]


def test_parameters_may_be_named_as_our_own_variables_are(limiter: Keys) -> None:
    @limiter.limit(key=lambda value, name, asked: f"{value}{name}{asked}")
    def send(name: str, value: str, asked: str, args: str = "", kwargs: str = "", **other: str) -> None: ...

    @limiter.limit(key=lambda *args, **kwargs: f"{args}{kwargs}")
    def tell(name: str, value: str, *, asked: str, **other: str) -> None: ...

    send("n", "v", "a")
    tell("n", "v", asked="a", more="m")
    assert keys(limiter) == ["vna", "('n', 'v'){'asked': 'a', 'more': 'm'}"]


def test_functions_of_every_kind_give_keys(limiter: Keys) -> None:
    class OfObject:
        def __call__(self, user: str) -> str:
            return user

        def method(self, user: str) -> str:
            return user

    def with_prefix(prefix: str, user: str, suffix: str = "") -> str:
        return prefix + user + suffix

    @functools.lru_cache
    def cached(user: str) -> str:
        return user

    for key in (
        OfObject(), OfObject().method, cached,
        functools.partial(with_prefix, ""), functools.partial(with_prefix, "", suffix=""),
        Mock(side_effect=lambda text, user: user),
    ):  # fmt: skip
        limiter.limit(key=key)(lambda text, user: None)("t", "alice")
    assert keys(limiter) == ["alice"] * 6


def test_what_has_no_names_of_ours_is_given_all_arguments(limiter: Keys) -> None:
    class Name(str):
        __slots__ = ()

    def send(text: str) -> None: ...

    for key in (str, Name, "user:{}".format, itemgetter(0), str.lower):
        limiter.limit(key=key, cost=len)(send)("abc")
    assert limiter.asked == [("abc", 3), ("abc", 3), ("user:abc", 3), ("a", 3), ("abc", 3)]
    limiter.limit(key=lambda text: text)(str.upper)("x")
    assert keys(limiter)[-1] == "x", "a builtin function is called as it was"


def test_a_wrapper_that_takes_anything_gives_the_key_function_all_it_gets(limiter: Keys) -> None:
    def wrapper(*args: Any, **kwargs: Any) -> None: ...

    limiter.limit(key=lambda request: request)(wrapper)("r")
    assert keys(limiter) == ["r"]


def test_a_decorator_below_may_add_arguments(limiter: Keys) -> None:
    def with_database(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return function(*args, database="db", **kwargs)

        return call

    @limiter.limit(key=lambda request: request)
    @with_database
    def view(request: str, database: str) -> str:
        return database

    assert view("r") == "db"
    limiter.limit(key=lambda *args: repr(args))(view)("r")
    assert keys(limiter) == ["r", "('r',)", "r"]


def test_one_guard_may_be_put_on_several_functions(limiter: Keys) -> None:
    guard = limiter.limit(key=lambda user: user)
    guard(lambda text, user: None)("t", "alice")
    guard(lambda user, text: None)("bob", "t")
    assert keys(limiter) == ["alice", "bob"]


def test_a_call_without_what_the_key_is_made_of_charges_nothing(limiter: Keys) -> None:
    @limiter.limit(key=lambda user: user)
    def send(user: str, *, loud: bool = False) -> None: ...

    for wrong in ({}, {"lod": True}):
        with pytest.raises(TypeError, match=r"send\(\) missing the argument 'user'"):
            send(**wrong)  # type: ignore[arg-type]
    assert limiter.asked == []


# Mistakes


def test_a_string_that_names_a_parameter_is_an_error(limiter: Keys) -> None:
    def send(user: str) -> None: ...
    async def tell(text: str, *, user: str) -> None: ...

    for function in (send, tell):
        with pytest.raises(TypeError, match=r"key='user' is the key itself.* write key=lambda user: user"):
            limiter.limit(key="user")(function)
    limiter.limit(key="users")(send)("alice")
    assert keys(limiter) == ["users"]


@pytest.mark.parametrize("role", ["key", "cost"])
def test_a_name_that_the_function_has_not_is_an_error_when_decorating(limiter: Keys, role: str) -> None:
    asks: dict[str, Any] = {"key": "all", role: lambda usr: usr}
    guard = limiter.limit(**asks)
    with pytest.raises(
        TypeError, match=rf"the {role} function names 'usr', not a .* of .*send\(\): did you mean 'user'"
    ):

        @guard
        def send(user: str) -> None: ...

    with pytest.raises(TypeError, match=r"\(\): use one of text"):
        guard(lambda text, *args: None)
    with pytest.raises(TypeError, match=r"\(\), which has none"):
        guard(lambda: None)


def test_an_async_key_or_cost_function_is_an_error(limiter: Keys) -> None:
    async def ask(user: str) -> Any: ...

    class Ask:
        async def __call__(self, user: str) -> Any: ...

    for one in (ask, Ask(), functools.partial(ask, "a")):
        with pytest.raises(TypeError, match="the key function must not be async: nothing awaits it"):
            limiter.limit(key=one)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="the cost function must not be async: nothing awaits it"):
            limiter.limit(key="x", cost=one)  # type: ignore[arg-type]


def no_key(user: str) -> Any: ...


@pytest.mark.parametrize(
    ("role", "function", "words"),
    [
        ("key", no_key, r"^the key function no_key\(\) must return str or bytes, not NoneType$"),
        ("key", lambda *all_of_it: None, r"<lambda>\(\) must return str or bytes, not NoneType$"),
        ("key", lambda user: 5, r"<lambda>\(\) must return str or bytes, not int: return str\(\.\.\.\) of it$"),
        ("cost", no_key, r"^the cost function no_key\(\) must return a whole number of tokens, not NoneType$"),
        ("cost", lambda user: 1.5, r"<lambda>\(\) must return a whole number of tokens, not float$"),
    ],
)
def test_a_function_that_returns_no_key_or_no_cost_is_named(
    limiter: Keys, role: str, function: Any, words: str
) -> None:
    @limiter.limit(**{"key": "k", role: function})
    def send(user: str) -> None: ...

    with pytest.raises(TypeError, match=words):
        send("alice")
    assert not limiter.asked


def test_a_class_is_not_a_function(limiter: Keys) -> None:
    with pytest.raises(TypeError, match=r"limit\(\) guards functions, not the class Thing: put it on a method"):

        @limiter.limit(key="all")
        class Thing:
            pass


def test_a_signature_that_cannot_be_is_as_good_as_none(limiter: Keys) -> None:
    class Strange:
        __signature__ = "none"

        def __call__(self, user: str) -> str:
            return user

    def loop(user: str) -> str:
        return user

    loop.__wrapped__ = loop  # type: ignore[attr-defined]
    for key in (Strange(), loop):
        limiter.limit(key=key)(lambda user: None)("alice")
    limiter.limit(key=lambda user: user)(loop)("alice")
    assert keys(limiter) == ["alice"] * 3


@pytest.mark.parametrize("kind", [classmethod, staticmethod, property, functools.partialmethod])
def test_a_limit_above_classmethod_is_an_error(limiter: Keys, kind: Any) -> None:
    with pytest.raises(TypeError, match=f"put it below @{kind.__name__}, not above"):
        limiter.limit(key="all")(kind(lambda self: None))


def test_an_async_generator_is_an_error_as_its_call_would_block_the_event_loop(limiter: Keys) -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1

    for one in (limiter, AsyncLimiter("1/s")):
        with pytest.raises(TypeError, match=r"not the async generator .*numbers: .* write `async with"):
            one.limit(key="all")(numbers)


@pytest.mark.parametrize("timeout", ["5", -1, float("nan"), object()])
def test_a_bad_timeout_is_an_error_when_decorating(limiter: Keys, timeout: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="timeout must be"):
        limiter.limit(key="all", timeout=timeout)


@frozen()
def test_an_object_with_an_async_call_is_an_async_function() -> None:
    class Send:
        async def __call__(self, user: str) -> str:
            return user

    async def use() -> None:
        guarded = AsyncLimiter("1/s").limit(key=lambda user: user)(Send())
        assert await guarded("alice") == "alice"
        with pytest.raises(RateLimitExceeded, match=r"retry after 1\.000 s"):
            await guarded("alice")

    asyncio.run(use())


def test_cost_and_timeout_count_around_functions_and_blocks_sync_and_async(
    either_store: Any, clock: ManualClock
) -> None:
    limit, began = TokenBucket(3, 1), clock.ticks()

    def waited() -> float:
        return (clock.ticks() - began) / TICKS_PER_SECOND

    async def use(limiter: Limiter | AsyncLimiter) -> None:
        take = limiter.limit("all", cost=lambda count: count, timeout=2)(asleep)
        await take(3)
        before = waited()
        await take(2)
        async with limiter.limit("all", cost=2, timeout=2):
            assert waited() - before == 4
        with pytest.raises(RateLimitExceeded, match=r"retry after 1\.000 s"):
            await take(3)
        with pytest.raises(RateLimitExceeded, match=r"retry after 1\.000 s"):
            async with limiter.limit("all", cost=3, timeout=2):
                pytest.fail("the block must not be entered")
        assert waited() - before == 4

    async def asleep(count: int) -> None: ...

    asyncio.run(use(AsyncLimiter(limit, store=either_store, name="awaited")))
    if isinstance(either_store, AsyncMemoryStore):
        return
    limiter = Limiter(limit, store=either_store, name="blocking")
    asyncio.run(use(limiter))
    limiter.reset("all")
    take = limiter.limit("all", cost=lambda count: count, timeout=2)(lambda count: waited())
    before = take(3)
    assert take(2) - before == 2
    with limiter.limit("all", cost=2, timeout=2):
        assert waited() - before == 4
    with pytest.raises(RateLimitExceeded, match=r"retry after 1\.000 s"):
        take(3)
    with pytest.raises(RateLimitExceeded, match=r"retry after 1\.000 s"), limiter.limit("all", cost=3, timeout=2):
        pytest.fail("the block must not be entered")


@frozen()
def test_a_generator_is_charged_when_it_is_called() -> None:
    @Limiter("1/s").limit(key=lambda user: user)
    def numbers(user: str) -> Iterator[int]:
        yield 1

    assert list(numbers("alice")) == [1]
    with pytest.raises(RateLimitExceeded, match=r"retry after 1\.000 s"):
        numbers("alice")


def test_an_error_tells_when_to_come_back(clock: Any) -> None:
    limiter = Limiter(TokenBucket(1, 1), store=MemoryStore(10, clock=clock))
    limiter.acquire("a")
    with pytest.raises(RateLimitExceeded) as caught:
        limiter.acquire("a", timeout=0)
    assert caught.value.retry_after == caught.value.decision.retry_after == 1.0
    refused = PolicyDecision((RuleDecision("r", limiter.peek("a")),))
    assert RateLimitExceeded(refused).retry_after == 1.0
