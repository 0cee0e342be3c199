"""One gRPC call: how it is read and refused, and the context of its handler. Knows no interceptor."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias, TypeVar
from urllib.parse import unquote

from ratekeeper.errors import MissingExtraError, RatekeeperError
from ratekeeper.http.exchange import CURRENT, Exchange
from ratekeeper.http.limiter import REFUSALS, AsyncRequestLimiter, RequestLimiter
from ratekeeper.http.options import wrong_rejection
from ratekeeper.http.request_limits import ASYNC_LIMITS, LIMITS
from ratekeeper.http.responses import Response, detail_of

try:
    import grpc
except ModuleNotFoundError:
    raise MissingExtraError("ratekeeper.frameworks.grpc", "grpc") from None

T = TypeVar("T")
Metadata: TypeAlias = tuple[tuple[str, str], ...]

_RETRY_AFTER = "Retry-After"
_PUSHBACK = "grpc-retry-pushback-ms"
"""The metadata that gRPC's own clients obey when they retry."""

_CODES = {  # all others are INVALID_ARGUMENT: a cost that is not a number, metadata that is repeated or too long
    403: grpc.StatusCode.PERMISSION_DENIED,  # a rule denies, or an attribute is missing
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,  # the store does not answer
}


class Call(NamedTuple):
    """A call: the argument of the user's functions."""

    method: str
    """The method's full name, "/package.Service/Method"."""
    request: Any
    """The message; None if the client sends a stream, which the handler reads."""
    context: Any
    """gRPC's own context, with the metadata, the peer, and its authentication."""


