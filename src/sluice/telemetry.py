"""What a process shows of itself: metrics from one table, JSON logs, W3C trace context.

Every metric of every service is a row of TABLE, with all its labels; a name that is not there
cannot be used, and ``sluice reference`` writes the table to docs/reference/metrics.md.
Labels are bounded words, never identifiers.
"""

from __future__ import annotations

import logging
import random
import re
import sys
import threading
import traceback
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, BinaryIO, Literal, NamedTuple, TypeVar

import msgspec
import prometheus_client
from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from sluice import __version__
from sluice.domain import catalogue
from sluice.domain.decision import Decision

Kind = Literal["counter", "gauge", "histogram"]
T = TypeVar("T")
_SINCE_LAST = {entity: catalogue.INDEX[f"{entity}_since_last_s"] for entity in catalogue.VIEWS}

SLO_SECONDS = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03),
    *(0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5),
)
"""Dense from 1 to 100 ms, where the promises lie."""
AGE_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
STATE_AGE_SECONDS = (1.0, 10.0, 60.0, 600.0, 3600.0, 21_600.0, 86_400.0, 604_800.0, 2_592_000.0)
AGE_SAMPLE = 8
BATCH_ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
LABEL_SETS_MAX = 256
"""Label sets one metric may have; any further one is counted under "other". Guards the scraper."""


