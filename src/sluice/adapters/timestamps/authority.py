"""A time stamp authority asked over HTTP (RFC 3161, 3.4), by rfc3161-client."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request

import rfc3161_client
from cryptography import x509

from sluice.adapters import tls
from sluice.application.time_stamp import Stamp
from sluice.errors import Misconfigured, Rejected, Unavailable

ASK_MAX_S = 20.0
ANSWER_MAX_BYTES = 65_536
_REFUSED = "not_a_time_stamp"


class Authority:
    """url: http or https. roots: certificates, PEM, that its own must lead to; where names them in
    errors. files: of TLS. Raises Misconfigured."""

    def __init__(self, url: str, roots: bytes, where: str, files: tls.Files) -> None:
        if url.partition("://")[0] not in ("http", "https"):
            raise Misconfigured("no address of an authority", where=url, fix="http:// or https://")
        try:
            self._roots = x509.load_pem_x509_certificates(roots)
        except ValueError as exc:
            raise Misconfigured(f"no certificates in PEM: {exc}", where=where) from exc
        self._url = url
        context = tls.client_context(files) if url.startswith("https:") else None
        self._open = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        ).open

    def stamp(self, data: bytes) -> Stamp:
        """See :class:`sluice.application.time_stamp.TimeStamps`."""
        request = (
            rfc3161_client.TimestampRequestBuilder()
            .data(data)
            .hash_algorithm(rfc3161_client.HashAlgorithm.SHA256)
            .nonce(nonce=True)
            .cert_request(cert_request=True)
            .build()
        )
        raw = self._ask(request.as_bytes())
        try:
            answer = rfc3161_client.decode_timestamp_response(raw)
            builder = rfc3161_client.VerifierBuilder(nonce=request.nonce, roots=list(self._roots))
            builder.build().verify_message(answer, data)
            at = answer.tst_info.gen_time
        except (ValueError, rfc3161_client.VerificationError) as exc:
            raise Rejected(
                f"the answer is no time stamp of what was sent: {exc}",
                where=self._url,
                fix="is it the authority whose certificates were given?",
                code=_REFUSED,
            ) from exc
        return Stamp(int(at.timestamp() * 1_000_000), raw)

    def _ask(self, body: bytes) -> bytes:
        request = urllib.request.Request(
            self._url, body, {"content-type": "application/timestamp-query"}
        )
        try:
            with self._open(request, timeout=ASK_MAX_S) as answer:
                raw: bytes = answer.read(ANSWER_MAX_BYTES)
                return raw
        except (OSError, http.client.HTTPException) as error:  # URLError among them
            reason = getattr(error, "reason", error)
            raise Unavailable(
                f"the authority does not answer: {reason}", where=self._url
            ) from error
