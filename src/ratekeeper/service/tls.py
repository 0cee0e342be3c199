"""TLS: the certificate that the service shows, and the clients that it takes. Knows no protocol and no connection.

A changed certificate is taken by itself, for the connections from then on: each process looks at the files. A pair that
does not fit together, as while it is being written, changes nothing.
"""

from __future__ import annotations

import logging
import os
import ssl
from dataclasses import dataclass
from typing import TypeAlias

from ratekeeper.errors import RatekeeperError
from ratekeeper.policy.watch import status_of

ALPN = {"http": "http/1.1", "grpc": "h2"}
"""The protocol inside TLS that a client may ask for, on each of our sockets."""

_log = logging.getLogger("ratekeeper")

_Status: TypeAlias = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The files of a certificate with its chain, of its key, and of the authorities of clients, or None."""

    certificate: str
    key: str
    client_authorities: str | None = None

    def context(self, kind: str) -> ssl.SSLContext:
        """Return a context for the sockets of a protocol: TLS 1.2 or newer. Raise `RatekeeperError` for a bad file."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        if kind in ALPN:
            context.set_alpn_protocols([ALPN[kind]])
        file = self.certificate
        try:
            # Without a password, a key that needs one would ask the terminal.
            context.load_cert_chain(self.certificate, self.key, password="")
            if self.client_authorities is not None:
                file = self.client_authorities
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(file)
        except ssl.SSLError as error:
            what = error.reason or "not in PEM form"
            both = f"{self.certificate} with {self.key}" if file == self.certificate else file
            raise RatekeeperError(f"TLS cannot use {both}: {what.lower().replace('_', ' ')}") from None
        except OSError as error:
            name = next((name for name in self._names() if not os.access(name, os.R_OK)), file)
            raise RatekeeperError(f"TLS cannot read {name}: {error.strerror}") from None
        return context

    def status(self) -> _Status:
        """Return the numbers that change when a file does, or the right to read it; 0 for one that is not there."""
        return tuple(map(status_of, self._names()))

    def _names(self) -> list[str]:
        return [name for name in (self.certificate, self.key, self.client_authorities) if name is not None]


class Tls:
    """The context of each protocol, of the files as they are now."""

    def __init__(self, files: TlsFiles, kinds: list[str]) -> None:
        self._files = files
        self._seen = self._taken = files.status()
        self._contexts = {kind: files.context(kind) for kind in kinds}

    def __getitem__(self, kind: str) -> ssl.SSLContext:
        """Return the context for a new connection."""
        return self._contexts[kind]

    def look(self) -> None:
        """Take the files if they have changed, and have rested since the last look."""
        now = self._files.status()
        rested, self._seen = now == self._seen, now
        if not rested or now == self._taken:
            return
        self._taken = now
        try:
            self._contexts = {kind: self._files.context(kind) for kind in self._contexts}
        except RatekeeperError as error:
            _log.error("the last good certificate stays in use: %s", error)
        else:
            _log.info("%s is in use", self._files.certificate)