class Metric(NamedTuple):
    """One row of the table. buckets: upper bounds of a histogram, in the unit of its name."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    meaning: str
    buckets: tuple[float, ...] = ()


TABLE: tuple[Metric, ...] = (
    Metric("sluice_build_info", "gauge", ("service", "version"), "1 for the running version."),
    # decider
    Metric(
        "sluice_decider_requests_total",
        "counter",
        ("door", "code"),
        "Authorizations by how they ended: decided, repeated, or the code of the refusal.",
    ),
    Metric(
        "sluice_decider_duration_seconds",
        "histogram",
        ("door",),
        "Receipt to answer (sync) or receipt to recorded batch (stream), per authorization.",
        SLO_SECONDS,
    ),
    Metric(
        "sluice_decider_stage_duration_seconds",
        "histogram",
        ("stage",),
        "One stage of the walk, per micro-batch: observe, finalise, score, decide, record.",
        SLO_SECONDS,
    ),
    Metric(
        "sluice_decider_batch_rows",
        "histogram",
        ("door",),
        "Authorizations decided together.",
        BATCH_ROWS,
    ),
    Metric(
        "sluice_decider_in_flight", "gauge", (), "Requests inside the sync door at this moment."
    ),
    Metric(
        "sluice_decider_decisions_total", "counter", ("door", "outcome"), "Decisions by outcome."
    ),
    Metric("sluice_decider_reasons_total", "counter", ("reason",), "Reason codes given."),
    Metric(
        "sluice_decider_rungs_total", "counter", ("rung",), "Decisions by rung, D0 is complete."
    ),
    Metric(
        "sluice_decider_degraded_total",
        "counter",
        ("part",),
        "Decisions made without a part: a view, the model.",
    ),
    Metric(
        "sluice_decider_states_total",
        "counter",
        ("entity", "found"),
        "States served: held, new (never written) or missing (view not read).",
    ),
    Metric(
        "sluice_decider_state_age_seconds",
        "histogram",
        ("entity",),
        "Age of a state served: from the newest event in it to the authorization's event time; "
        "one decision in AGE_SAMPLE, states never written left out.",
        STATE_AGE_SECONDS,
    ),
    Metric(
        "sluice_decider_pending_total",
        "counter",
        (),
        "Pending entries that stood in for states not yet written.",
    ),
    Metric("sluice_decider_ready", "gauge", (), "1 if the last readiness rehearsal succeeded."),
    Metric("sluice_decider_release_info", "gauge", ("release",), "1 for the serving release."),
    Metric("sluice_decider_policy_info", "gauge", ("policy",), "1 for the policy in force."),
    Metric(
        "sluice_decider_refused_total",
        "counter",
        ("what", "code"),
        "Releases and policies refused at load; the last good one keeps serving.",
    ),
    # every user of states
    Metric(
        "sluice_store_ready",
        "gauge",
        (),
        "1 while the store's states are served (decider) or made (featurizer); 0 when it lost "
        "some, until they are rebuilt, or when they are of another format.",
    ),
    # every consumer
    Metric(
        "sluice_consumer_lag_messages",
        "gauge",
        ("topic", "partition"),
        "Messages behind the end of the partition.",
    ),
    Metric("sluice_consumer_messages_total", "counter", ("topic",), "Messages read and committed."),
    Metric(
        "sluice_consumer_aborts_total",
        "counter",
        ("code",),
        "Batches that were given up and read again.",
    ),
    Metric("sluice_dead_letters_total", "counter", ("service", "code"), "Dead letters written."),
    # featurizer
    Metric(
        "sluice_featurizer_events_total",
        "counter",
        ("topic", "result"),
        "Events by result: applied, redelivered, duplicate, too_old.",
    ),
    Metric("sluice_featurizer_states_written_total", "counter", ("entity",), "States stored."),
    Metric(
        "sluice_featurizer_conflicts_total",
        "counter",
        ("entity",),
        "Writes refused because another writer came first.",
    ),
    Metric(
        "sluice_featurizer_stage_duration_seconds",
        "histogram",
        ("stage",),
        "One stage of a batch: decode, write, produce; batch is all that is done with one.",
        SLO_SECONDS,
    ),
    Metric(
        "sluice_featurizer_age_seconds",
        "histogram",
        ("topic",),
        "Decision made (or label known) to state stored.",
        AGE_SECONDS,
    ),
    # archiver
    Metric("sluice_archiver_rows_total", "counter", ("topic",), "Rows archived."),
    Metric("sluice_archiver_files_total", "counter", ("topic",), "Parquet files completed."),
    Metric(
        "sluice_archiver_age_seconds",
        "histogram",
        ("topic",),
        "Record written to file completed.",
        AGE_SECONDS,
    ),
    # meter
    Metric(
        "sluice_meter_decisions_total",
        "counter",
        ("result",),
        "Decisions of the sample: equal, differing (page!), other_catalogue (of another release), "
        "too_large (entities with too many events), gave_up (waited in vain).",
    ),
    Metric(
        "sluice_meter_parity_ratio",
        "gauge",
        (),
        "Equal of the compared, in the newest round that compared any; 1 or somebody is paged.",
    ),
    Metric(
        "sluice_meter_worst_feature_info",
        "gauge",
        ("feature",),
        "1 for the feature that most vectors differ in, in the newest round with a difference.",
    ),
    Metric(
        "sluice_meter_waiting",
        "gauge",
        (),
        "Decisions of the sample served from events that the archive does not hold yet.",
    ),
    Metric(
        "sluice_meter_oldest_waiting_seconds", "gauge", (), "Age of the oldest of them, 0 for none."
    ),
    Metric(
        "sluice_meter_behind_seconds",
        "histogram",
        ("entity",),
        "How far behind a state was when served: age of the oldest decision about the entity that "
        "neither it nor the pending entries held.",
        AGE_SECONDS,
    ),
    Metric(
        "sluice_meter_behind_quantile_seconds",
        "gauge",
        ("entity", "quantile"),
        "The same, p50 and p99 of the newest round.",
    ),
    Metric(
        "sluice_meter_pending_total",
        "counter",
        ("effect",),
        "Decisions with pending entries: mattered (another vector without them) or same.",
    ),
    Metric(
        "sluice_meter_defaulted_total",
        "counter",
        ("entity", "why"),
        "Decisions whose features of an entity were all defaults: missing (view) or new (entity).",
    ),
    Metric("sluice_meter_round_seconds", "gauge", (), "How long the newest round took."),
)
_ROWS = {row.name: row for row in TABLE}


class _Histogram(Collector):
    """A histogram that takes many values in one call; prometheus_client's takes one at a time."""

    def __init__(self, row: Metric) -> None:
        self._row = row
        self._lock = threading.Lock()
        self._children: dict[tuple[str, ...], list[float]] = {}

    def observe(self, labels: tuple[str, ...], values: Iterable[float]) -> None:
        """Add each value to its bucket: ``child`` is the bucket counts, +Inf, then the sum."""
        bounds = self._row.buckets
        with self._lock:
            child = self._children.get(labels)
            if child is None:
                child = self._children[labels] = [0.0] * (len(bounds) + 2)
            for value in values:
                child[bisect_left(bounds, value)] += 1
                child[-1] += value

    def describe(self) -> Iterator[HistogramMetricFamily]:
        yield HistogramMetricFamily(self._row.name, self._row.meaning, labels=self._row.labels)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        family = HistogramMetricFamily(self._row.name, self._row.meaning, labels=self._row.labels)
        with self._lock:
            children = {labels: list(child) for labels, child in self._children.items()}
        for labels, child in children.items():
            seen, buckets = 0.0, []
            for bound, count in zip((*self._row.buckets, float("inf")), child[:-1], strict=True):
                seen += count
                buckets.append(("+Inf" if bound == float("inf") else str(bound), seen))
            family.add_metric(labels, buckets, child[-1])
        yield family