class CallExchange(Exchange):
    """A call, as gRPC reads it. It waits for its turn no longer than its deadline."""

    def __init__(
        self,
        limiter: RequestLimiter | AsyncRequestLimiter,
        call: Call,
        behavior: Callable[..., Any],
        loop: AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(limiter)
        self.loop = loop
        self._call = call
        self._behavior = behavior

    @property
    def native(self) -> Call:
        return self._call

    @property
    def method(self) -> str:
        return "POST"

    @property
    def path(self) -> str:
        return self._call.method

    @cached_property
    def lines(self) -> Sequence[tuple[bytes, bytes]]:  # pyright: ignore[reportIncompatibleMethodOverride]  # cached
        pairs = self._call.context.invocation_metadata() or ()
        return [(name.encode(), value.encode()) for name, value in pairs if not name.endswith("-bin")]

    @property
    def peer(self) -> str | None:
        kind, _, address = self._call.context.peer().partition(":")
        return unquote(address) if kind in ("ipv4", "ipv6") else None  # any other is a Unix socket

    def route(self) -> str:
        return self._call.method

    def functions(self) -> tuple[Any, ...]:
        return (self._behavior,)

    def time_left(self) -> float | None:
        seconds: float | None = self._call.context.time_remaining()
        return seconds


class LimitedContext:
    """A call's context, as its handler sees it: gRPC's own, with our initial metadata added to the handler's.

    It can be sent only once, so it is sent when the handler begins to answer: its own limits have decided then. A call
    that ends before that gets no initial metadata from us, as a client that has some does not retry.
    """

    def __init__(self, context: Any, exchange: CallExchange) -> None:
        self._context = context
        self._exchange = exchange
        self._sent = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def send_initial_metadata(self, initial_metadata: Any) -> Any:
        """Send initial metadata, with the headers about limits. On asyncio, await the result."""
        self._sent = self._exchange.begun = True
        return self._context.send_initial_metadata((*initial_metadata, *_lowered(self._exchange.limit_headers())))

    def refusal(self, answer: Any) -> tuple[grpc.StatusCode, str, Metadata]:
        """Return the status code, its details, and the trailing metadata. The user's own answer is the first two."""
        headers = self._exchange.limit_headers()
        if isinstance(answer, Response):
            headers += [(name, value) for name, value in answer.headers if name == _RETRY_AFTER]
            answer = _CODES.get(answer.status, grpc.StatusCode.INVALID_ARGUMENT), detail_of(answer)
        elif not _ends_a_call(answer):
            raise wrong_rejection(answer, "a status code and its details, such as (grpc.StatusCode.ABORTED, 'later')")
        headers += [(_PUSHBACK, f"{value}000") for name, value in headers if name == _RETRY_AFTER]
        return *answer, _lowered(headers)


class ThreadContext(LimitedContext):
    """The context of a handler that runs in a thread."""

    ratekeeper = LIMITS

    def send_headers(self) -> None:
        """Send initial metadata before the first answer, unless the handler has sent it."""
        if not self._sent and self._exchange.decisions:
            self.send_initial_metadata(())

    def charge(self) -> None:
        """Charge the call by the policy."""
        if (refusal := self._exchange.limiter.charge(self._exchange)) is not None:
            self._exchange.refuse(refusal)

    def step(self, part: Callable[..., T], *args: Any) -> T:
        """Run a part of the handler. End the call if a limit refuses."""
        try:
            return self._run(part, *args)
        except REFUSALS as error:  # from a limit, or from the application's own limiter
            self._context.abort(*self._status(error))  # raises gRPC's own error
            raise

    def step_of_stream(self, responses: Iterator[Any], end: Any) -> Any:
        """Return a stream's next answer, or `end` after its last. If a limit refuses, the stream ends with its status.

        `abort` would fail on a server on asyncio while an earlier answer is being sent, and the call would hang.
        """
        try:
            return self._run(next, responses, end)
        except REFUSALS as error:
            code, details = self._status(error)
            self._context.set_code(code)
            self._context.set_details(details)
            return end

    def _run(self, part: Callable[..., T], *args: Any) -> T:
        """Run a part of the handler, with the call as the current exchange."""
        token = CURRENT.set(self._exchange)
        try:
            return part(*args)
        finally:
            CURRENT.reset(token)

    def _status(self, error: RatekeeperError) -> tuple[grpc.StatusCode, str]:
        """Set the trailing metadata of a refusal. Return its status code and details."""
        code, details, trailing = self.refusal(self._exchange.limiter.answer(self._exchange, error))
        self._context.set_trailing_metadata(trailing)
        return code, details


class TaskContext(LimitedContext):
    """The context of a handler that runs on asyncio."""

    ratekeeper = ASYNC_LIMITS

    async def write(self, message: Any) -> None:
        await self.send_headers()
        await self._context.write(message)

    async def send_headers(self) -> None:
        """Send initial metadata before the first answer, unless the handler has sent it."""
        if not self._sent and self._exchange.decisions:
            await self.send_initial_metadata(())

    async def charge(self) -> None:
        """Charge the call by the policy."""
        if (refusal := await self._exchange.limiter.charge_async(self._exchange)) is not None:
            self._exchange.refuse(refusal)

    async def step(self, part: Awaitable[T]) -> T:
        """Run a part of the handler, with the call as the current exchange. End the call if a limit refuses."""
        exchange = self._exchange
        CURRENT.set(exchange)  # never reset: each call has its own task, and so its own context
        try:
            return await part
        except REFUSALS as error:
            await self._context.abort(*self.refusal(await exchange.limiter.answer_async(exchange, error)))
            raise


def _ends_a_call(answer: Any) -> bool:
    """Return whether a call can be refused with the answer of a `rejection`. OK would tell the client of success."""
    if not (isinstance(answer, tuple | list) and len(answer) == 2):
        return False
    code, details = answer
    return isinstance(code, grpc.StatusCode) and code is not grpc.StatusCode.OK and isinstance(details, str)


def _lowered(headers: list[tuple[str, str]]) -> Metadata:
    return tuple((name.lower(), value) for name, value in headers)


grpc.ServicerContext.register(ThreadContext)  # as gRPC's own is; on asyncio it is not
