"""A caller of our APIs that asks once, and says what it was told: for tools, not traffic."""

from __future__ import annotations

import contextlib
import urllib.error
import urllib.request
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path

import msgspec

from sluice.adapters import tls
from sluice.application.send_reports import Told
from sluice.application.smoke_test import Heard
from sluice.domain.records.authorization import Authorization, encode
from sluice.domain.records.report import Report
from sluice.errors import Misconfigured, Rejected, Unavailable

ASK_MAX_S = 5.0
ANSWER_MAX_BYTES = 65_536
_AGAIN = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_answer = msgspec.json.Decoder(Heard).decode


class _Problem(msgspec.Struct):
    """What is shown of RFC 9457's problem details."""

    code: str = ""
    detail: str = ""


_problem = msgspec.json.Decoder(_Problem).decode


class _Client:
    """url: http or https, without a path. token_file: a bearer token, read anew for each call, so
    that it may be renewed. files: of TLS. Raises Misconfigured."""

    name = ""
    """What is asked, in an error."""
    path = ""
    ask_max_s = ASK_MAX_S
    answer_max_bytes = ANSWER_MAX_BYTES

    def __init__(self, url: str, *, token_file: Path | None, files: tls.Files) -> None:
        if url.partition("://")[0] not in ("http", "https"):
            raise Misconfigured(f"no address of {self.name}", where=url, fix="http:// or https://")
        self._url = f"{url.rstrip('/')}{self.path}"
        self._token_file = token_file
        context = tls.client_context(files) if url.startswith("https:") else None
        self._open = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        ).open

    def _post(self, body: bytes) -> bytes:
        """The body of the answer. Raises Unavailable where asking again may help, Rejected with the
        API's code otherwise, Misconfigured if there is no token to read."""
        headers = {"content-type": "application/json"}
        if self._token_file is not None:
            try:
                headers["authorization"] = f"Bearer {self._token_file.read_text().strip()}"
            except (OSError, UnicodeDecodeError) as exc:
                raise Misconfigured("no token to read", where=str(self._token_file)) from exc
        request = urllib.request.Request(self._url, body, headers)
        try:
            with self._open(request, timeout=self.ask_max_s) as answer:
                read: bytes = answer.read(self.answer_max_bytes)
                return read
        except urllib.error.HTTPError as error:
            said = _Problem()
            with contextlib.suppress(msgspec.DecodeError, OSError):
                said = _problem(error.read(ANSWER_MAX_BYTES))
            text = f"{self.name} says {error.code} {said.code} {said.detail}".strip()
            kind = Unavailable if error.code in _AGAIN else Rejected
            raise kind(text, where=self._url, code=said.code) from error
        except OSError as error:  # URLError among them
            reason = getattr(error, "reason", error)
            raise Unavailable(f"{self.name} does not answer: {reason}", where=self._url) from error


class SyncApiClient(_Client):
    """Of the sync API."""

    name = "the sync API"
    path = "/v1/authorizations"

    def ask(self, auth: Authorization) -> Heard:
        """Raises Unavailable where asking again may help, Rejected with the API's code otherwise,
        Misconfigured if there is no token to read."""
        try:
            return _answer(self._post(encode(auth)))
        except msgspec.DecodeError as error:
            raise Unavailable("what answers is no sync API", where=self._url) from error


_told = msgspec.json.Decoder(list[Told]).decode


class LabellerClient(_Client):
    """Of the labeller."""

    name = "the labeller"
    path = "/v1/labels"
    ask_max_s = 60.0
    answer_max_bytes = 4 * 1024 * 1024

    def send(self, reports: Sequence[Report]) -> list[Told]:
        """(k,) reports to what became of each, in order. Raises as :meth:`SyncApiClient.ask`."""
        try:
            told = _told(self._post(msgspec.json.encode(reports)))
        except msgspec.DecodeError as error:
            raise Unavailable("what answers is no labeller", where=self._url) from error
        if len(told) != len(reports):
            raise Unavailable("what answers is no labeller", where=self._url)
        return told
