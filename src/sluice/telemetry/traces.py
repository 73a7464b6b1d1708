"""W3C trace context, by OpenTelemetry's API: a caller's trace goes on, and none begins here."""

from __future__ import annotations

from typing import NamedTuple

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from sluice.domain.records.card_numbers import holds_card_number

_HEADER = "traceparent"
_propagator = TraceContextTextMapPropagator()
_tracer = trace.get_tracer("sluice")
"""Of the global provider: does nothing until the deployer configures an SDK."""


class Joined(NamedTuple):
    """A caller's trace that we take part in.

    traceparent: what goes on to the record and the answer: the caller's own, or with an SDK the
    context of our span. span: to be ended; without an SDK that does nothing.
    """

    traceparent: str
    span: Span


def join_trace(
    header: str | None, kind: SpanKind = SpanKind.SERVER, tracer: trace.Tracer = _tracer
) -> Joined | None:
    """Take part in the trace of a ``traceparent``; None where there is none, or no valid one.

    Nor one that may hold a card number: of 10,000 random trace ids two are lost by that.

    A header of a later version goes on as version 00, which W3C asks for. Some 10 us a header.

    >>> join_trace("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00").traceparent
    '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00'
    >>> join_trace("00-" + "0" * 32 + "-00f067aa0ba902b7-01") is None
    True
    """
    # The API's pattern takes a line break at the end, which no header has.
    if not header or not header.isprintable():
        return None
    # What goes on stands in topics and logs, and 32 hex digits have room for a card number.
    if any(map(holds_card_number, header.split("-"))):
        return None
    caller = _propagator.extract({_HEADER: header})
    if not trace.get_current_span(caller).get_span_context().is_valid:
        return None
    span = tracer.start_span("decide", caller, kind)
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, trace.set_span_in_context(span, caller))
    return Joined(carrier[_HEADER], span)


def trace_id_of(traceparent: str | None) -> str:
    """The trace id in a ``traceparent`` that goes on; empty without one.

    >>> trace_id_of("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00")
    '4bf92f3577b34da6a3ce929d0e0e4736'
    """
    return traceparent[3:35] if traceparent else ""
