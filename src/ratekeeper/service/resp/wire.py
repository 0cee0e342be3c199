"""RESP as a wire: a Redis client's requests in, answers in their order out. Knows no socket and no command.

Answers that are ready leave in one write for each piece that came. On a local store these are all but the answers that
wait for a turn. A store on a server is asked for several decisions of a connection at once, up to a bound; beyond it,
nothing more is read. Every other request begins when the answers before it are there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Coroutine
from typing import Any

from ratekeeper.errors import RatekeeperError, StoreUnavailable
from ratekeeper.http.responses import detail_of, unavailable
from ratekeeper.service.bounds import Bounds
from ratekeeper.service.core import Core
from ratekeeper.service.resp.commands import Commands, is_alone
from ratekeeper.service.resp.replies import error
from ratekeeper.service.resp.requests import ProtocolError, RequestReader, read_requests
from ratekeeper.service.resp.session import Answer, Session, SessionEnd
from ratekeeper.service.wire import NEVER, Channel

_STOPS = error("the service stops: ask again")
_TOO_SLOW = error("Protocol error: the request did not come in time")
_UNAVAILABLE = error(detail_of(unavailable()))


class _Due:
    """An answer that its client waits for. `answer` is None until it is there, `later` its coroutine until it runs."""

    __slots__ = ("answer", "later")

    def __init__(self, answer: bytes | None = None, later: Coroutine[Any, Any, bytes] | None = None) -> None:
        self.answer = answer
        self.later = later


class RespWire:
    """One connection."""

    def __init__(self, core: Core, channel: Channel, bounds: Bounds) -> None:
        commands = core.shared(Commands)
        self._channel = channel
        self._bounds = bounds
        self._session = Session(next(commands.ids), commands.full, commands.locked)
        self._reader = RequestReader()
        self._ready: list[bytes] = []
        self._due: deque[_Due] = deque()  # the first one is not there yet
        self._next: list[bytes] | None = None  # a request that begins after all that are due
        self._alone = False  # no request begins before the one that is due
        self._paused = False
        self._last = False  # no request begins any more
        self._finishing = self._closed = False
        self._request_end = self._login_end = self._finish_end = NEVER
        self._quick = False  # nothing is due or left but the tail, so that a piece may be read at once
        self._tail = b""  # all that the reader has, if it is the beginning of a request
        self.deadline = NEVER
        self._settle()

    @property
    def unanswered(self) -> int:
        return len(self._due) + (self._next is not None)

    @property
    def idle(self) -> bool:
        return not self.unanswered

    def receive(self, data: bytes) -> None:
        if self._closed:
            return
        self._session.listed = 0
        if self._quick:
            piece = self._tail + data if self._tail else data
            requests, length = read_requests(piece)
            if requests:
                self._answer_all(piece, requests, length)
                return
        self._tail = b""
        self._reader.feed(data)
        self._go_on()

    def expire(self) -> None:
        """End a connection that sends half a request, no password, or nothing as the service stops."""
        self._close(b"" if self._finishing else _TOO_SLOW)

    def finish(self) -> None:
        """Answer everything that has come, or what comes in a moment, and close."""
        self._finishing = True
        self._go_on()

    def cut_off(self) -> None:
        """Say that what is due gets no answer, and close."""
        answers = [one.answer or _STOPS for one in self._due]
        self._close(b"".join(answers if self._next is None else [*answers, _STOPS]))

    def lost(self) -> None:
        self._closed = self._last = True
        for due in self._due:
            if due.later is not None:
                due.later.close()  # its task was cancelled before it began
        self._due.clear()
        self._next = None

    # Requests

    def _answer_all(self, piece: bytes, requests: list[list[bytes]], length: int) -> None:
        """Answer the requests of a piece, as far as no answer waits and the connection stays as it is.

        `length` is the number of their bytes. The rest of the piece is left to the reader.
        """
        session, answers = self._session, self._ready
        handlers, tail = session.handlers, self._tail
        if tail:  # it is read again, with the piece
            self._reader, self._tail = RequestReader(), b""
        for request in requests:
            try:
                answer = handlers[request[0]](session, request)
            except (RatekeeperError, SessionEnd) as error:
                answer = self._instead(error)
            if type(answer) is not bytes or session.handlers is not handlers or self._last:
                self._reader.feed(piece)
                for _ in range(len(answers) + 1):
                    self._reader.take()
                self._put(answer, is_alone(request))
                self._go_on(taken=True)
                return
            answers.append(answer)
        if tail or length < len(piece):
            self._tail = piece[length:]
            self._reader.feed(self._tail)
            self._go_on(taken=True)
            return
        self._channel.write(b"".join(answers))
        answers.clear()

    def _answer(self, request: list[bytes]) -> Answer:
        session = self._session
        try:
            return session.handlers[request[0]](session, request)
        except (RatekeeperError, SessionEnd) as error:
            return self._instead(error)

    def _instead(self, error: RatekeeperError | SessionEnd) -> bytes:
        """Return the answer that an error stands for."""
        if isinstance(error, SessionEnd):
            self._last = True
            return error.answer
        return _refusal(error)

    def _go_on(self, taken: bool = False) -> None:
        """Begin requests as far as the answers that are due allow, and write what is there.

        `taken` is whether a request of the newest piece has begun before.
        """
        self._collect()
        while not (self._last or self._full_of_due()):
            request = self._next or self._take()
            if request is None:
                break
            taken = True
            alone = is_alone(request)
            self._next = request if alone and self._due else None
            if self._next is None:
                self._put(self._answer(request), alone)
        answered = bool(self._ready)
        if answered:
            self._channel.write(b"".join(self._ready))
            self._ready = []
        self._settle(taken, answered)

    def _collect(self) -> None:
        """Take the answers that are there, up to the first one that is not."""
        due = self._due
        while due and (answer := due[0].answer) is not None:
            self._ready.append(answer)
            due.popleft()

    def _full_of_due(self) -> bool:
        return self._alone or len(self._due) >= self._bounds.pipelined or (self._next is not None and bool(self._due))

    def _take(self) -> list[bytes] | None:
        """Return the next request that has come to its end. Other bytes end the connection."""
        self._reader.trusted = self._session.authenticated
        try:
            request = self._reader.take()
        except ProtocolError as wrong:
            self._last = True
            self._put(error(f"Protocol error: {wrong}"))
            return None
        if request is not None:
            self._tail = b""
        return request

    def _put(self, answer: Answer, alone: bool = False) -> None:
        """Keep an answer in its place; run it if it waits."""
        if isinstance(answer, bytes):
            if self._due:
                self._due.append(_Due(answer))
            elif answer:  # else the connection ends without a word
                self._ready.append(answer)
            return
        due = _Due(later=answer)
        self._due.append(due)
        self._alone = alone
        self._channel.run(self._answer_later(due, answer))

    async def _answer_later(self, due: _Due, later: Coroutine[Any, Any, bytes]) -> None:
        due.later = None
        try:
            due.answer = await later
        except RatekeeperError as refused:
            due.answer = _refusal(refused)
        self._alone = False
        if not self._closed:
            self._go_on()

    # The connection

    def _settle(self, taken: bool = False, answered: bool = False) -> None:
        """Close, pause or read on, and set the deadline."""
        busy = bool(self._due)
        if not busy and (self._last or (self._finishing and answered)):
            self._close()
            return
        full = self._full_of_due()
        if full != self._paused:
            self._paused = full
            (self._channel.pause if full else self._channel.resume)()
        idle, known = self._reader.idle, self._session.authenticated
        self._quick = (idle or self._tail != b"") and known and not (busy or self._finishing)
        head_time = self._bounds.head_time
        self._request_end = self._until(head_time, self._request_end, not (idle or busy), anew=taken)
        self._login_end = self._until(head_time, self._login_end, not known)
        self._finish_end = self._until(self._bounds.last_time, self._finish_end, self._finishing and not busy)
        self.deadline = min(self._request_end, self._login_end, self._finish_end)

    def _until(self, seconds: float, before: float, applies: bool, anew: bool = False) -> float:
        """Return the end of a time that began `before`, or begins now."""
        if not applies:
            return NEVER
        return self._channel.now() + seconds if anew or before == NEVER else before

    def _close(self, last_words: bytes = b"") -> None:
        if not self._closed:
            self._closed = self._last = True
            if last_words:
                self._channel.write(last_words)
            self._channel.close()


def _refusal(refused: RatekeeperError) -> bytes:
    """Return the answer to a request that could not be decided. The cause of an outage is in the log only."""
    return _UNAVAILABLE if isinstance(refused, StoreUnavailable) else error(str(refused))
