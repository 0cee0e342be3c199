"""The commands by which a Redis client opens, names and closes its connection. Knows no wire and no limit."""

from __future__ import annotations

import hmac

import ratekeeper
from ratekeeper.service.resp.replies import encode, error, simple
from ratekeeper.service.resp.session import Handler, Session, SessionEnd

_USER = b"default"
_LONGEST_NAME = 128
_OK = simple("OK")
_WRONG = error("invalid username-password pair or user is disabled.", "WRONGPASS")
_STRANGER = error(
    "HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option "
    "can be used to authenticate the client and select the RESP protocol version at the same time",
    "NOAUTH",
)
_SYNTAX = error("syntax error in HELLO: it is HELLO [2|3 [AUTH default password] [SETNAME name]]")
_BAD_NAME = error(f"Client names have at most {_LONGEST_NAME} bytes, and no spaces, newlines or special characters.")

INFO = (
    "# Server\r\n"
    "redis_version:7.4.0\r\n"  # of the protocol; clients compare it
    f"ratekeeper_version:{ratekeeper.__version__}\r\n"
    "redis_mode:standalone\r\n"
    "# Persistence\r\n"
    "loading:0\r\n"
    "# Replication\r\n"
    "role:master\r\n"
).encode("ascii")


def auth(password: bytes | None) -> Handler:
    """Return the handler of AUTH [user] password."""

    def answer(session: Session, request: list[bytes]) -> bytes:
        if password is None:
            return error("AUTH called, but the service has no password: see --resp-password-file")
        user = request[1] if len(request) == 3 else _USER
        if not _allowed(user, request[-1], password):
            return _WRONG
        session.authenticate()
        return _OK

    return answer


def hello(password: bytes | None) -> Handler:
    """Return the handler of HELLO [version [AUTH user password] [SETNAME name]]. A refused one changes nothing."""

    def answer(session: Session, request: list[bytes]) -> bytes:
        options = _hello_options(request)
        if isinstance(options, bytes):
            return options
        version, credentials, name = options
        if credentials is not None and password is not None and not _allowed(*credentials, password):
            return _WRONG
        if credentials is None and not session.authenticated:
            return _STRANGER
        session.authenticate()
        session.name = session.name if name is None else name
        session.resp3 = session.resp3 if version is None else version == 3
        return _greeting(session)

    return answer


def client(session: Session, request: list[bytes]) -> bytes:
    """Answer CLIENT SETNAME, GETNAME, SETINFO and ID."""
    what, values = request[1].upper(), request[2:]
    if what == b"SETNAME" and len(values) == 1:
        if not _is_name(values[0]):
            return _BAD_NAME
        session.name = values[0]
        return _OK
    if what == b"GETNAME" and not values:
        return encode(session.name or None, session.resp3)
    if what == b"SETINFO" and len(values) == 2:
        known = values[0].lower() in (b"lib-name", b"lib-ver")
        return _OK if known else error("unknown option of CLIENT SETINFO: use LIB-NAME or LIB-VER")
    if what == b"ID" and not values:
        return b":%d\r\n" % session.id
    return error("unknown subcommand or wrong number of arguments of CLIENT: use SETNAME, GETNAME, SETINFO or ID")


def select(_session: Session, request: list[bytes]) -> bytes:
    """Answer SELECT: there is one database."""
    return _OK if request[1] == b"0" else error("DB index is out of range: there is only 0")


def reset(session: Session, _request: list[bytes]) -> bytes:
    """Answer RESET."""
    session.reset()
    return simple("RESET")


def quit_(_session: Session, _request: list[bytes]) -> bytes:
    """Answer QUIT, and end the connection."""
    raise SessionEnd(_OK)


def _hello_options(request: list[bytes]) -> tuple[int | None, tuple[bytes, bytes] | None, bytes | None] | bytes:
    """Return the version, the user and password, and the name; or the error in the arguments."""
    version, credentials, name = None, None, None
    if len(request) > 1:
        if request[1] not in (b"2", b"3"):
            return error("unsupported protocol version", "NOPROTO")
        version = int(request[1])
    rest = request[2:]
    while rest:
        option = rest[0].upper()
        if option == b"AUTH" and len(rest) >= 3:
            credentials, rest = (rest[1], rest[2]), rest[3:]
        elif option == b"SETNAME" and len(rest) >= 2:
            name, rest = rest[1], rest[2:]
            if not _is_name(name):
                return _BAD_NAME
        else:
            return _SYNTAX
    return version, credentials, name


def _greeting(session: Session) -> bytes:
    about: dict[str, object] = {
        "server": "ratekeeper",
        "version": ratekeeper.__version__,
        "proto": 3 if session.resp3 else 2,
        "id": session.id,
        "mode": "standalone",
        "role": "master",
        "modules": [],
    }
    return encode(about, session.resp3)


def _allowed(user: bytes, stated: bytes, password: bytes) -> bool:
    right = hmac.compare_digest(stated, password)  # in constant time
    return right and user == _USER


def _is_name(name: bytes) -> bool:
    return len(name) <= _LONGEST_NAME and all(0x21 <= byte <= 0x7E for byte in name)
