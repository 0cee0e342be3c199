"""TLS at the service's own sockets: with real certificates, and real clients of HTTP, gRPC and RESP."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from needs import need_program
from servers import PATIENCE
from service_process import Running, poll, running

from ratekeeper.errors import RatekeeperError
from ratekeeper.service.tls import Tls, TlsFiles

pytestmark = pytest.mark.slow

POLICY = "rules = [{name = 'all', limit = '1000/hour'}]"


def openssl(*words: str | Path) -> None:
    subprocess.run([need_program("openssl"), *map(str, words)], check=True, capture_output=True, timeout=60)


class Authority:
    """An authority of a test, which signs certificates."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.certificate, self._key = folder / "ca.pem", folder / "ca.key"
        request: list[str] = ["req", "-x509", *EC, "-days", "2", "-subj", "/CN=authority"]
        request += ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
        openssl(*request, "-keyout", self._key, "-out", self.certificate)

    def sign(self, name: str) -> tuple[str, str]:
        """Return the files of a new certificate for 127.0.0.1, and of its key."""
        certificate, key, asked = (self.folder / f"{name}.{end}" for end in ("pem", "key", "csr"))
        asking = ["req", *EC, "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
        openssl(*asking, "-keyout", key, "-out", asked)
        signing: list[str | Path] = ["x509", "-req", "-in", asked, "-CA", self.certificate, "-CAkey", self._key]
        openssl(*signing, "-days", "2", "-copy_extensions", "copy", "-out", certificate)
        return str(certificate), str(key)


EC = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "authority")


@pytest.fixture(scope="module")
def files(authority: Authority) -> tuple[str, str]:
    return authority.sign("server")


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    file = tmp_path / "policy.toml"
    file.write_text(POLICY)
    return file


@contextmanager
def served(policy: Path, files: tuple[str, str], *options: str) -> Iterator[Running]:
    with running(policy, "--tls-cert", files[0], "--tls-key", files[1], *options) as service:
        yield service


def trusting(authority: Authority, own: tuple[str, str] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.certificate))
    if own is not None:
        context.load_cert_chain(*own)
    return context


def address_of(service: Running) -> tuple[str, int]:
    return "127.0.0.1", int(service.said.partition("https://127.0.0.1:")[2].partition("/")[0])


def base_of(service: Running) -> str:
    host, port = address_of(service)
    return f"https://{host}:{port}"


def serial(service: Running) -> str:
    """Return the certificate that the service shows to a new connection."""
    return ssl.get_server_certificate(address_of(service))


@pytest.mark.parametrize("workers", ["1", "2"])
def test_http_is_answered_over_tls_and_a_changed_certificate_is_taken(
    policy: Path, authority: Authority, tmp_path: Path, workers: str
) -> None:
    files = str(tmp_path / "own.pem"), str(tmp_path / "own.key")
    for own, signed in zip(files, authority.sign("first"), strict=True):
        shutil.copy(signed, own)
    with served(policy, files, "--workers", workers) as service:
        url = base_of(service)
        with httpx.Client(verify=trusting(authority), base_url=url) as client:
            assert client.get("/check").status_code == 200
            first = serial(service)
            for own, signed in zip(files, authority.sign("second"), strict=True):
                shutil.copy(signed, own)
            poll(lambda: first not in {serial(service) for _ in range(8)})
            assert client.get("/check").status_code == 200, "a connection goes on with the certificate that it has"
            (tmp_path / "own.pem").write_text("no certificate")
            poll(lambda: "the last good certificate stays in use: TLS cannot use" in service.log)
            assert httpx.get(f"{url}/healthz", verify=trusting(authority)).status_code == 200


def test_only_clients_with_a_certificate_of_the_authority_are_taken(
    policy: Path, files: tuple[str, str], authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path / "other").sign("stranger")
    with served(policy, files, "--tls-client-ca", str(authority.certificate)) as service:
        url = f"{base_of(service)}/check"
        assert httpx.get(url, verify=trusting(authority, authority.sign("client"))).status_code == 200
        for context in (trusting(authority), trusting(authority, other)):
            with pytest.raises(httpx.TransportError):
                httpx.get(url, verify=context)


