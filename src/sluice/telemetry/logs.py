"""JSON logs: one canonical line an authorization on stdout, events of the process on stderr."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any, BinaryIO, Literal

import msgspec

from sluice import __version__
from sluice.domain.records.decision import Decision
from sluice.telemetry.metrics import METRICS


def _says(text: str) -> msgspec.Meta:
    return msgspec.Meta(description=text)


class Line(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """The canonical line of one authorization, on stdout. A field that is empty is left out.

    No amount, no card: whoever may see those reads ``decisions.v1``.
    """

    at_us: Annotated[int, _says("When the line was made, microseconds UTC.")]
    event: Annotated[Literal["authorization"], _says("Tells this line from other events.")]
    service: Annotated[str, _says("Who wrote it.")]
    entrypoint: Annotated[str, _says("sync or stream.")]
    code: Annotated[str, _says("decided, replayed, or the code of the refusal.")]
    authorization_id: Annotated[str, _says("Absent where the message could not be read.")] = ""
    tenant: Annotated[str, _says("As in the authorization.")] = ""
    region: Annotated[str, _says("As in the authorization.")] = ""
    outcome: Annotated[str, _says("approve, challenge, review or decline.")] = ""
    reasons: Annotated[list[str], _says("Reason codes, strongest first.")] = []
    degradation_level: Annotated[str, _says("D0 complete to D3 without features and model.")] = ""
    degraded: Annotated[list[str], _says("Parts that were missing.")] = []
    score_ppm: Annotated[int | None, _says("Score in parts per million.")] = None
    release: Annotated[str | None, _says("The release that scored.")] = None
    policy: Annotated[str, _says("The policy that decided.")] = ""
    emitter: Annotated[str, _says("The process that decided.")] = ""
    sequence: Annotated[int, _says("Number of the decision in its emitter's count.")] = -1
    origin: Annotated[str, _says("topic/partition@offset, at the stream processor.")] = ""
    trace_id: Annotated[str, _says("W3C trace id.")] = ""
    duration_us: Annotated[int, _says("Receipt to answer or to committed batch.")] = 0


def decided_line(
    decision: Decision, *, service: str, at_us: int, duration_us: int, trace_id: str = ""
) -> Line:
    """The canonical line of a decision."""
    auth = decision.authorization
    return Line(
        at_us=at_us,
        event="authorization",
        service=service,
        entrypoint=decision.entrypoint,
        code="decided",
        authorization_id=auth.authorization_id,
        tenant=auth.tenant,
        region=auth.region,
        outcome=decision.outcome,
        reasons=decision.reasons,
        degradation_level=decision.degradation_level,
        degraded=decision.degraded,
        score_ppm=decision.score_ppm,
        release=decision.release,
        policy=decision.policy,
        emitter=decision.emitter,
        sequence=decision.sequence,
        origin=str(decision.origin) if decision.origin else "",
        trace_id=trace_id,
        duration_us=duration_us,
    )


_line_encoder = msgspec.json.Encoder(enc_hook=str)


def write_lines(lines: Sequence[Line], stream: BinaryIO | None = None) -> None:
    """Write canonical lines of one batch in one call, so that lines of threads do not mix."""
    if not lines:
        return
    out = sys.stdout.buffer if stream is None else stream
    out.write(_line_encoder.encode_lines(lines))
    out.flush()


class _JsonHandler(logging.Handler):
    """Turns every ``logging`` record of the process, ours or a library's, into a JSON line."""

    def __init__(self, service: str, stream: BinaryIO) -> None:
        super().__init__()
        self._service = service
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        """One line: at_us, level, service, logger, event, the fields, and error with traceback."""
        fields = getattr(record, "fields", {})
        line: dict[str, Any] = {
            "at_us": int(record.created * 1_000_000),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "event": record.getMessage(),
            **fields,
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = "".join(traceback.format_exception(record.exc_info[1]))
        try:
            self._stream.write(_line_encoder.encode(line) + b"\n")
            self._stream.flush()
        except (OSError, ValueError):
            self.handleError(record)


def configure_logging(service: str, *, level: str = "INFO", stream: BinaryIO | None = None) -> None:
    """Send every log record of this process to stderr as JSON; name it in the metrics, and begin
    its counters."""
    handler = _JsonHandler(service, sys.stderr.buffer if stream is None else stream)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    METRICS.info("sluice_build_info", service, __version__)
    METRICS.begin(service)


_log = logging.getLogger("sluice")


def event(name: str, *, level: int = logging.INFO, error: bool = False, **fields: Any) -> None:
    """Log that something happened to the process: a bounded word and its fields.

    error: attach the exception being handled.
    """
    _log.log(level, name, extra={"fields": fields}, exc_info=error)
