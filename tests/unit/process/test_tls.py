"""The contexts of the listener, by handshakes in memory."""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path

import pytest

from streamproxy.config.model import ServerTls
from streamproxy.server.tls import ListenerTls, TlsError, server_context
from tests.doubles.certificates import Certificate, make_certificate


def settings(shown: Certificate, client_ca: Path | None = None) -> ServerTls:
    return ServerTls(cert=str(shown.cert), key=str(shown.key), client_ca=None if client_ca is None else str(client_ca))


class Session:
    """A client and a server, each other's bytes carried between them."""

    def __init__(
        self, server: ssl.SSLContext, client: ssl.SSLContext, name: str | None, session: ssl.SSLSession | None = None
    ) -> None:
        there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = client.wrap_bio(back, there, server_hostname=name, session=session)
        self.server = server.wrap_bio(there, back, server_side=True)
        for _ in range(4):
            self._step(self.client)
            self._step(self.server)
        self.server.write(b"hello")
        assert self.client.read() == b"hello"  # and the tickets before it

    @staticmethod
    def _step(side: ssl.SSLObject) -> None:
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()

    @property
    def certificate(self) -> bytes:
        shown = self.client.getpeercert(binary_form=True)
        assert shown is not None
        return shown


def der(certificate: Certificate) -> bytes:
    return ssl.PEM_cert_to_DER_cert(certificate.cert.read_text())


def trusting_anyone() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@pytest.mark.parametrize("name", ["localhost", None])
def test_a_handshake_sees_the_certificate_in_force_with_and_without_a_name(
    certificate: Certificate, tmp_path: Path, name: str | None
) -> None:
    other = make_certificate(tmp_path)
    tls = ListenerTls(settings(certificate))
    assert Session(tls.front, trusting_anyone(), name).certificate == der(certificate)
    swap = tls.prepare(settings(other))
    assert Session(tls.front, trusting_anyone(), name).certificate == der(certificate)
    swap()
    assert Session(tls.front, trusting_anyone(), name).certificate == der(other)


def test_files_that_do_not_fit_are_an_error_and_change_nothing(certificate: Certificate, tmp_path: Path) -> None:
    other = make_certificate(tmp_path)
    tls = ListenerTls(settings(certificate))
    with pytest.raises(TlsError, match=r"server\.tls cannot be used"):
        tls.prepare(settings(Certificate(certificate.cert, other.key)))
    with pytest.raises(TlsError):
        tls.prepare(settings(Certificate(tmp_path / "none", other.key)))
    assert Session(tls.front, trusting_anyone(), None).certificate == der(certificate)


def test_no_old_version_and_no_weak_cipher_is_spoken(certificate: Certificate) -> None:
    context = server_context(settings(certificate))
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    names = {cipher["name"] for cipher in context.get_ciphers() if cipher["protocol"] == "TLSv1.2"}
    assert names
    assert all(name.startswith("ECDHE-") and ("GCM" in name or "CHACHA20" in name) for name in names)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_is_resumed_after_the_certificate_was_renewed(
    certificate: Certificate, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    tls = ListenerTls(settings(certificate))
    client = trusting_anyone()
    client.maximum_version = version
    first = Session(tls.front, client, "localhost")
    tls.prepare(settings(make_certificate(tmp_path)))()
    assert Session(tls.front, client, "localhost", first.client.session).client.session_reused


@pytest.mark.parametrize(
    ("version", "why"),
    [
        (ssl.TLSVersion.TLSv1_2, "the session is older than the authorities"),
        (ssl.TLSVersion.TLSv1_3, "CERTIFICATE_VERIFY_FAILED"),  # such sessions were not offered
    ],
)
def test_no_session_is_resumed_past_a_change_of_the_authorities(
    certificate: Certificate, tmp_path: Path, version: ssl.TLSVersion, why: str
) -> None:
    tls = ListenerTls(settings(certificate, certificate.cert))
    client = trusting_anyone()
    client.maximum_version = version
    client.load_cert_chain(certificate.cert, certificate.key)
    first = Session(tls.front, client, "localhost")  # OpenSSL forgets the session of one that is not closed in order
    tls.prepare(settings(certificate, make_certificate(tmp_path).cert))()
    with pytest.raises(ssl.SSLError, match=why):
        Session(tls.front, client, "localhost", first.client.session)


@pytest.mark.parametrize("method", [b"GET", b"POST", b"PUT", b"HEAD"])
def test_plain_http_is_answered_in_plain_http_and_the_rest_of_it_is_dropped(
    certificate: Certificate, method: bytes
) -> None:
    rejected: list[int] = []
    front = ListenerTls(settings(certificate)).front
    front.on_rejected = lambda status, _: rejected.append(status)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = front.wrap_bio(there, back, server_side=True)
    there.write(method + b" / HTTP/1.1\r\nHost: a\r\n\r\n")
    with pytest.raises(ssl.SSLWantReadError):
        server.do_handshake()
    head, _, body = back.read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"use https" in body
    there.write(b"x" * 100_000)
    with pytest.raises(ssl.SSLWantReadError):
        server.do_handshake()
    assert (there.pending, back.pending, rejected) == (0, 0, [400])


def test_what_is_neither_tls_nor_http_is_not_answered(certificate: Certificate) -> None:
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = ListenerTls(settings(certificate)).front.wrap_bio(there, back, server_side=True)
    there.write(b"SSH-2.0-OpenSSH_9.9\r\n")
    with pytest.raises(ssl.SSLError, match=r"WRONG_VERSION_NUMBER|wrong version"):
        server.do_handshake()
    assert not back.read().startswith(b"HTTP")
