"""The commands that a Redis client may use, by name. Knows no wire.

Redis clients ask some of them by themselves when they connect: HELLO, AUTH, CLIENT, SELECT, INFO, COMMAND.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import NamedTuple

from ratekeeper.service.core import Core
from ratekeeper.service.resp import connecting
from ratekeeper.service.resp.checks import Checks
from ratekeeper.service.resp.replies import bulk, encode, error, simple
from ratekeeper.service.resp.requests import MOST_ARGUMENTS
from ratekeeper.service.resp.session import MOST_LISTED, Answer, Handler, Session, SessionEnd
from ratekeeper.service.resp.throttle import Throttles

_OVERLAPPING = {b"CL.THROTTLE", b"RK.CHECK"}
_SAFE_WHEN_LOCKED = ("AUTH", "HELLO", "QUIT", "RESET")
_OF_BROWSERS = (b"POST", b"HOST:")


class Command(NamedTuple):
    """A command, and what COMMAND tells of it."""

    name: str
    run: Handler
    least: int
    most: int
    group: str
    summary: str

    @property
    def arity(self) -> int:
        """The number of arguments with the name, as Redis writes it: negative if it is the least."""
        return self.least if self.least == self.most else -self.least

    @property
    def info(self) -> list[object]:
        flags = [] if self.group == "connection" else ["fast"]
        keys = (1, 1, 1) if self.name == "CL.THROTTLE" else (0, 0, 0)
        return [self.name.lower(), self.arity, flags, *keys, [], [], [], []]

    @property
    def docs(self) -> dict[str, object]:
        return {"summary": self.summary, "since": "0.2.0", "group": self.group}


class Commands:
    """The commands on one core, which all connections of a process share."""

    def __init__(self, core: Core) -> None:
        checks = Checks(core)
        self._commands = {command.name: command for command in _commands(core, checks, self)}
        commands = self._commands.values()
        self._about: dict[tuple[bytes, bool], dict[str, bytes]] = {}
        for resp3 in (False, True):
            self._about[b"INFO", resp3] = {one.name: encode(one.info, resp3) for one in commands}
            self._about[b"DOCS", resp3] = {
                one.name: encode(one.name.lower(), resp3) + encode(one.docs, resp3) for one in commands
            }
        self.full = _Handlers(self._commands)
        allowed = {name: self._commands[name] for name in _SAFE_WHEN_LOCKED}
        self.locked = _Handlers(allowed, _unauthenticated) if core.password is not None else None
        self.ids = count(1)

    def _told(self, what: bytes, names: Sequence[str], resp3: bool) -> bytes:
        """Return the infos or docs of these commands, or of all. They are kept, as to encode them takes long."""
        about = self._about[what, resp3]
        if what == b"INFO":
            unknown = encode(None, resp3)
            infos = [about.get(name, unknown) for name in names or about]
            return b"*%d\r\n" % len(infos) + b"".join(infos)
        docs = [about[name] for name in names or about if name in about]
        head = b"%%%d\r\n" % len(docs) if resp3 else b"*%d\r\n" % (2 * len(docs))
        return head + b"".join(docs)

    def command(self, session: Session, request: list[bytes]) -> Answer:
        """Answer COMMAND and its subcommands."""
        what = request[1].upper() if len(request) > 1 else b"INFO"
        names = [name.decode("latin-1").upper() for name in request[2:]]
        if what == b"COUNT":
            return encode(len(self._commands), session.resp3)
        if what == b"LIST":
            return _listed(session, encode([name.lower() for name in self._commands], session.resp3))
        if what in (b"INFO", b"DOCS"):
            return _listed(session, self._told(what, names, session.resp3))
        return error("unknown subcommand of COMMAND: use COUNT, DOCS, INFO or LIST")


class _Handlers(dict[bytes, Handler]):
    """Handlers by the command's name, in any case. Finds one that answers for every other name."""

    def __init__(self, commands: Mapping[str, Command], other: Handler | None = None) -> None:
        self._other = other or _unknown
        self.update(dict.fromkeys(_OF_BROWSERS, _end))
        for name, command in commands.items():
            handler = command.run if name == "CL.THROTTLE" else _checked(command)  # it checks its own arguments
            self[name.encode()] = self[name.lower().encode()] = handler

    def __missing__(self, name: bytes) -> Handler:
        known = self.get(name.upper())
        return known or self._other


