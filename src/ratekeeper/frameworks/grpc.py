"""gRPC: interceptors that limit the methods of a server, of threads or of asyncio. Knows no servicer and no message.

A handler is wrapped in one of its own kind, by which the server tells how to run it. Messages pass through as they are.
What is read of a call, and how it is refused, is in `grpc_call`.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from functools import wraps
from os import PathLike
from typing import Any, ParamSpec, TypeAlias, TypeVar, Unpack, cast

from ratekeeper.errors import MissingExtraError
from ratekeeper.frameworks.grpc_call import Call, CallExchange, TaskContext, ThreadContext
from ratekeeper.http.limiter import AsyncRequestLimiter, RequestLimiter
from ratekeeper.http.options import Options
from ratekeeper.http.rate_limit import Cost, Key, RuleOptions
from ratekeeper.http.rate_limit import rate_limit as _rate_limit
from ratekeeper.limits import Limit
from ratekeeper.policy.model import Policy
from ratekeeper.stores.base import AsyncStore, Store

try:
    import grpc
    from grpc import aio
except ModuleNotFoundError:
    raise MissingExtraError("ratekeeper.frameworks.grpc", "grpc") from None

__all__ = ["AsyncRateLimitInterceptor", "Call", "RateLimitInterceptor", "rate_limit"]

Behavior: TypeAlias = Callable[[Any, Any], Any]

P = ParamSpec("P")
R = TypeVar("R")

_END = object()


def rate_limit(
    *limits: Limit | str,
    key: Key = "client",
    cost: Cost = 1,
    name: str | None = None,
    **rule_options: Unpack[RuleOptions],
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """As `ratekeeper.http.rate_limit`, for servicers: generators too, which gRPC begins before the response."""
    limited = _rate_limit(*limits, key=key, cost=cost, name=name, **rule_options)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        if inspect.isasyncgenfunction(function):

            @limited
            @wraps(function)
            async def begin_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                return function(*args, **kwargs)

            @wraps(function)
            async def stream_async(*args: P.args, **kwargs: P.kwargs) -> AsyncIterator[Any]:
                async with aclosing(await begin_async(*args, **kwargs)) as responses:
                    async for response in responses:
                        yield response

            return cast("Callable[P, R]", stream_async)
        if inspect.isgeneratorfunction(function):

            @limited
            @wraps(function)
            def begin(*args: P.args, **kwargs: P.kwargs) -> Any:
                return function(*args, **kwargs)

            @wraps(function)
            def stream(*args: P.args, **kwargs: P.kwargs) -> Iterator[Any]:
                yield from begin(*args, **kwargs)

            return cast("Callable[P, R]", stream)
        return limited(function)

    return decorate


class RateLimitInterceptor(grpc.ServerInterceptor):
    """`grpc.server(pool, interceptors=[RateLimitInterceptor("policy.toml")])`: decide each call by a policy.

    `policy` is the name of its file, or a `Policy`; `store` is a store or its text, such as "redis://localhost", by
    default the policy's, or else the process's memory. For the options see `ratekeeper.http.options`; their functions
    are given the `Call`. `rejection` returns a status code and its details. A method's own limit is `rate_limit` on the
    servicer's. gRPC tells an interceptor of no end, so `close` is to be called.

    Attributes: `path` and `route` are the method's full name, "/package.Service/Method"; `method` is POST, as HTTP has
    it, for all; headers are the invocation metadata, but for binary ones ("-bin"); `client` is the peer's address.

    The headers about limits are initial metadata of what is answered. A refused call ends with RESOURCE_EXHAUSTED and
    has them in its trailing metadata, with when to come back: `retry-after`, in seconds, and `grpc-retry-pushback-ms`,
    which gRPC's own clients keep to when they retry. One that lacks an attribute ends with PERMISSION_DENIED, one with
    a bad cost with INVALID_ARGUMENT, and with UNAVAILABLE if the store does not answer. An error of the servicer's own
    stays as it is. A call waits for its turn if its rules say so, in a thread of the pool, but never longer than its
    deadline. A method that the server does not have is not counted: gRPC answers it.
    """

    def __init__(
        self,
        policy: Policy | str | PathLike[str] | None = None,
        *,
        store: Store | str | None = None,
        **options: Unpack[Options],
    ) -> None:
        self.limits = RequestLimiter(policy, store=store, **options)

    def close(self) -> None:
        """Close the store, if it was opened here, and watch the policy's file no more. To be called when all ends."""
        self.limits.close()

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        handler, method = continuation(handler_call_details), handler_call_details.method
        return handler and _wrapped(handler, lambda behavior: _limited(method, handler, behavior, self.limits))