def test_tls_before_1_2_and_bytes_in_clear_are_refused_and_leave_no_trace(
    policy: Path, files: tuple[str, str], authority: Authority
) -> None:
    with served(policy, files) as service:
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings(action="ignore"):
            old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        with socket.create_connection(address_of(service), PATIENCE) as client, pytest.raises((ssl.SSLError, OSError)):
            old.wrap_socket(client)
        for sent in (b"GET /check HTTP/1.1\r\nHost: a\r\n\r\n", os.urandom(3000), b"\x16\x03\x01\xff\xff" * 100):
            with socket.create_connection(address_of(service), PATIENCE) as client:
                client.sendall(sent)
                client.shutdown(socket.SHUT_WR)
                assert b"HTTP/1.1" not in client.recv(1000)
        url = f"{base_of(service)}/check"
        assert httpx.get(url, verify=trusting(authority)).status_code == 200
        assert "Traceback" not in service.log


def test_a_unix_socket_stays_in_clear(policy: Path, files: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    client = httpx.Client(transport=httpx.HTTPTransport(uds=str(path)))
    with client, served(policy, files, "--port", f"unix:{path}"):
        assert client.get("http://localhost/check").status_code == 200


def test_grpc_and_redis_clients_speak_tls(policy: Path, files: tuple[str, str], authority: Authority) -> None:
    import grpc  # noqa: PLC0415
    import redis  # noqa: PLC0415

    with served(policy, files, "--grpc", "127.0.0.1:0", "--resp", "127.0.0.1:0") as service:
        ports = [service.said.partition(f"{kind} at 127.0.0.1:")[2].split()[0] for kind in ("gRPC", "(RESP)")]
        client = redis.Redis(
            host="127.0.0.1",
            port=int(ports[1]),
            ssl=True,
            ssl_ca_certs=str(authority.certificate),
            socket_timeout=PATIENCE,
        )
        assert client.ping()
        client.close()
        trusted = grpc.ssl_channel_credentials(authority.certificate.read_bytes())
        with grpc.secure_channel(f"127.0.0.1:{ports[0]}", trusted) as channel:
            check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
            assert check(b"", timeout=PATIENCE) == b"\x08\x01"


def test_files_that_cannot_be_used_are_named(tmp_path: Path, files: tuple[str, str], authority: Authority) -> None:
    other = authority.sign("other")
    nothing = tmp_path / "nothing.pem"
    for wrong, said in [
        (TlsFiles(files[0], other[1]), "TLS cannot use .*server.pem with .*other.key: key values mismatch"),
        (TlsFiles(str(nothing), files[1]), "TLS cannot read .*nothing.pem: No such file"),
        (TlsFiles(*files, str(nothing)), "TLS cannot read .*nothing.pem: No such file"),
        (TlsFiles(files[1], files[1]), "TLS cannot use .*server.key with .*server.key: "),
    ]:
        with pytest.raises(RatekeeperError, match=said):
            wrong.context("http")
    locked = tmp_path / "locked.key"
    openssl("ec", "-in", files[1], "-aes256", "-passout", "pass:secret", "-out", locked)
    with pytest.raises(RatekeeperError, match="TLS cannot use"):
        TlsFiles(files[0], str(locked)).context("http")


def test_a_pair_that_is_half_written_changes_nothing(tmp_path: Path, authority: Authority) -> None:
    first, second = authority.sign("one"), authority.sign("two")
    own = str(tmp_path / "c.pem"), str(tmp_path / "c.key")
    for name, signed in zip(own, first, strict=True):
        shutil.copy(signed, name)
    tls = Tls(TlsFiles(*own), ["http"])
    before = tls["http"]
    shutil.copy(second[0], own[0])
    for _ in range(5):
        tls.look()
    assert tls["http"] is before
    shutil.copy(second[1], own[1])
    tls.look()
    assert tls["http"] is before, "it has not rested"
    tls.look()
    assert tls["http"] is not before


def test_a_key_that_could_not_be_read_is_taken_when_its_permissions_are_mended(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = str(tmp_path / "c.pem"), str(tmp_path / "c.key")
    for name, signed in zip(own, authority.sign("one"), strict=True):
        shutil.copy(signed, name)
    tls = Tls(TlsFiles(*own), ["http"])
    before = tls["http"]
    for name, signed in zip(own, authority.sign("two"), strict=True):
        shutil.copy(signed, name)
    os.chmod(own[1], 0)
    with monkeypatch.context() as unreadable:  # root may read all
        unreadable.setattr(ssl.SSLContext, "load_cert_chain", forbidden)
        for _ in range(3):
            tls.look()
    assert tls["http"] is before
    os.chmod(own[1], 0o600)
    for _ in range(2):
        tls.look()
    assert tls["http"] is not before


def forbidden(*_: object, **__: object) -> None:
    raise PermissionError(13, "Permission denied")