def is_alone(request: list[bytes]) -> bool:
    """Return whether a request must begin after the answers before it, and end before the requests after it.

    Decisions may overlap, so that a store on a server gets many at once. A request that waits for its turn may not.
    """
    return request[0].upper() not in _OVERLAPPING or b"TIMEOUT" in request


def _checked(command: Command) -> Handler:
    """Return the handler of a command that need not look at the number of its arguments."""
    name, run, least, most, _, summary = command
    wrong = error(f"wrong number of arguments for '{name.lower()}' command: {summary}")

    def answer(session: Session, request: list[bytes]) -> Answer:
        return run(session, request) if least <= len(request) <= most else wrong

    return answer


def _listed(session: Session, answer: bytes) -> bytes:
    """Return a long answer. So many in one piece that they would take much memory end the connection."""
    session.listed += len(answer)
    if session.listed > MOST_LISTED:
        raise SessionEnd(error("too many long answers at once: read the answers before you ask more"))
    return answer


def _unknown(_session: Session, request: list[bytes]) -> bytes:
    # The hint is the same for all: to look for the nearest name would cost more than a hundred decisions.
    name = request[0][:40].decode("latin-1")
    return error(f"unknown command '{name}': limits are asked by CL.THROTTLE and RK.CHECK; COMMAND LIST has all")


def _end(_session: Session, _request: list[bytes]) -> Answer:
    """End the connection without an answer: a web page tries to speak to us by HTTP."""
    raise SessionEnd(b"")


def _unauthenticated(_session: Session, _request: list[bytes]) -> bytes:
    return error("Authentication required.", "NOAUTH")


def _ping(session: Session, request: list[bytes]) -> bytes:
    return simple("PONG") if len(request) == 1 else bulk(request[1])


def _echo(_session: Session, request: list[bytes]) -> bytes:
    return bulk(request[1])


def _info(session: Session, _request: list[bytes]) -> bytes:
    return _listed(session, bulk(connecting.INFO))


def _commands(core: Core, checks: Checks, own: Commands) -> list[Command]:
    throttles = Throttles(core.store, core.metrics)
    password = core.password
    of_session: list[tuple[str, Callable[..., Answer], int, int, str]] = [
        ("AUTH", connecting.auth(password), 2, 3, "Authenticate: AUTH [default] password."),
        ("CLIENT", connecting.client, 2, 4, "Name the connection: CLIENT SETNAME, GETNAME, SETINFO or ID."),
        ("COMMAND", own.command, 1, MOST_ARGUMENTS, "Tell the commands: COMMAND [COUNT | DOCS | INFO | LIST]."),
        ("ECHO", _echo, 2, 2, "Return the argument: ECHO message."),
        ("HELLO", connecting.hello(password), 1, 7,
         "Choose the protocol: HELLO [2|3 [AUTH default password] [SETNAME name]]."),
        ("INFO", _info, 1, MOST_ARGUMENTS, "Tell the versions: INFO."),
        ("PING", _ping, 1, 2, "Return PONG, or the argument: PING [message]."),
        ("QUIT", connecting.quit_, 1, MOST_ARGUMENTS, "Close the connection: QUIT."),
        ("RESET", connecting.reset, 1, 1, "Make the connection as a new one is: RESET."),
        ("SELECT", connecting.select, 2, 2, "Choose the database: SELECT 0, the only one."),
    ]  # fmt: skip
    limits: list[tuple[str, Callable[..., Answer], int, int, str]] = [
        ("CL.THROTTLE", throttles.answer, 5, 6,
         "Ask for tokens of a bucket whose limit the caller says: CL.THROTTLE key max_burst count period [quantity]."),
        ("RK.CHECK", checks.check, 3, MOST_ARGUMENTS,
         "Decide a request by the policy: RK.CHECK attribute value [attribute value ...] [COST n] [TIMEOUT seconds] "
         "[WAIT yes|no]."),
        ("RK.RESET", checks.reset, 3, MOST_ARGUMENTS,
         "Forget what a request's buckets owe: RK.RESET attribute value [attribute value ...] [RULE name]."),
        ("RK.USAGE", checks.usage, 3, MOST_ARGUMENTS,
         "Tell how much of its limits a request has used: RK.USAGE attribute value [attribute value ...]."),
    ]  # fmt: skip
    return [
        Command(name, run, least, most, group, summary)
        for group, part in (("connection", of_session), ("limits", limits))
        for name, run, least, most, summary in part
    ]
