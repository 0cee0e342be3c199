"""Limits in gRPC servers: what a client gets over a real connection, and what the servicer never notices.

Each claim is tested on a server of threads, and on one of asyncio whose handlers are async, or are not.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import runpy
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import grpc
import pytest
from async_memory import AsyncMemoryStore
from grpc import aio
from needs import need
from oracles import structured
from servers import free_port

from ratekeeper import IMPLEMENTATION, ManualClock, MemoryStore, Policy
from ratekeeper.frameworks.grpc import AsyncRateLimitInterceptor, Call, RateLimitInterceptor, exempt, rate_limit
from ratekeeper.frameworks.grpc_call import CallExchange
from ratekeeper.http.exchange import CURRENT, Exchange
from ratekeeper.http.limiter import AsyncRequestLimiter
from ratekeeper.policy.decision import PolicyDecision

T = TypeVar("T")
HEADER = '[attributes]\nuser = "header:x-user"\n'
EACH = Policy.parse(HEADER + '[[rules]]\nname = "each"\nkey = ["user"]\nlimit = "3/minute"')
CODE = grpc.StatusCode
CHUNKS = [bytes([n]) * n for n in range(1, 200, 37)]
KINDS = {"up": "stream_unary", "down": "unary_stream", "rare_down": "unary_stream", "written": "unary_stream",
         "placed_down": "unary_stream",
         "late": "unary_stream", "broken_down": "unary_stream", "both": "stream_stream"}  # fmt: skip


ERRORS = ["abort", "broken", "broken_down"]
"""Methods that end before they answer."""


class Threads:
    """Handlers that are not async."""

    def unary(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        return request[::-1]

    def down(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        context.set_trailing_metadata((("own-trailing", "2"),))
        yield from CHUNKS

    def up(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        return b"".join(requests)

    def both(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        for request in requests:
            yield request[::-1]

    def own(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        context.send_initial_metadata((("own", "1"),))
        return request

    def abort(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(CODE.NOT_FOUND, "the servicer's own")

    def broken(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        raise LookupError("the servicer's own")

    def broken_down(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield from [] if request else [b"never"]
        raise LookupError("the servicer's own")

    @rate_limit("1/hour", key=lambda call: dict(call.context.invocation_metadata())["x-user"])
    def rare(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        return request

    @rate_limit("1/hour")
    def rare_down(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield from CHUNKS

    def told(self, request: bytes, context: Any) -> bytes:
        return b"%d" % context.ratekeeper.usage()[0].used

    @exempt
    def free(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        return request

    @rate_limit("4/hour", replaces=["each"])
    def placed(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        return request

    @rate_limit("4/hour", replaces=["each"])
    def placed_down(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield from CHUNKS

    def late(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield b"begun"
        self.rare(request, context)
        yield self.rare(request, context)

    def written(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield from CHUNKS


class Tasks:
    """The same, async."""

    async def unary(self, request: bytes, context: Any) -> bytes:
        return request[::-1]

    async def down(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        context.set_trailing_metadata((("own-trailing", "2"),))
        for chunk in CHUNKS:
            yield chunk

    async def up(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return b"".join([request async for request in requests])

    async def both(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request[::-1]

    async def own(self, request: bytes, context: Any) -> bytes:
        await context.send_initial_metadata((("own", "1"),))
        return request

    async def abort(self, request: bytes, context: Any) -> None:
        await context.abort(CODE.NOT_FOUND, "the servicer's own")

    async def broken(self, request: bytes, context: Any) -> bytes:
        raise LookupError("the servicer's own")

    async def broken_down(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        if not request:
            yield b"never"
        raise LookupError("the servicer's own")

    @rate_limit("1/hour", key=lambda call: dict(call.context.invocation_metadata())["x-user"])
    async def rare(self, request: bytes, context: Any) -> bytes:
        return request

    @rate_limit("1/hour")
    async def rare_down(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for chunk in CHUNKS:
            yield chunk

    async def told(self, request: bytes, context: Any) -> bytes:
        return b"%d" % (await context.ratekeeper.usage())[0].used

    @exempt
    async def free(self, request: bytes, context: Any) -> bytes:
        return request

    @rate_limit("4/hour", replaces=["each"])
    async def placed(self, request: bytes, context: Any) -> bytes:
        return request

    @rate_limit("4/hour", replaces=["each"])
    async def placed_down(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for chunk in CHUNKS:
            yield chunk

    async def late(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"begun"
        await self.rare(request, context)
        yield await self.rare(request, context)

    async def written(self, request: bytes, context: Any) -> None:
        for chunk in CHUNKS:
            await context.write(chunk)


def handlers(servicer: Any) -> grpc.GenericRpcHandler:
    names = [name for name in vars(type(servicer)) if not name.startswith("_")]
    methods = {
        name: getattr(grpc, f"{KINDS.get(name, 'unary_unary')}_rpc_method_handler")(getattr(servicer, name))
        for name in names
    }
    return grpc.method_handlers_generic_handler("test.Service", methods)


class Server(NamedTuple):
    """A kind of server. `interceptor` is None for one without limits."""

    asynchronous: bool
    servicer: Any

    def interceptor(self, policy: Policy | Path | None = EACH, **options: Any) -> Any:
        options.setdefault("store", MemoryStore(clock=ManualClock()))
        return (
            AsyncRateLimitInterceptor(policy, **options)
            if self.asynchronous
            else RateLimitInterceptor(policy, **options)
        )

    def talk(
        self,
        interceptor: Any,
        conversation: Callable[[grpc.Channel], T],
        address: str = "127.0.0.1:0",
        config: str = "{}",
    ) -> T:
        """Hold a conversation with a server that is started for it. `config` is the client's."""
        interceptors = [] if interceptor is None else [interceptor]

        def client(port: int) -> T:
            target = address if port <= 1 else address.removesuffix("0") + str(port)
            with grpc.insecure_channel(target, [("grpc.service_config", config)]) as channel:
                return conversation(channel)

        async def on_asyncio() -> T:
            server = aio.server(interceptors=interceptors)
            server.add_generic_rpc_handlers((handlers(self.servicer),))
            port = server.add_insecure_port(address)
            await server.start()
            try:
                return await asyncio.to_thread(client, port)
            finally:
                await server.stop(None)

        if self.asynchronous:
            return asyncio.run(on_asyncio())
        threads = grpc.server(ThreadPoolExecutor(4), interceptors=interceptors)
        threads.add_generic_rpc_handlers((handlers(self.servicer),))
        port = threads.add_insecure_port(address)
        threads.start()
        try:
            return client(port)
        finally:
            threads.stop(None).wait()

    def ask(
        self, interceptor: Any, *methods: str, address: str = "127.0.0.1:0", config: str = "{}", **options: Any
    ) -> list[Answer]:
        """Call methods one after the other."""
        return self.talk(
            interceptor, lambda channel: [call(channel, one, **options) for one in methods], address, config
        )

    def codes(self, interceptor: Any, *methods: str, **options: Any) -> list[grpc.StatusCode]:
        return [answer.code for answer in self.ask(interceptor, *methods, **options)]


