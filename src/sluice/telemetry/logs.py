"""JSON logs: one canonical line an authorization on stdout, events of the process on stderr."""

from __future__ import annotations

import hmac
import json
import logging
import secrets
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Sequence
from typing import Annotated, Any, BinaryIO, Literal

import msgspec

from sluice import __version__
from sluice.domain.records.decision import Decision
from sluice.domain.records.outcome import Outcome
from sluice.shown import ascii_json, without_long_digits
from sluice.telemetry.metrics import METRICS, Metrics


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
    sample_ppm: Annotated[
        int, _says("Share of such lines that is written, in millionths; each stands for 1 / share.")
    ]
    id_hmac: Annotated[
        str,
        _says("Name of the authorization's id, see below; absent where the message was not read."),
    ] = ""
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
    trace_id: Annotated[str, _says("W3C trace id, where the caller named one.")] = ""
    duration_us: Annotated[int, _says("Receipt to answer or to committed batch.")] = 0


class _IdKey:
    """By which ids become names: of this process alone, until it is told another."""

    def __init__(self) -> None:
        self.key = secrets.token_bytes(32)


_ids = _IdKey()


def name_in_log(authorization_id: str) -> str:
    """What an id is called in the log: the first 16 bytes of HMAC-SHA256 in hex. Some 2 us."""
    return hmac.digest(_ids.key, authorization_id.encode(), "sha256")[:16].hex()


def decided_line(
    decision: Decision,
    *,
    service: str,
    at_us: int,
    duration_us: int,
    sample_ppm: int,
    trace_id: str = "",
) -> Line:
    """The canonical line of a decision."""
    auth = decision.authorization
    return Line(
        at_us=at_us,
        event="authorization",
        service=service,
        entrypoint=decision.entrypoint,
        code="decided",
        sample_ppm=sample_ppm,
        id_hmac=name_in_log(auth.authorization_id),
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


ALL_PPM = 1_000_000
LINES_PER_S = 20
"""10 kB/s, a gigabyte a day and replica; a thousand a minute are enough to tell what is usual."""


class Sampler:
    """Which lines of authorizations are written: what needs to be seen always, of the rest a share.

    The share is sample_ppm, less while that would be over per_s lines a second (a second's worth
    may come at once). Within a share the id's hash decides: replicas of the same share write of the
    same authorizations, and what is written at a smaller share is written at any larger one.
    """

    def __init__(
        self,
        sample_ppm: int = ALL_PPM,
        per_s: float = LINES_PER_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sample_ppm = sample_ppm
        self._per_s = per_s
        self._monotonic = monotonic
        self._room = float(per_s)
        self._at = monotonic()

    @staticmethod
    def usual(code: str, decision: Decision | None) -> bool:
        """Whether a line may be left out: of an answer that is complete and no decline.

        Refusals, declines and decisions that lacked a part are always written.
        """
        if decision is None:
            return code == "replayed"
        complete = decision.degradation_level == "D0" and not decision.degraded
        return complete and decision.outcome is not Outcome.DECLINE

    def shares(self, ids: Sequence[str | None]) -> list[int]:
        """(n,) ids of a batch, None for a line that is always written, to (n,) shares in ppm.

        0 says that the line is left out; another number belongs into it.
        """
        usual = len(ids) - ids.count(None)
        share = self._share(usual) if usual else 0
        bound = share << 32
        return [
            ALL_PPM if one is None else share if zlib.crc32(one.encode()) * ALL_PPM < bound else 0
            for one in ids
        ]

    def _share(self, usual: int) -> int:
        now = self._monotonic()
        self._room = min(self._room + (now - self._at) * self._per_s, float(self._per_s))
        self._at = now
        share = min(self._sample_ppm, max(1, int(ALL_PPM * min(1.0, self._room / usual))))
        self._room = max(0.0, self._room - usual * share / ALL_PPM)
        return share


_line_encoder = msgspec.json.Encoder(enc_hook=str)


def count_lines(metrics: Metrics, entrypoint: str, shares: Sequence[int]) -> None:
    """Count the lines of a batch that are written, and those left out (share 0)."""
    left_out = shares.count(0)
    counts = {"written": len(shares) - left_out, "left_out": left_out}
    metrics.count_each("sluice_decider_log_lines_total", counts, entrypoint)


def write_lines(lines: Sequence[Line], stream: BinaryIO | None = None) -> None:
    """Write canonical lines of one batch in one call, so that lines of threads do not mix."""
    if not lines:
        return
    out = sys.stdout.buffer if stream is None else stream
    out.write(_safe(_line_encoder.encode_lines(lines)))
    out.flush()


def _safe(written: bytes) -> bytes:
    """JSON with nothing in it that a terminal obeys: JSON itself escapes C0, but neither DEL nor C1
    nor an override of direction."""
    if written.isascii() and b"\x7f" not in written:
        return written
    return ascii_json(written.decode()).encode()


_ERRORS = frozenset({"error", "event", "reason"})
"""Fields that a library's error may stand in, which may repeat the text that it could not read."""


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
        for key in _ERRORS & line.keys():
            line[key] = without_long_digits(str(line[key]))
        try:
            self._stream.write(_safe(_encoded(line)) + b"\n")
            self._stream.flush()
        except (OSError, ValueError):
            self.handleError(record)


def _encoded(line: dict[str, Any]) -> bytes:
    try:
        return _line_encoder.encode(line)
    except UnicodeEncodeError:  # a lone surrogate, of a file's name for example
        return json.dumps(line, default=str).encode()


def configure_logging(
    service: str, *, level: str = "INFO", stream: BinaryIO | None = None, id_key: str = ""
) -> None:
    """Send every log record of this process to stderr as JSON; name it in the metrics, and begin
    its counters. id_key: of :func:`name_in_log`; empty leaves the process its own."""
    if id_key:
        _ids.key = id_key.encode()
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
