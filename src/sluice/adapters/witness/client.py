"""A witness, asked over HTTP (C2SP tlog-witness)."""

from __future__ import annotations

import contextlib
import http.client
import urllib.error
import urllib.request
from http import HTTPStatus

from sluice.adapters import tls
from sluice.application.cosigners import Behind
from sluice.audit.checkpoints import number_of
from sluice.audit.errors import Malformed
from sluice.audit.notes import Key
from sluice.errors import Misconfigured, Rejected, Unavailable

ASK_MAX_S = 5.0
"""Longer than the log waits: so its next answer is not taken for this one's."""
ANSWER_MAX_BYTES = 16_384
PATH = "/add-checkpoint"
_SIZE = "text/x.tlog.size"
_CODES: dict[int, str] = {
    HTTPStatus.FORBIDDEN: "not_signed",
    HTTPStatus.NOT_FOUND: "unknown_log",
    HTTPStatus.CONFLICT: "other_root",
    HTTPStatus.UNPROCESSABLE_ENTITY: "inconsistent",
}


class WitnessClient:
    """url: the submission prefix, http or https. files: of TLS. Raises Misconfigured."""

    def __init__(self, key: Key, url: str, files: tls.Files) -> None:
        if url.partition("://")[0] not in ("http", "https"):
            raise Misconfigured("no address of a witness", where=url, fix="http:// or https://")
        self.key = key
        self._url = f"{url.rstrip('/')}{PATH}"
        context = tls.client_context(files) if url.startswith("https:") else None
        self._open = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        ).open

    def add_checkpoint(self, body: bytes) -> bytes | Behind:
        """See :class:`sluice.application.cosigners.AsksWitness`."""
        request = urllib.request.Request(self._url, body, {"content-type": "text/plain"})
        try:
            with self._open(request, timeout=ASK_MAX_S) as answer:
                read: bytes = answer.read(ANSWER_MAX_BYTES)
                return read
        except urllib.error.HTTPError as error:
            with error:
                return self._refused(error)
        except (OSError, http.client.HTTPException) as error:  # URLError among them
            reason = getattr(error, "reason", error)
            raise Unavailable(f"the witness does not answer: {reason}", where=self._url) from error

    def _refused(self, error: urllib.error.HTTPError) -> Behind:
        text = ""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            text = error.read(ANSWER_MAX_BYTES).decode("ascii").strip()
        if error.code == HTTPStatus.CONFLICT and error.headers.get_content_type() == _SIZE:
            with contextlib.suppress(Malformed):
                return Behind(number_of(text))
        what = f"the witness says {error.code}"
        if (
            error.code >= HTTPStatus.INTERNAL_SERVER_ERROR
            or error.code == HTTPStatus.TOO_MANY_REQUESTS
        ):
            raise Unavailable(what, where=self._url) from error
        raise Rejected(what, where=self._url, code=_CODES.get(error.code, "refused"))
