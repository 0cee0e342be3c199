"""gRPC: interceptors that limit the methods of a server, of threads or of asyncio. Knows no servicer and no message.

A handler is wrapped in a handler of the same kind: by the kind, the server knows how to run it. Messages pass through
as they are. How a call is read and refused is in `grpc_call`.
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
from ratekeeper.http import rate_limit as http
from ratekeeper.http.endpoints import exempt
from ratekeeper.http.header_styles import DEFAULT, checked_styles
from ratekeeper.http.limiter import AsyncRequestLimiter, RequestLimiter
from ratekeeper.http.options import Options
from ratekeeper.http.request_limits import AsyncRequestLimits, RequestLimits
from ratekeeper.policy.model import Policy
from ratekeeper.stores.base import AsyncStore, Store

try:
    import grpc
    from grpc import aio
except ModuleNotFoundError:
    raise MissingExtraError("ratekeeper.frameworks.grpc", "grpc") from None

__all__ = [
    "AsyncRateLimitInterceptor",
    "AsyncRequestLimits",
    "Call",
    "RateLimitInterceptor",
    "RequestLimits",
    "exempt",
    "rate_limit",
]

Behavior: TypeAlias = Callable[[Any, Any], Any]

P = ParamSpec("P")
R = TypeVar("R")

_END = object()


class rate_limit(http.rate_limit):  # noqa: N801
    """Limit a method of a servicer: as in every framework, and generators too."""

    def _limited(self, function: Callable[P, R]) -> Callable[P, R]:
        if inspect.isasyncgenfunction(function):

            @super()._limited
            @wraps(function)
            async def begin_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                return function(*args, **kwargs)

            @wraps(function)
            async def stream_async(*args: P.args, **kwargs: P.kwargs) -> AsyncIterator[Any]:
                async with aclosing(await begin_async(*args, **kwargs)) as responses:
                    async for response in responses:
                        yield response

            return cast("Callable[P, R]", _marked(stream_async, begin_async))
        if inspect.isgeneratorfunction(function):

            @super()._limited
            @wraps(function)
            def begin(*args: P.args, **kwargs: P.kwargs) -> Any:
                return function(*args, **kwargs)

            @wraps(function)
            def stream(*args: P.args, **kwargs: P.kwargs) -> Iterator[Any]:
                yield from begin(*args, **kwargs)

            return cast("Callable[P, R]", _marked(stream, begin))
        return super()._limited(function)


def _marked(stream: Any, begin: Any) -> Any:
    """Return the function of a stream, with the mark of the limited function that begins it."""
    stream.__dict__[http.LIMIT] = begin.__dict__[http.LIMIT]
    return stream


def _check_headers(options: Options) -> None:
    """Raise ValueError for a date in retry-after, which clients of gRPC do not read."""
    styles = checked_styles(options.get("headers", DEFAULT))
    if styles is not None and "retry-after-date" in styles:
        raise ValueError("headers cannot have 'retry-after-date' in gRPC, whose clients read seconds: leave it out")


class RateLimitInterceptor(grpc.ServerInterceptor):
    """`grpc.server(pool, interceptors=[RateLimitInterceptor("policy.toml")])`: decide each call by a policy.

    `policy` is a `Policy`, or the name of its file. `store` is a store, or its string, such as "redis://localhost"; the
    default is the policy's, or else the process's memory. The options are `ratekeeper.http.options.Options`. Their
    functions get the `Call`. `rejection` returns a status code and its details. A method's own limit is `rate_limit` on
    the servicer's method. Call `close` at the end: gRPC does not tell an interceptor when the server stops.

    Attributes: `path` and `route` are the method's full name, "/package.Service/Method"; `method` is always POST;
    headers are the invocation metadata, without binary ones ("-bin"); `client` is the peer's address.

    The headers about limits are initial metadata of the answer. A refused call ends with RESOURCE_EXHAUSTED, and has
    them in its trailing metadata, with the time to wait: `retry-after` in seconds, and `grpc-retry-pushback-ms`, which
    gRPC's own clients obey when they retry. A call without a required attribute ends with PERMISSION_DENIED, a bad cost
    with INVALID_ARGUMENT, and UNAVAILABLE means that the store does not answer. The servicer's own errors stay as they
    are. A call waits for its turn, if its rules let it, in a thread of the pool, and never longer than its deadline.
    An unknown method is not counted: gRPC answers it.
    """

    def __init__(
        self,
        policy: Policy | str | PathLike[str] | None = None,
        *,
        store: Store | str | None = None,
        **options: Unpack[Options],
    ) -> None:
        _check_headers(options)
        self.limiter = RequestLimiter(policy, store=store, **options)

    def close(self) -> None:
        """Stop watching the policy's file. Close the store if it was opened here. Call it after the server."""
        self.limiter.close()

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        handler, method = continuation(handler_call_details), handler_call_details.method
        return handler and _wrapped(handler, lambda behavior: _limited(method, handler, behavior, self.limiter))