SERVERS = {"threads": Server(False, Threads()), "tasks": Server(True, Tasks()), "both": Server(True, Threads())}


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Server:
    return SERVERS[request.param]


class Answer(NamedTuple):
    code: grpc.StatusCode
    details: str
    initial: dict[str, Any]
    trailing: dict[str, Any]
    messages: list[bytes]

    @property
    def wait(self) -> tuple[str | None, str | None]:
        return self.trailing.get("retry-after"), self.trailing.get("grpc-retry-pushback-ms")

    @property
    def states(self) -> dict[str, dict[str, int]]:
        """The fields of `ratelimit`: at the beginning of an answer, at the end of a refusal."""
        return dict(structured((self.initial | self.trailing)["ratelimit"]))


def call(
    channel: grpc.Channel,
    method: str,
    user: str = "alice",
    metadata: Any = (),
    timeout: float | None = 30,
    request: bytes = b"x",
) -> Answer:
    kind = KINDS.get(method, "unary_unary")
    argument = iter(CHUNKS) if kind.startswith("stream") else request
    asked: Any = {"timeout": timeout, "metadata": (("x-user", user), *metadata)}
    make = getattr(channel, kind)(f"/test.Service/{method}")
    messages: list[bytes] = []
    if kind.endswith("unary"):
        ended = make.future(argument, **asked)
        if ended.exception() is None:
            messages.append(ended.result())
    else:
        ended = make(argument, **asked)
        with suppress(grpc.RpcError):
            messages.extend(ended)
    initial, trailing = dict(ended.initial_metadata()), dict(ended.trailing_metadata() or ())
    return Answer(ended.code(), ended.details(), initial, trailing, messages)