class Metrics:
    """The metrics of one process. Created on first use, so that a page shows only what runs.

    registry: by default the one that KServe's ``/metrics`` serves. Thread-safe.
    Raises LookupError for a name or a number of labels that TABLE does not hold.
    """

    def __init__(self, registry: CollectorRegistry = prometheus_client.REGISTRY) -> None:
        self._registry = registry
        self._families: dict[str, Any] = {}
        self._children: dict[tuple[str, ...], Any] = {}
        self._lock = threading.Lock()

    def count(self, name: str, *labels: str, by: float = 1) -> None:
        """Add to a counter."""
        child = self._children.get((name, *labels)) or self._child(name, "counter", labels)
        child.inc(by)

    def count_each(self, name: str, counts: dict[T, int], *before: str) -> None:
        """Add many counts at once: the last label is the key. Costs one step a distinct key."""
        for label, number in counts.items():
            self.count(name, *before, str(label), by=number)

    def set(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge."""
        child = self._children.get((name, *labels)) or self._child(name, "gauge", labels)
        child.set(value)

    def info(self, name: str, *labels: str) -> None:
        """Set an info gauge to 1 under these labels and drop what it said before."""
        family = self._family(name, "gauge", labels)
        family.clear()
        family.labels(*labels).set(1)

    def observe(self, name: str, value: float, *labels: str) -> None:
        """Put one value in a histogram."""
        self.observe_each(name, (value,), *labels)

    def observe_each(self, name: str, values: Iterable[float], *labels: str) -> None:
        """Put many values in a histogram."""
        child = self._children.get((name, *labels)) or self._child(name, "histogram", labels)
        child[0].observe(child[1], values)

    def _family(self, name: str, kind: Kind, labels: tuple[str, ...]) -> Any:
        row = _ROWS.get(name)
        if row is None or row.kind != kind or len(row.labels) != len(labels):
            raise LookupError(f"no {kind} {name} with {len(labels)} labels in telemetry.TABLE")
        with self._lock:
            family = self._families.get(name)
            if family is None:
                if kind == "histogram":
                    family = _Histogram(row)
                    self._registry.register(family)
                else:
                    make = (
                        prometheus_client.Counter if kind == "counter" else prometheus_client.Gauge
                    )
                    family = make(name, row.meaning, row.labels, registry=self._registry)
                self._families[name] = family
        return family

    def _child(self, name: str, kind: Kind, labels: tuple[str, ...]) -> Any:
        family = self._family(name, kind, labels)
        with self._lock:
            if labels and sum(key[0] == name for key in self._children) >= LABEL_SETS_MAX:
                labels = ("other",) * len(labels)
                key = (name, *labels)
            else:
                key = (name, *labels)
            child = self._children.get(key)
            if child is None:
                if kind == "histogram":
                    child = (family, labels)
                else:
                    child = family.labels(*labels) if labels else family
                self._children[key] = child
        return child


# One more series for each, which nobody reads.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
METRICS = Metrics()
"""The process's own."""


def observe_decisions(
    metrics: Metrics, door: str, decisions: Sequence[Decision], seconds: Sequence[float]
) -> None:
    """Count a micro-batch of decisions: outcome, reasons, rung, parts missing, states, duration.

    decisions: (n,). seconds: durations, any number. Aggregates first, so that the cost in a batch
    of 100 is about 1.5 µs an authorization.
    """
    each = metrics.count_each
    each("sluice_decider_decisions_total", Counter([d.outcome for d in decisions]), door)
    each("sluice_decider_rungs_total", Counter([d.rung for d in decisions]))
    each("sluice_decider_reasons_total", Counter([r for d in decisions for r in d.reasons]))
    degraded = [part for d in decisions for part in d.degraded]
    if degraded:
        each("sluice_decider_degraded_total", Counter(degraded))
    pending = sum(len(d.pending) for d in decisions)
    if pending:
        metrics.count("sluice_decider_pending_total", by=pending)
    states = [d.states for d in decisions]
    for entity, served in (
        ("card", [s.card for s in states]),
        ("terminal", [s.terminal for s in states]),
        ("merchant", [s.merchant for s in states]),
        ("device", [s.device for s in states]),
    ):
        missing, new = served.count(None), served.count([])
        held = len(served) - missing - new
        found = {"held": held, "new": new, "missing": missing}
        each("sluice_decider_states_total", {k: n for k, n in found.items() if n}, entity)
    for entity, column in _SINCE_LAST.items():
        ages = [d.features[column] for d in decisions[::AGE_SAMPLE]]
        metrics.observe_each(
            "sluice_decider_state_age_seconds", [a for a in ages if a < catalogue.NEVER_S], entity
        )
    metrics.observe_each("sluice_decider_duration_seconds", seconds, door)


def start_metrics_server(port: int, *, host: str = "0.0.0.0") -> int:
    """Serve ``/metrics`` from a thread, for services without HTTP. Returns the port bound."""
    server, _ = prometheus_client.start_http_server(port, addr=host)
    return int(server.server_port)


# ---------------------------------------------------------------- W3C trace context

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


# ---------------------------------------------------------------- logs


def _says(text: str) -> msgspec.Meta:
    return msgspec.Meta(description=text)


class Line(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """The canonical line of one authorization, on stdout. A field that is empty is left out.

    No amount, no card: whoever may see those reads ``decisions.v1``.
    """

    at_us: Annotated[int, _says("When the line was made, microseconds UTC.")]
    event: Annotated[Literal["authorization"], _says("Tells this line from other events.")]
    service: Annotated[str, _says("Who wrote it.")]
    door: Annotated[str, _says("sync or stream.")]
    code: Annotated[str, _says("decided, repeated, or the code of the refusal.")]
    authorization_id: Annotated[str, _says("Absent where the message could not be read.")] = ""
    tenant: Annotated[str, _says("As in the authorization.")] = ""
    region: Annotated[str, _says("As in the authorization.")] = ""
    outcome: Annotated[str, _says("approve, challenge, review or decline.")] = ""
    reasons: Annotated[list[str], _says("Reason codes, strongest first.")] = []
    rung: Annotated[str, _says("D0 complete to D3 without features and model.")] = ""
    degraded: Annotated[list[str], _says("Parts that were missing.")] = []
    score_ppm: Annotated[int | None, _says("Score in parts per million.")] = None
    release: Annotated[str | None, _says("The release that scored.")] = None
    policy: Annotated[str, _says("The policy that decided.")] = ""
    emitter: Annotated[str, _says("The process that decided.")] = ""
    sequence: Annotated[int, _says("Number of the decision in its emitter's count.")] = -1
    origin: Annotated[str, _says("topic/partition@offset, at the stream door.")] = ""
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
        door=decision.door,
        code="decided",
        authorization_id=auth.authorization_id,
        tenant=auth.tenant,
        region=auth.region,
        outcome=decision.outcome,
        reasons=decision.reasons,
        rung=decision.rung,
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
    """Send every log record of this process to stderr as JSON, and name it in the metrics."""
    handler = _JsonHandler(service, sys.stderr.buffer if stream is None else stream)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    METRICS.info("sluice_build_info", service, __version__)


_log = logging.getLogger("sluice")


def event(name: str, *, level: int = logging.INFO, error: bool = False, **fields: Any) -> None:
    """Log that something happened to the process: a bounded word and its fields.

    error: attach the exception being handled.
    """
    _log.log(level, name, extra={"fields": fields}, exc_info=error)
