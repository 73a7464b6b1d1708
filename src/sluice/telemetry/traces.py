"""W3C trace context: a caller's trace goes on, or one starts here."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import NamedTuple

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?\Z")
_TRACE_BYTES = 16 + 8
"""Of the two ids; all zero, which W3C forbids, once in 2 ** 64."""
_ids = random.Random(random.SystemRandom().getrandbits(128))


class TraceContext(NamedTuple):
    """W3C trace context, level 1: 32 and 16 hex digits, and the flags byte."""

    trace_id: str
    span_id: str
    flags: str = "01"

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"

    def child(self) -> TraceContext:
        """The same trace, one span further."""
        return TraceContext(self.trace_id, f"{_ids.getrandbits(64) or 1:016x}", self.flags)


def parse_traceparent(header: str) -> TraceContext | None:
    """Read a ``traceparent`` header; None if the recommendation says to ignore it.

    >>> parse_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").flags
    '01'
    >>> parse_traceparent("00-" + "0" * 32 + "-00f067aa0ba902b7-01") is None
    True
    """
    match = _TRACEPARENT.match(header)
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest):
        return None
    if trace_id == "0" * 32 or span_id == "0" * 16:
        return None
    return TraceContext(trace_id, span_id, flags)


def new_trace() -> TraceContext:
    """A trace that starts here. The ids are no secret: a fast generator is enough."""
    return TraceContext(f"{_ids.getrandbits(128) or 1:032x}", f"{_ids.getrandbits(64) or 1:016x}")


def continue_trace(header: str | None) -> TraceContext:
    """Our span in the caller's trace, or in a new one where the header is absent or wrong."""
    caller = parse_traceparent(header) if header else None
    return caller.child() if caller else new_trace()


def continue_traces(headers: Sequence[str | None]) -> list[str]:
    """:func:`continue_trace` of each, as text. New ones are cut from one draw of random bytes."""
    drawn = _ids.randbytes(_TRACE_BYTES * len(headers)).hex()
    digits = 2 * _TRACE_BYTES
    return [
        f"00-{drawn[at : at + 32]}-{drawn[at + 32 : at + digits]}-01"
        if header is None
        else str(continue_trace(header))
        for header, at in zip(headers, range(0, len(drawn), digits), strict=True)
    ]