class AsyncRateLimitInterceptor(aio.ServerInterceptor):
    """`grpc.aio.server(interceptors=[AsyncRateLimitInterceptor("policy.toml")])`: as `RateLimitInterceptor`.

    The options' functions may be async, and so may be the store. Who waits for a turn blocks nobody. Handlers that are
    not async, which the server runs in threads, are limited as well.
    """

    def __init__(
        self,
        policy: Policy | str | PathLike[str] | None = None,
        *,
        store: Store | AsyncStore | str | None = None,
        **options: Unpack[Options],
    ) -> None:
        self.limits = AsyncRequestLimiter(policy, store=store, **options)

    async def close(self) -> None:
        """As `RateLimitInterceptor.close`."""
        await self.limits.close()

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        handler, method = await continuation(handler_call_details), handler_call_details.method
        loop = asyncio.get_running_loop()

        def wrap(behavior: Behavior) -> Behavior:
            if inspect.isasyncgenfunction(behavior):
                return _limited_generator(method, handler, behavior, self.limits)
            if inspect.iscoroutinefunction(behavior):
                return _limited_coroutine(method, handler, behavior, self.limits)
            return _limited(method, handler, behavior, self.limits, loop)

        return handler and _wrapped(handler, wrap)


def _wrapped(handler: Any, wrap: Callable[[Behavior], Behavior]) -> Any:
    """Return a handler of the same kind, (de)serializing the same, that does what `wrap` makes of what it did."""
    kind = "_".join("stream" if one else "unary" for one in (handler.request_streaming, handler.response_streaming))
    make = getattr(grpc, f"{kind}_rpc_method_handler")
    return make(wrap(getattr(handler, kind)), handler.request_deserializer, handler.response_serializer)


def _limited(
    method: str,
    handler: Any,
    behavior: Behavior,
    limits: RequestLimiter | AsyncRequestLimiter,
    loop: asyncio.AbstractEventLoop | None = None,
) -> Behavior:
    """Limit a handler that runs in a thread, of a server of threads or of the one on `loop`."""

    def charged(request: Any, context: Any) -> ThreadContext:
        exchange = CallExchange(limits, _call(method, handler, request, context), loop)
        own = ThreadContext(context, exchange)
        own.step(own.charge)
        return own

    def limited(request: Any, context: Any) -> Any:
        own = charged(request, context)
        answer = own.step(behavior, request, own)
        own.send_headers()
        return answer

    def limited_stream(request: Any, context: Any) -> Iterator[Any]:
        # A generator, as only its steps are run in threads by a server on asyncio: it calls the function on its loop.
        own = charged(request, context)
        responses = own.step(behavior, request, own)
        while (response := own.step(next, responses, _END)) is not _END:
            own.send_headers()
            yield response

    return limited_stream if handler.response_streaming else limited


def _limited_coroutine(method: str, handler: Any, behavior: Behavior, limits: AsyncRequestLimiter) -> Behavior:
    async def limited(request: Any, context: Any) -> Any:
        own = await _charged(_call(method, handler, request, context), limits)
        answer = await own.step(behavior(request, own))
        await own.send_headers()
        return answer

    return limited


def _limited_generator(method: str, handler: Any, behavior: Behavior, limits: AsyncRequestLimiter) -> Behavior:
    async def limited(request: Any, context: Any) -> AsyncIterator[Any]:
        own = await _charged(_call(method, handler, request, context), limits)
        async with aclosing(behavior(request, own)) as responses:
            while (response := await own.step(anext(responses, _END))) is not _END:
                await own.send_headers()
                yield response

    return limited


def _call(method: str, handler: Any, request: Any, context: Any) -> Call:
    return Call(method, None if handler.request_streaming else request, context)


async def _charged(call: Call, limits: AsyncRequestLimiter) -> TaskContext:
    exchange = CallExchange(limits, call, asyncio.get_running_loop())
    own = TaskContext(call.context, exchange)
    await own.step(own.charge())
    return own
