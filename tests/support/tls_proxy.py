"""TLS before a real server that speaks none: a self-made certificate, and a proxy that takes the TLS off."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from needs import need_program


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Return the files of a certificate for 127.0.0.1, signed by itself, and of its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([need_program("openssl"), *request, *files], check=True, capture_output=True)
    return certificate, key


@contextmanager
def tls_proxy(to: int, certificate: Path, key: Path) -> Iterator[int]:
    """A proxy before the server at this port; yields its own port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    loop = asyncio.new_event_loop()
    starting = asyncio.start_server(lambda *ends: _relay(to, *ends), "127.0.0.1", 0, ssl=context)
    server = loop.run_until_complete(starting)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(_stop(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _stop(server: asyncio.Server) -> None:
    server.close()
    relays = asyncio.all_tasks() - {asyncio.current_task()}
    for relay in relays:
        relay.cancel()
    await asyncio.gather(*relays, return_exceptions=True)


async def _relay(to: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    behind, ahead = await asyncio.open_connection("127.0.0.1", to)
    with suppress(OSError, asyncio.CancelledError):
        await asyncio.gather(_copy(reader, ahead), _copy(behind, writer))
    ahead.close()
    writer.transport.abort()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        target.write(data)
        await target.drain()
    target.close()
