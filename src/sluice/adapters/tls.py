"""TLS: contexts from PEM files, and OpenSSL's errors in words that name the setting."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from sluice.errors import Misconfigured

AFTER_HANDSHAKE_S = 1.0
"""How long a server may take to say that it does not like our certificate."""
OLDEST = ssl.TLSVersion.TLSv1_2


@dataclass(frozen=True, slots=True)
class Files:
    """PEM files of one section of the settings; "" for none. section: for errors."""

    section: str
    ca: str = ""
    cert: str = ""
    key: str = ""


def client_context(files: Files) -> ssl.SSLContext:
    """For a client: the server's certificate and its name are always verified.

    Raises Misconfigured, naming the key.
    """
    _readable(files.ca, f"{files.section}.ca_file")
    try:
        context = ssl.create_default_context(cafile=files.ca or None)
    except (OSError, ssl.SSLError) as exc:
        raise _unusable("no CA bundle", f"{files.section}.ca_file, {files.ca}", exc) from exc
    context.minimum_version = OLDEST
    _own(files, context)
    return context


class ServerTls:
    """The context of a server, whose certificate is read again when the files change.

    files.ca: whoever connects must have a certificate of it. Raises Misconfigured.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = OLDEST
        self.context.set_alpn_protocols(["http/1.1"])
        self._seen = self._signature()
        if not files.cert:
            raise Misconfigured(
                "TLS needs a certificate", where=f"{files.section}.cert_file", fix="a PEM file"
            )
        _own(files, self.context)
        if files.ca:
            where = f"{files.section}.client_ca_file"
            _readable(files.ca, where)
            try:
                self.context.load_verify_locations(cafile=files.ca)
            except ssl.SSLError as exc:
                raise _unusable("no CA bundle", f"{where}, {files.ca}", exc) from exc
            self.context.verify_mode = ssl.CERT_REQUIRED

    def poll(self) -> bool:
        """Take a new certificate for connections from now on; False if nothing changed.

        Raises Misconfigured if it is wrong: the last good one stays, and the same is not looked at
        again.
        """
        now = self._signature()
        if now == self._seen:
            return False
        self._seen = now
        # A failed load would leave the context with half of it: it is tried on another first.
        _own(self._files, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), self.context)
        return True

    def _signature(self) -> tuple[tuple[int, int, int], ...]:
        found = []
        for name in (self._files.cert, self._files.key):
            try:
                stat = Path(name).stat()
            except OSError:
                found.append((0, 0, 0))
            else:
                found.append((stat.st_ino, stat.st_mtime_ns, stat.st_size))
        return tuple(found)


def _own(files: Files, *contexts: ssl.SSLContext) -> None:
    """Load our own certificate, if there is one, and see that it is good today. All contexts get
    the same bytes, whatever becomes of the files meanwhile: cert and key are renewed one by one."""
    if not files.cert and not files.key:
        return
    where = f"{files.section}.cert_file"
    cert, key = (
        _own_file(name, of) for name, of in ((files.cert, where), (files.key, _key_of(files)))
    )
    check_dates(cert, f"{where}, {files.cert}")
    try:
        with _path_of(cert) as cert_path, _path_of(key) as key_path:
            for context in contexts:
                context.load_cert_chain(cert_path, key_path, password=_no_password)
    except ssl.SSLError as exc:
        if exc.reason == "KEY_VALUES_MISMATCH":
            raise Misconfigured(
                "the private key is not the certificate's", where=f"{_key_of(files)}, {files.key}"
            ) from exc
        raise _unusable("no certificate and key", f"{where}, {files.cert}", exc) from exc


def _key_of(files: Files) -> str:
    return f"{files.section}.key_file"


def _own_file(name: str, where: str) -> bytes:
    if not name:
        raise Misconfigured(
            "a certificate needs its key, and a key its certificate", where=where, fix="PEM files"
        )
    _readable(name, where)
    return Path(name).read_bytes()


@contextmanager
def _path_of(held: bytes) -> Iterator[str]:
    """A path at which these bytes are read, never on a disk: OpenSSL's loader takes paths only."""
    memory = os.memfd_create("pem")
    try:
        os.write(memory, held)
        yield f"/proc/self/fd/{memory}"
    finally:
        os.close(memory)


def _no_password() -> str:
    raise Misconfigured("the private key is encrypted", fix="openssl pkey -in KEY -out PLAIN")


def check_dates(pem: bytes, where: str) -> None:
    """Raises Misconfigured if a certificate has expired, or begins later."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except ValueError as exc:
        raise _unusable("no certificate", where, exc) from exc
    now = datetime.now(UTC)
    if certificate.not_valid_after_utc <= now:
        raise Misconfigured(
            f"the certificate expired at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M}",
            where=where,
        )
    if certificate.not_valid_before_utc > now:
        raise Misconfigured(
            f"the certificate begins at {certificate.not_valid_before_utc:%Y-%m-%d %H:%M}",
            where=where,
        )


def _readable(path: str, where: str) -> None:
    if path:
        try:
            with Path(path).open("rb"):
                pass
        except OSError as exc:
            raise Misconfigured(
                f"cannot read the file: {exc.strerror}", where=f"{where}, {path}"
            ) from exc


def _unusable(what: str, where: str, exc: Exception) -> Misconfigured:
    return Misconfigured(f"the file holds {what} that can be used: {exc}", where=where)


def diagnose(host: str, port: int, files: Files, *, timeout_s: float) -> str:
    """Shake hands with a server and say in words what goes wrong; "" if nothing does.

    Raises Misconfigured if our own files are wrong.
    """
    context = client_context(files)
    try:
        with (
            socket.create_connection((host, port), timeout=timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            # With TLS 1.3 a server refuses our certificate, or asks for it, after the handshake.
            secure.settimeout(AFTER_HANDSHAKE_S)
            with suppress(TimeoutError):
                secure.recv(1)
    except TimeoutError:
        return "it does not answer the handshake: does it speak TLS on this port?"
    except OSError as exc:
        return explain(exc, files.section)
    return ""


_VERIFY = {
    9: "its certificate is not valid yet",
    10: "its certificate has expired",
    62: "its certificate is for another host",
    64: "its certificate is for another address",
}
_UNTRUSTED = "its certificate is of no CA that we trust ({section}.ca_file)"
_ALERTS = {
    "CERTIFICATE_REQUIRED": "it asks for a certificate of ours ({section}.cert_file)",
    "HANDSHAKE_FAILURE": "it asks for a certificate of ours, or for other ciphers "
    "({section}.cert_file)",
    "UNKNOWN_CA": "it does not trust the CA of our certificate ({section}.cert_file)",
    "BAD_CERTIFICATE": "it asks for a certificate of ours, or does not take it "
    "({section}.cert_file)",
    "CERTIFICATE_UNKNOWN": "it does not trust our certificate ({section}.cert_file)",
    "CERTIFICATE_EXPIRED": "our certificate has expired ({section}.cert_file)",
    "WRONG_VERSION_NUMBER": "it does not speak TLS on this port",
}


def explain(error: BaseException | None, section: str) -> str:
    """What a TLS error means and which setting it is about; the error's own text otherwise."""
    if isinstance(error, ssl.SSLCertVerificationError):
        said = _VERIFY.get(error.verify_code, _UNTRUSTED).format(section=section)
        return f"{said}: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        for word, said in _ALERTS.items():
            if word in error.reason:
                return f"{said.format(section=section)}: {error.reason}"
    return str(error)
