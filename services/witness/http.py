"""C2SP tlog-witness over HTTP: ``POST /add-checkpoint``, and what was cosigned last of a log.

There is no credential: what a log did not sign is refused, and what it signed is no secret.
"""

from __future__ import annotations

import asyncio
import logging
from typing import NamedTuple, Protocol

from services.decider.asgi import CLOSE, Receive, Scope, Send, Unread, linger, read_body, respond
from services.decider.problems import problem_of
from sluice import telemetry
from sluice.application.cosign import NotCosigned
from sluice.errors import Rejected, Unavailable

ADD = "/add-checkpoint"
LAST = "/checkpoint/"
"""Before a log's origin."""
BODY_MAX_BYTES = 65_536
WAITING_MAX = 64
"""Requests inside; each writes to the disk, one after the other. Beyond it 503."""
STATUS = {
    "malformed": 400,
    "shrinks": 400,
    "not_signed": 403,
    "unknown_log": 404,
    "behind": 409,
    "other_root": 409,
    "inconsistent": 422,
}
"""Of the codes with which it does not cosign."""
AGAINST_THE_LOG = ("other_root", "inconsistent")
REASON_MAX = 512
_TEXT, _SIZE = b"text/plain; charset=utf-8", b"text/x.tlog.size"


class Cosigns(Protocol):
    """What the API needs of :class:`sluice.application.cosign.Witness`."""

    def add_checkpoint(self, raw: bytes) -> bytes:
        """Raises NotCosigned, Unavailable."""
        ...

    def last(self, origin: str) -> bytes | None:
        """The last cosigned checkpoint of a log, a note; None of none."""
        ...


class _Answer(NamedTuple):
    status: int
    body: bytes
    content_type: bytes = _TEXT


class WitnessApi:
    """The ASGI application."""

    def __init__(self, witness: Cosigns, health: telemetry.Health = telemetry.HEALTH) -> None:
        self.draining = False
        self._witness = witness
        self._health = health
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        try:
            answer = await self._answer(scope, receive)
        except Unread as error:
            await linger(receive, send, problem_of(error))
            return
        except Exception:  # a bug of ours stops at its own request
            telemetry.event("request_failed", level=logging.ERROR, error=True)
            answer = _Answer(500, b"internal\n")
        close = [CLOSE] if self.draining else []
        header = (b"content-type", answer.content_type)
        await respond(send, answer.status, answer.body, header, *close)

    async def _answer(self, scope: Scope, receive: Receive) -> _Answer:
        path, method = scope["path"], scope["method"]
        if path == ADD:
            return await self._add(scope, receive) if method == "POST" else _NO_METHOD
        if path.startswith(LAST):
            found = self._witness.last(path.removeprefix(LAST))
            answer = _Answer(200, found) if found else _NOT_FOUND
        elif path == "/v2/health/live":
            answer = _Answer(200, b"live\n")
        elif path == "/v2/health/ready":
            ready = self._health.ready() and not self.draining
            answer = _Answer(200, b"ready\n") if ready else _Answer(503, b"not_ready\n")
        else:
            return _NOT_FOUND
        return answer if method in ("GET", "HEAD") else _NO_METHOD

    async def _add(self, scope: Scope, receive: Receive) -> _Answer:
        if self._inside >= WAITING_MAX:
            return _Answer(503, b"overloaded\n")
        self._inside += 1
        try:
            raw = await read_body(scope, receive, BODY_MAX_BYTES)
            return _Answer(200, await asyncio.to_thread(self._witness.add_checkpoint, raw))
        except Unread:
            raise
        except NotCosigned as error:
            return _refused(error)
        except Rejected as error:
            return _Answer(400, f"{error.code}\n".encode())
        except Unavailable as error:
            _say(error)
            return _Answer(503, f"{error.code}\n".encode())
        finally:
            self._inside -= 1


_NOT_FOUND = _Answer(404, b"not_found\n")
_NO_METHOD = _Answer(405, b"method_not_allowed\n")


def _refused(error: NotCosigned) -> _Answer:
    status = STATUS[error.code]
    if error.code in AGAINST_THE_LOG:
        _say(error)
    if status == 409:
        return _Answer(status, f"{error.size}\n".encode(), _SIZE)
    return _Answer(status, f"{error.code}\n".encode())


def _say(error: NotCosigned | Unavailable) -> None:
    reason = str(error)[:REASON_MAX]
    telemetry.event("not_cosigned", level=logging.ERROR, code=error.code, reason=reason)
