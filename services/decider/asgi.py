"""ASGI without a framework: read a body within a bound, answer, refuse."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

import msgspec

from services.decider.problems import PROBLEM_JSON, RETRY_AFTER_S, Problem
from sluice.errors import Rejected

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]

DIGITS_MAX = 15
"""Of a number in a header; Python takes time that grows with the square of its digits, and refuses
4,301 of them with an error that is none of ours."""
LINGER_BYTES = 2 * 1024 * 1024
"""What is read and thrown away of a body too large, so that its sender reads our answer before
the connection is reset; then we close."""
LINGER_S = 2.0
"""For how long we read on so at most."""
CLOSE = (b"connection", b"close")
"""Whoever sends this header closes the connection after the answer."""
_encoder = msgspec.json.Encoder()


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Read the body; stop as soon as it is past the limit. Raises Rejected, or Unread."""
    message = await receive()
    body: bytes = message.get("body", b"")
    if len(body) <= limit and not message.get("more_body", False):
        return body
    more = message.get("more_body", False)
    if more and announced(scope["headers"]) > limit:
        raise _unread(limit)
    chunks, size = [body], len(body)
    while more and size <= limit:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Rejected("the sender left before the end of the body", code="invalid_json")
        more = message.get("more_body", False)
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
    if more:
        raise _unread(limit)
    if size > limit:
        raise Rejected(f"at most {limit} bytes are read", code="too_large")
    return b"".join(chunks)


def whole_number(text: bytes) -> int | None:
    """The number that a header holds, if it is one of at most DIGITS_MAX digits 0 to 9.

    >>> whole_number(b"0042"), whole_number(b"-1"), whole_number(b"9" * 5000)
    (42, None, None)
    """
    return int(text) if len(text) <= DIGITS_MAX and text.isdigit() else None


def announced(headers: Sequence[Header]) -> int:
    """Bytes that the sender says its body has; 0 if it does not say. Whoever relies on it counts
    what comes all the same."""
    return max((whole_number(v) or 0 for k, v in headers if k == b"content-length"), default=0)


class Unread(Rejected):
    """A body past its limit, whose rest is still to come."""

    code = "too_large"


def _unread(limit: int) -> Unread:
    return Unread(f"at most {limit} bytes are read")


async def respond(send: Send, status: int, body: bytes, *headers: Header) -> None:
    """Status, headers and body, with its length."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})


def problem_headers(what: Problem, retry_after_s: int = 0) -> list[Header]:
    """Content type of a problem, when to come again, and with which credential (RFC 6750)."""
    headers = [(b"content-type", PROBLEM_JSON)]
    if what.status in (429, 503):
        headers.append((b"retry-after", str(retry_after_s or RETRY_AFTER_S).encode()))
    elif what.status == 401:
        error = b' error="invalid_token"' if what.code == "invalid_token" else b""
        headers.append((b"www-authenticate", b"Bearer" + error))
    elif what.code == "insufficient_scope":
        headers.append((b"www-authenticate", b'Bearer error="insufficient_scope"'))
    return headers


async def respond_problem(send: Send, what: Problem, *headers: Header) -> None:
    """Refuse: RFC 9457."""
    body = _encoder.encode(what)
    await respond(send, what.status, body, *problem_headers(what), *headers)


async def linger(receive: Receive, send: Send, what: Problem, *headers: Header) -> None:
    """Answer, throw away the rest of the body up to a bound, close."""
    body = _encoder.encode(what)
    length = (b"content-length", str(len(body)).encode())
    await send(
        {
            "type": "http.response.start",
            "status": what.status,
            "headers": [length, *problem_headers(what), *headers, CLOSE],
        }
    )
    await send({"type": "http.response.body", "body": body, "more_body": True})
    left = LINGER_BYTES
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    break
    await send({"type": "http.response.body", "body": b""})