class AsyncRateLimitInterceptor(aio.ServerInterceptor):
    """`grpc.aio.server(interceptors=[AsyncRateLimitInterceptor("policy.toml")])`: as `RateLimitInterceptor`.

    The options' functions may be async, and so may the store. A call that waits for its turn blocks nothing. Handlers
    that are not async are limited too: the server runs them in threads.
    """

    def __init__(
        self,
        policy: Policy | str | PathLike[str] | None = None,
        *,
        store: Store | AsyncStore | str | None = None,
        **options: Unpack[Options],
    ) -> None:
        _check_headers(options)
        self.limiter = AsyncRequestLimiter(policy, store=store, **options)

    async def close(self) -> None:
        """Stop watching the policy's file. Close the store if it was opened here."""
        await self.limiter.close()

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        handler, method = await continuation(handler_call_details), handler_call_details.method
        loop = asyncio.get_running_loop()

        def wrap(behavior: Behavior) -> Behavior:
            if inspect.isasyncgenfunction(behavior):
                return _limited_generator(method, handler, behavior, self.limiter)
            if inspect.iscoroutinefunction(behavior):
                return _limited_coroutine(method, handler, behavior, self.limiter)
            return _limited(method, handler, behavior, self.limiter, loop)

        return handler and _wrapped(handler, wrap)


def _wrapped(handler: Any, wrap: Callable[[Behavior], Behavior]) -> Any:
    """Return a handler of the same kind and serialisers, with the wrapped function."""
    kind = "_".join("stream" if one else "unary" for one in (handler.request_streaming, handler.response_streaming))
    make = getattr(grpc, f"{kind}_rpc_method_handler")
    return make(wrap(getattr(handler, kind)), handler.request_deserializer, handler.response_serializer)


def _limited(
    method: str,
    handler: Any,
    behavior: Behavior,
    limiter: RequestLimiter | AsyncRequestLimiter,
    loop: asyncio.AbstractEventLoop | None = None,
) -> Behavior:
    """Return the limited function of a handler that runs in a thread, of a server of threads or on `loop`."""

    def charged(request: Any, context: Any) -> ThreadContext:
        exchange = CallExchange(limiter, _call(method, handler, request, context), behavior, loop)
        own = ThreadContext(context, exchange)
        own.step(own.charge)
        return own

    def limited(request: Any, context: Any) -> Any:
        own = charged(request, context)
        answer = own.step(behavior, request, own)
        own.send_headers()
        return answer

    def limited_stream(request: Any, context: Any) -> Iterator[Any]:
        # A generator: a server on asyncio calls the function on its loop, and only the generator's steps in threads.
        own = charged(request, context)
        responses = own.step(behavior, request, own)
        while (response := own.step_of_stream(responses, _END)) is not _END:
            own.send_headers()
            yield response

    return limited_stream if handler.response_streaming else limited


def _limited_coroutine(method: str, handler: Any, behavior: Behavior, limiter: AsyncRequestLimiter) -> Behavior:
    async def limited(request: Any, context: Any) -> Any:
        own = await _charged(_call(method, handler, request, context), behavior, limiter)
        answer = await own.step(behavior(request, own))
        await own.send_headers()
        return answer

    return limited


def _limited_generator(method: str, handler: Any, behavior: Behavior, limiter: AsyncRequestLimiter) -> Behavior:
    async def limited(request: Any, context: Any) -> AsyncIterator[Any]:
        own = await _charged(_call(method, handler, request, context), behavior, limiter)
        async with aclosing(behavior(request, own)) as responses:
            while (response := await own.step(anext(responses, _END))) is not _END:
                await own.send_headers()
                yield response

    return limited


def _call(method: str, handler: Any, request: Any, context: Any) -> Call:
    return Call(method, None if handler.request_streaming else request, context)


async def _charged(call: Call, behavior: Behavior, limiter: AsyncRequestLimiter) -> TaskContext:
    exchange = CallExchange(limiter, call, behavior, asyncio.get_running_loop())
    own = TaskContext(call.context, exchange)
    await own.step(own.charge())
    return own