def retrying(code: str) -> str:
    """Return a configuration: if a call ends so, the client calls once more, soon unless it is told otherwise."""
    retry = {
        "maxAttempts": 2, "initialBackoff": "0.05s", "maxBackoff": "0.05s", "backoffMultiplier": 1,
        "retryableStatusCodes": [code],
    }  # fmt: skip
    return json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": retry}]})


@pytest.mark.parametrize("method", ["unary", "down", "up", "both"])
def test_over_the_limit_a_call_of_any_kind_is_refused_and_told_when_to_come_back(server: Server, method: str) -> None:
    *allowed, refused = server.ask(server.interceptor(), *[method] * 4)
    assert [one.code for one in allowed] == [CODE.OK] * 3
    assert [one.states for one in [*allowed, refused]] == [{"each": {"r": left, "t": 20}} for left in (2, 1, 0, 0)]
    assert (refused.code, refused.wait, refused.messages) == (CODE.RESOURCE_EXHAUSTED, ("20", "20000"), [])
    assert refused.details == "Over the limit of 'each' (token_bucket of 3 at 3/minute): try again in 20 seconds."


@pytest.mark.parametrize("method", ["unary", "down", "up", "both", "own", "written", "nowhere", *ERRORS])
def test_a_call_is_the_same_byte_for_byte_but_for_our_metadata(server: Server, method: str) -> None:
    (without_us,) = server.ask(None, method)
    (with_us,) = server.ask(server.interceptor(), method)
    ours = {name: value for name, value in with_us.initial.items() if name.startswith("ratelimit")}
    assert with_us == without_us._replace(initial={**without_us.initial, **ours})
    assert bool(ours) is (method not in {"nowhere", *ERRORS})


def test_a_client_that_retries_comes_back_when_it_is_told_to(server: Server) -> None:
    clock, refused_at = ManualClock(), []

    def second_passes(one: Call, decision: PolicyDecision) -> None:
        if not decision.allowed:
            refused_at.append(time.monotonic())
            clock.advance(1)

    interceptor = server.interceptor(
        Policy.parse('[[rules]]\nname = "r"\nlimit = "1/s"'), store=MemoryStore(clock=clock), on_decision=second_passes
    )
    answers = server.ask(interceptor, "unary", "unary", config=retrying("RESOURCE_EXHAUSTED"))
    assert [one.code for one in answers] == [CODE.OK] * 2
    assert [time.monotonic() - at > 0.9 for at in refused_at] == [True]


