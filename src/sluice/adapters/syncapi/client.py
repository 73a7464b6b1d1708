"""A caller of the sync API that asks once, and says what it was told: for tools, not traffic."""

from __future__ import annotations

import contextlib
import urllib.error
import urllib.request
from http import HTTPStatus
from pathlib import Path

import msgspec

from sluice.adapters import tls
from sluice.application.smoke_test import Heard
from sluice.domain.records.authorization import Authorization, encode
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


class SyncApiClient:
    """url: http or https, without a path. token_file: a bearer token, read anew for each call, so
    that it may be renewed. files: of TLS. Raises Misconfigured."""

    def __init__(self, url: str, *, token_file: Path | None, files: tls.Files) -> None:
        if url.partition("://")[0] not in ("http", "https"):
            raise Misconfigured("no address of a sync API", where=url, fix="http:// or https://")
        self._url = f"{url.rstrip('/')}/v1/authorizations"
        self._token_file = token_file
        context = tls.client_context(files) if url.startswith("https:") else None
        self._open = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        ).open

    def ask(self, auth: Authorization) -> Heard:
        """Raises Unavailable where asking again may help, Rejected with the API's code otherwise,
        Misconfigured if there is no token to read."""
        headers = {"content-type": "application/json"}
        if self._token_file is not None:
            try:
                headers["authorization"] = f"Bearer {self._token_file.read_text().strip()}"
            except (OSError, UnicodeDecodeError) as exc:
                raise Misconfigured("no token to read", where=str(self._token_file)) from exc
        request = urllib.request.Request(self._url, encode(auth), headers)
        try:
            with self._open(request, timeout=ASK_MAX_S) as answer:
                return _answer(answer.read(ANSWER_MAX_BYTES))
        except urllib.error.HTTPError as error:
            said = _Problem()
            with contextlib.suppress(msgspec.DecodeError, OSError):
                said = _problem(error.read(ANSWER_MAX_BYTES))
            text = f"the sync API says {error.code} {said.code} {said.detail}".strip()
            kind = Unavailable if error.code in _AGAIN else Rejected
            raise kind(text, where=self._url, code=said.code) from error
        except msgspec.DecodeError as error:
            raise Unavailable("what answers is no sync API", where=self._url) from error
        except OSError as error:  # URLError among them
            reason = getattr(error, "reason", error)
            raise Unavailable(f"the sync API does not answer: {reason}", where=self._url) from error