@pytest.mark.parametrize("method", ["unary", "down"])
def test_an_error_of_the_servicers_can_be_retried_as_without_us(server: Server, method: str) -> None:
    calls: list[str] = []

    class Recovering:
        def unary(self, request: bytes, context: Any) -> bytes:
            calls.append("unary")
            if len(calls) == 1:
                context.abort(CODE.UNAVAILABLE, "not yet")
            return request

        def down(self, request: bytes, context: Any) -> Iterator[bytes]:
            yield self.unary(request, context)

    class RecoveringTasks:
        async def unary(self, request: bytes, context: Any) -> bytes:
            calls.append("unary")
            if len(calls) == 1:
                await context.abort(CODE.UNAVAILABLE, "not yet")
            return request

        async def down(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
            yield await self.unary(request, context)

    own = Server(server.asynchronous, RecoveringTasks() if isinstance(server.servicer, Tasks) else Recovering())
    (answer,) = own.ask(own.interceptor(), method, config=retrying("UNAVAILABLE"))
    assert (answer.code, len(calls)) == (CODE.OK, 2)


def test_the_servicers_context_is_still_of_grpcs_class() -> None:
    class Servicer:
        def unary(self, request: bytes, context: Any) -> bytes:
            return str(isinstance(context, grpc.ServicerContext)).encode()

    server = Server(False, Servicer())
    assert server.ask(server.interceptor(), "unary")[0].messages == [b"True"]


def test_another_key_is_not_affected(server: Server) -> None:
    def conversation(channel: grpc.Channel) -> list[grpc.StatusCode]:
        return [call(channel, "unary", user).code for user in ["alice"] * 4 + ["bob"]]

    assert server.talk(server.interceptor(), conversation) == [CODE.OK] * 3 + [CODE.RESOURCE_EXHAUSTED, CODE.OK]


def test_a_policy_knows_the_method(server: Server) -> None:
    policy = Policy.parse(
        '[[rules]]\nname = "r"\nmatch = { path = "/test.Service/u*" }\nkey = ["route"]\nlimit = "1/h"'
    )
    codes = server.codes(server.interceptor(policy), "unary", "up", "unary", "down", "down")
    assert codes == [CODE.OK, CODE.OK, CODE.RESOURCE_EXHAUSTED, CODE.OK, CODE.OK]


@pytest.mark.parametrize("method", ["rare", "rare_down"])
def test_a_methods_own_limit_and_the_policys_are_both_in_the_metadata(server: Server, method: str) -> None:
    first, refused = server.ask(server.interceptor(), method, method)
    assert first.code is CODE.OK
    assert first.states == {"each": {"r": 2, "t": 20}, "1/hour": {"r": 0, "t": 3600}}
    assert (refused.code, refused.wait, refused.messages) == (CODE.RESOURCE_EXHAUSTED, ("3600", "3600000"), [])
    assert refused.states["each"]["r"] == 2, "what the policy charged the refused call is given back"


def test_an_exempt_method_is_not_limited(server: Server) -> None:
    assert server.codes(server.interceptor(), *["free"] * 5) == [CODE.OK] * 5


@pytest.mark.parametrize("method", ["placed", "placed_down"])
def test_a_methods_limit_takes_the_place_of_a_rule(server: Server, method: str) -> None:
    answers = server.ask(server.interceptor(), *[method] * 5)
    assert [answer.code for answer in answers] == [CODE.OK] * 4 + [CODE.RESOURCE_EXHAUSTED]
    assert answers[0].states == {"4/hour": {"r": 3, "t": 900}}
    assert answers[-1].messages == []


def test_a_refusal_within_a_stream_ends_it(server: Server) -> None:
    (answer,) = server.ask(server.interceptor(None), "late")
    assert (answer.code, answer.wait) == (CODE.RESOURCE_EXHAUSTED, ("3600", "3600000"))
    assert answer.messages == [b"begun"]


def test_a_call_waits_for_its_turn_but_not_beyond_its_deadline(server: Server) -> None:
    clock = ManualClock()
    policy = Policy.parse('[[rules]]\nname = "each"\nlimit = "3/hour burst 1"\nmax_wait = 7200')
    store = MemoryStore(clock=clock)
    assert server.codes(server.interceptor(policy, store=store), "unary", "down") == [CODE.OK, CODE.RESOURCE_EXHAUSTED]
    assert clock.ticks() == 0
    codes = server.codes(server.interceptor(policy, store=store), "unary", "down", timeout=10_000)
    assert codes == [CODE.OK, CODE.OK]
    assert clock.ticks() == 2400 * 16 * 10**9
    assert server.codes(server.interceptor(policy, store=store), "unary", timeout=None) == [CODE.OK]


@pytest.mark.parametrize(
    ("address", "client"), [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::/64"), ("unix:{}/socket", "unknown")]
)
def test_the_client_is_the_peers_address(server: Server, address: str, client: str, tmp_path: Path) -> None:
    if "::" in address:
        need("IPv6", socket.has_ipv6 and _binds("::1"))
    policy = Policy.parse(f'[[rules]]\nname = "r"\nmatch = {{ client = "{client}" }}\nlimit = "1/hour"')
    codes = server.codes(server.interceptor(policy), "unary", "unary", address=address.format(tmp_path))
    assert codes == [CODE.OK, CODE.RESOURCE_EXHAUSTED]


def _binds(host: str) -> bool:
    try:
        socket.create_server((host, 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def test_metadata_of_bytes_is_not_a_header_and_what_is_repeated_is_refused_by_its_name(server: Server) -> None:
    policy = Policy.parse(HEADER + '[[rules]]\nname = "each"\nkey = ["user"]\nmissing = "reject"\nlimit = "9/minute"')
    (fine,) = server.ask(server.interceptor(policy), "unary", metadata=(("x-user-bin", b"\xff\x00"),))
    (twice,) = server.ask(server.interceptor(policy), "unary", metadata=(("x-user", "fresh"),))
    assert fine.code is CODE.OK
    assert (twice.code, twice.wait) == (CODE.INVALID_ARGUMENT, (None, None))
    assert "'x-user' is repeated" in twice.details


def test_a_bad_cost_is_an_invalid_argument(server: Server) -> None:
    policy = Policy.parse('[attributes]\nn = "header:x-n"\n[[rules]]\nname = "r"\ncost = "n"\nlimit = "9/minute"')
    (answer,) = server.ask(server.interceptor(policy), "unary", metadata=(("x-n", "many"),))
    assert answer.code is CODE.INVALID_ARGUMENT
    assert "'many'" in answer.details


def test_a_store_that_does_not_answer_is_unavailable(server: Server) -> None:
    port = free_port()
    (answer,) = server.ask(server.interceptor(store=f"redis://127.0.0.1:{port}"), "unary")
    assert (answer.code, answer.wait) == (CODE.UNAVAILABLE, ("1", "1000"))
    assert str(port) not in answer.details


def test_functions_of_the_call_see_its_message_and_its_method(server: Server) -> None:
    def options(wrap: Callable[[Any], Any]) -> dict[str, Any]:
        return {
            "attributes": {"user": wrap(lambda one: "everybody")},
            "cost": wrap(lambda one: len(one.request)),
            "exempt": wrap(lambda one: one.method.endswith("/own")),
        }

    def later(function: Callable[[Call], Any]) -> Callable[[Call], Any]:
        async def asked(one: Call) -> Any:
            await asyncio.sleep(0)
            return function(one)

        return asked

    for wrap in [later, lambda function: function] if server.asynchronous else [lambda function: function]:
        store: Any = MemoryStore(clock=ManualClock())
        store = AsyncMemoryStore(store) if server.asynchronous else store
        interceptor = server.interceptor(store=store, **options(wrap))
        assert server.codes(interceptor, "unary", "unary", "own", request=b"12") == [
            CODE.OK, CODE.RESOURCE_EXHAUSTED, CODE.OK,
        ]  # fmt: skip


def test_a_rejection_of_ones_own_chooses_code_and_details(server: Server) -> None:
    interceptor = server.interceptor(rejection=lambda one, decision: (CODE.ABORTED, f"{one.method}: later"))
    refused = server.ask(interceptor, *["unary"] * 4)[-1]
    assert (refused.code, refused.details) == (CODE.ABORTED, "/test.Service/unary: later")
    assert refused.wait == ("20", "20000")


@pytest.mark.parametrize("answer", ["no", CODE.ABORTED, (CODE.OK, "fine"), (10, "later"), (CODE.ABORTED, "a", "b")])
@pytest.mark.parametrize("method", ["unary", "down"])
def test_a_rejection_that_cannot_be_sent_is_an_error_that_says_what_can(
    server: Server, method: str, answer: Any
) -> None:
    refused = server.ask(server.interceptor(rejection=lambda *_: answer), *[method] * 4)[-1]
    assert refused.code is CODE.UNKNOWN, "that of an application's error"
    assert "rejection must return a status code and its details" in refused.details


def test_switched_off_nothing_is_limited_or_added(server: Server) -> None:
    answers = server.ask(server.interceptor(enabled=False), "rare", "rare", "unary", "abort")
    assert [one.code for one in answers] == [CODE.OK, CODE.OK, CODE.OK, CODE.NOT_FOUND]
    assert not any("ratelimit" in one.initial for one in answers)


def test_who_observes_gets_the_call_and_every_decision(server: Server) -> None:
    seen: list[tuple[str, bool]] = []
    interceptor = server.interceptor(
        on_decision=lambda one, decision: seen.append((one.method.rpartition("/")[2], decision.allowed))
    )
    server.ask(interceptor, *["down"] * 4)
    assert seen == [("down", True)] * 3 + [("down", False)]


def test_a_limited_method_stays_of_its_kind_and_its_stream_is_closed_with_it() -> None:
    ended: list[str] = []

    async def stream() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            ended.append("stream")

    limited = rate_limit("1/hour")
    kinds = [inspect.iscoroutinefunction, inspect.isasyncgenfunction, inspect.isgeneratorfunction]
    assert inspect.isasyncgenfunction(limited(stream))
    for name, method in vars(Tasks).items():
        if callable(method):
            assert [kind(limited(method)) for kind in kinds] == [kind(method) for kind in kinds], name
            assert not kinds[1](vars(Threads)[name])
            assert kinds[2](limited(vars(Threads)[name])) == kinds[2](vars(Threads)[name])

    class FromHome:
        """The fields of a call's context that describe its client."""

        def peer(self) -> str:
            return "ipv4:192.0.2.1:1"

    async def begin_and_leave() -> None:
        exchange: Exchange = CallExchange(AsyncRequestLimiter(), Call("/tasks/Stream", None, FromHome()), stream)
        token = CURRENT.set(exchange)
        responses: Any = limited(stream)()
        assert await anext(responses) == 1
        await responses.aclose()
        CURRENT.reset(token)

    asyncio.run(begin_and_leave())
    assert ended == ["stream"]


def watching() -> set[threading.Thread]:
    """Return the threads that watch a policy's file."""
    return {thread for thread in threading.enumerate() if thread.name == "ratekeeper policy"}


def test_what_an_interceptor_opened_it_closes(server: Server, tmp_path: Path) -> None:
    need("the C core", IMPLEMENTATION == "c")
    file = tmp_path / "policy.toml"
    file.write_text('[[rules]]\nname = "each"\nkey = ["client"]\nlimit = "3/hour"')
    before = watching()  # those of earlier tests, which may end meanwhile
    interceptor = server.interceptor(file, store=f"shared:{tmp_path / 'table'}")
    assert watching() - before
    assert server.codes(interceptor, "unary") == [CODE.OK]
    closing = interceptor.close()
    if closing is not None:
        asyncio.run(closing)
    assert watching() <= before
    with pytest.raises(ValueError, match="closed"):
        interceptor.limiter.store.stats()


def test_the_example_serves_and_limits() -> None:
    example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "frameworks" / "grpc_server.py"))
    server = example["server"]()
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            get: Any = channel.unary_unary("/shop.Items/Get")
            export: Any = channel.unary_stream("/shop.Items/Export")
            assert get(b"1", timeout=30) == b"item 1"
            assert [b"".join(export(b"", timeout=30)) for _ in range(2)] == [b"line 0line 1line 2"] * 2
            with pytest.raises(grpc.RpcError, match="RESOURCE_EXHAUSTED"):
                list(export(b"", timeout=30))
    finally:
        server.stop(None).wait()
