import ast
import hashlib
import hmac
import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from opentelemetry.trace import (
    NonRecordingSpan,
    NoOpTracer,
    Span,
    SpanContext,
    SpanKind,
    TraceFlags,
    get_current_span,
)
from prometheus_client import CollectorRegistry, generate_latest

from sluice import telemetry
from sluice.adapters.kafka import config as kafka
from sluice.adapters.redis import commands as redis
from sluice.domain.records.outcome import Outcome
from sluice.telemetry import ALL_PPM, LABEL_SETS_MAX, SHOWN_BY, TABLE, Line, Metrics, Sampler
from sluice.testing.records import make_decision

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> Metrics:
    return Metrics(registry)


def test_a_metric_outside_the_table_cannot_be_used(metrics: Metrics) -> None:
    with pytest.raises(LookupError, match="sluice_decider_wishes_total"):
        metrics.count("sluice_decider_wishes_total")
    with pytest.raises(LookupError, match="with 1 labels"):
        metrics.count("sluice_decider_requests_total", "sync")
    with pytest.raises(LookupError, match="no gauge"):
        metrics.set("sluice_decider_requests_total", 1, "sync", "decided")


def test_nothing_is_shown_before_it_is_used(metrics: Metrics, registry: CollectorRegistry) -> None:
    assert generate_latest(registry) == b""
    metrics.count("sluice_decider_requests_total", "sync", "decided", by=3)
    assert registry.get_sample_value(
        "sluice_decider_requests_total", {"entrypoint": "sync", "code": "decided"}
    ) == pytest.approx(3)


def test_a_histogram_counts_each_value_in_its_bucket(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    name = "sluice_decider_duration_seconds"
    metrics.observe_each(name, [0.001, 0.0011, 0.2, 99.0], "sync")
    metrics.observe(name, 0.001, "sync")

    def bucket(le: str) -> float | None:
        return registry.get_sample_value(f"{name}_bucket", {"entrypoint": "sync", "le": le})

    assert [bucket("0.0005"), bucket("0.001"), bucket("0.002")] == [0, 2, 3]
    assert [bucket("0.25"), bucket("2.5"), bucket("+Inf")] == [4, 4, 5]
    assert registry.get_sample_value(f"{name}_sum", {"entrypoint": "sync"}) == pytest.approx(
        99.2031
    )
    assert registry.get_sample_value(f"{name}_count", {"entrypoint": "sync"}) == 5
    assert b"# TYPE sluice_decider_duration_seconds histogram" in generate_latest(registry)


def test_labels_past_the_bound_are_counted_as_other(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    for i in range(LABEL_SETS_MAX + 7):
        metrics.count("sluice_decider_reasons_total", f"R{i}")
    name = "sluice_decider_reasons_total"
    assert registry.get_sample_value(name, {"reason": "other"}) == 7
    assert registry.get_sample_value(name, {"reason": "R0"}) == 1
    assert registry.get_sample_value(name, {"reason": f"R{LABEL_SETS_MAX}"}) is None


def test_an_info_gauge_forgets_what_it_said_before(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    metrics.info("sluice_decider_release_info", "r1")
    metrics.info("sluice_decider_release_info", "r2")
    assert registry.get_sample_value("sluice_decider_release_info", {"release": "r1"}) is None
    assert registry.get_sample_value("sluice_decider_release_info", {"release": "r2"}) == 1


CODE = [
    *ROOT.glob("src/sluice/**/*.py"),
    *ROOT.glob("services/*.py"),
    *ROOT.glob("services/*/*.py"),
]
COMPONENT = re.compile(rf"sluice_(?:{'|'.join(SHOWN_BY)})_[a-z_]+")


def named(path: Path) -> Iterator[str]:
    """Metrics that a file names in text of its own; what is put together there as a pattern."""
    tree = ast.parse(path.read_text())
    joined = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    parts = {id(part) for node in joined for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            text = "".join(
                part.value if isinstance(part, ast.Constant) else "[a-z]+" for part in node.values
            )
        elif isinstance(node, ast.Constant) and id(node) not in parts:
            text = str(node.value)
        else:
            continue
        if COMPONENT.fullmatch(text.replace("[a-z]+", "_")):
            yield text


def test_the_lag_of_a_partition_that_left_is_not_shown(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    name = "sluice_consumer_lag_messages"
    telemetry.show_lag(metrics, {("t", 0): 5, ("t", 1): 7})
    telemetry.show_lag(metrics, {("t", 1): 6})
    assert registry.get_sample_value(name, {"topic": "t", "partition": "0"}) is None
    assert registry.get_sample_value(name, {"topic": "t", "partition": "1"}) == 6
    with pytest.raises(LookupError):
        metrics.replace("sluice_consumer_messages_total", {})


def test_every_metric_of_the_code_is_in_the_table_and_the_table_has_no_other() -> None:
    known = {row.name for row in TABLE}
    emitted: set[str] = set()
    for path in CODE:
        if path.name == "table.py":
            continue
        for name in named(path):
            found = {row for row in known if re.fullmatch(name, row)}
            assert found, f"{path}: {name}"
            emitted |= found
    assert known == emitted


def test_no_number_is_counted_up_that_nobody_reads() -> None:
    """What goes wrong is a metric, not an attribute that only a test looks at."""
    counted: dict[str, Path] = {}
    read: set[str] = set()
    for path in CODE:
        if "testing" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Attribute):
                counted[node.target.attr] = path
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                read.add(node.attr)
    assert counted
    assert counted.keys() <= read, {name: counted[name] for name in counted.keys() - read}


def test_every_service_begins_with_its_own_mistakes_at_zero(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    metrics.begin("featurizer")
    value = registry.get_sample_value
    assert value("sluice_store_failures_total", {"why": "timeout"}) == 0
    assert value("sluice_consumer_aborts_total", {"code": "store_lost"}) == 0
    assert b"sluice_decider" not in generate_latest(registry)
    metrics.begin("decider")
    refused = {"what": "release", "code": "corrupt"}
    assert value("sluice_decider_refused_total", refused) == 0
    assert value("sluice_producer_appends_late_total") == 0


def test_what_begins_at_zero_is_what_adapters_count() -> None:
    begins = {row.name: {labels[-1] for labels in row.begins} for row in TABLE}
    assert begins["sluice_store_errors_total"] == redis.ERROR_CODES | {"other"}
    for name in ("producer_failed", "producer_retries", "kafka_errors"):
        assert begins[f"sluice_{name}_total"] == kafka.ERROR_CODES | {"other"}
    page = (ROOT / "docs/runbooks/dead-letters.md").read_text()
    codes = {code for row in re.findall(r"^\| (`.*?) \|", page, re.M) for code in row.split(", ")}
    assert begins["sluice_dead_letters_total"] == {code.strip("`") for code in codes} - {"redriven"}


def test_a_row_begins_with_as_many_words_as_it_has_labels() -> None:
    for row in TABLE:
        assert all(len(labels) == len(row.labels) for labels in row.begins), row.name
        assert not row.begins or row.kind == "counter", row.name
        assert SHOWN_BY[row.name.split("_")[1]], row.name


def test_names_and_units_follow_prometheus_custom() -> None:
    for row in TABLE:
        assert row.name.endswith("_total") == (row.kind == "counter"), row.name
        assert bool(row.buckets) == (row.kind == "histogram"), row.name
        assert row.meaning.endswith("."), row.name
    assert len({row.name for row in TABLE}) == len(TABLE)


VALID = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "nonsense",
        VALID.upper(),
        VALID + "-extra",
        VALID.replace("00-", "ff-", 1),
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01",
        VALID + "\n",
        "00-41111111111111110000000000000000-00f067aa0ba902b7-01",
        "00-abcd4111111111111111abcdabcdabcd-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-4111111111111111-01",
    ],
)
def test_a_wrong_traceparent_is_no_trace(header: str) -> None:
    assert telemetry.join_trace(header) is None


def test_without_a_traceparent_no_trace_begins() -> None:
    assert telemetry.join_trace(None) is None
    assert telemetry.trace_id_of(None) == ""


@pytest.mark.parametrize("flags", ["00", "01", "ff"])
def test_a_right_traceparent_goes_on_unchanged(flags: str) -> None:
    header = VALID[:-2] + flags
    joined = telemetry.join_trace(header)
    assert joined is not None
    assert joined.traceparent == header
    assert telemetry.trace_id_of(joined.traceparent) == "4bf92f3577b34da6a3ce929d0e0e4736"


def test_a_later_version_of_traceparent_is_read_by_its_first_four_fields() -> None:
    joined = telemetry.join_trace("cc" + VALID[2:] + "-what-comes")
    assert joined is not None
    assert joined.traceparent == VALID


def test_with_an_sdk_our_span_in_the_callers_trace_goes_on() -> None:
    class Sdk(NoOpTracer):
        def start_span(self, name: str, context: Any = None, kind: Any = None, **_: Any) -> Span:
            parent = get_current_span(context).get_span_context()
            started.append((name, kind, parent.span_id))
            return NonRecordingSpan(SpanContext(parent.trace_id, 7, False, TraceFlags(1)))

    started: list[tuple[str, SpanKind, int]] = []
    joined = telemetry.join_trace(VALID, SpanKind.CONSUMER, Sdk())
    assert joined is not None
    assert joined.traceparent == f"{VALID[:36]}0000000000000007-01"
    assert started == [("decide", SpanKind.CONSUMER, 0x00F067AA0BA902B7)]
    assert telemetry.join_trace("nonsense", SpanKind.CONSUMER, Sdk()) is None
    assert len(started) == 1


def test_lines_of_a_batch_are_written_as_one_json_object_each() -> None:
    out = io.BytesIO()
    line = Line(
        at_us=1,
        event="authorization",
        service="decider",
        entrypoint="sync",
        code="conflict",
        sample_ppm=1_000_000,
    )
    telemetry.write_lines([line, line], out)
    assert out.getvalue().count(b"\n") == 2
    assert msgspec.json.decode(out.getvalue().splitlines()[0]) == {
        "at_us": 1,
        "event": "authorization",
        "service": "decider",
        "entrypoint": "sync",
        "code": "conflict",
        "sample_ppm": 1_000_000,
    }


def test_every_log_record_of_the_process_becomes_json() -> None:
    out = io.BytesIO()
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        telemetry.configure_logging("test", stream=out)
        telemetry.event("listening", port=1)
        try:
            int("broken")
        except ValueError:
            telemetry.event("stumbled", level=logging.ERROR, error=True)
        logging.getLogger("library").warning("odd %s", "thing")
    finally:
        root.handlers[:], root.level = before
    lines = [msgspec.json.decode(line) for line in out.getvalue().splitlines()]
    ours = {"sluice", "library"}  # a library imported by another test may log between
    first, second, third = [line for line in lines if line["logger"] in ours]
    assert (first["event"], first["port"], first["service"]) == ("listening", 1, "test")
    assert second["level"] == "error"
    assert "ValueError: invalid literal" in second["error"]
    assert third["event"] == "odd thing"


def test_an_id_has_the_name_in_the_log_that_anybody_with_the_key_can_compute() -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        first = telemetry.name_in_log("a-1")
        telemetry.configure_logging("test", stream=io.BytesIO())
        assert telemetry.name_in_log("a-1") == first, "without a key it is this process's own"
        telemetry.configure_logging("test", stream=io.BytesIO(), id_key="secret")
        named = telemetry.name_in_log("a-1")
    finally:
        root.handlers[:], root.level = before
    assert named != first
    assert named == hmac.new(b"secret", b"a-1", hashlib.sha256).hexdigest()[:32]


def test_no_line_acts_on_a_terminal_and_none_is_lost() -> None:
    hostile = "a\x1b[2J\r\nb\x7f\x9b\u202e\u2066"
    out = io.BytesIO()
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        telemetry.configure_logging("test", stream=out)
        telemetry.event("refused", reason=hostile)
        telemetry.event("refused", reason="\ud800", file="\udc80")
        telemetry.event("refused", reason="it held '4111-1111-1111-1111'")
    finally:
        root.handlers[:], root.level = before
    line = Line(
        at_us=1, event="authorization", service="d", entrypoint="sync", code="x",
        sample_ppm=1, region=hostile,
    )  # fmt: skip
    telemetry.write_lines([line, line], out)
    written = out.getvalue()
    assert all(0x20 <= byte <= 0x7E or byte == 0x0A for byte in written)
    assert written.count(b"\n") == 5
    first, second, third, *lines = map(json.loads, written.splitlines())
    assert first["reason"] == lines[0]["region"] == hostile
    assert second["reason"] == "\ud800"
    assert third["reason"] == "it held '…'"


# ---------------------------------------------------------------- which lines


class Seconds:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


IDS = [f"a-{i}" for i in range(20_000)]


def test_a_developers_few_lines_are_all_written() -> None:
    clock = Seconds()
    sampler = Sampler(per_s=20, monotonic=clock)
    for second in range(5):
        clock.now += 1
        assert sampler.shares(IDS[second * 20 : second * 20 + 20]) == [ALL_PPM] * 20


@pytest.mark.parametrize("batch", [1, 25, 500])
def test_at_full_rate_few_lines_stand_for_all(batch: int) -> None:
    """20,000 authorizations a second for 10 seconds."""
    clock = Seconds()
    sampler = Sampler(per_s=1000, monotonic=clock)
    written: list[int] = []
    for start in range(0, 200_000, batch):
        clock.now += batch / 20_000
        written += [s for s in sampler.shares([f"a-{i}" for i in range(start, start + batch)]) if s]
    assert len(written) == pytest.approx(10 * 1000 + 1000, rel=0.05)
    assert sum(ALL_PPM / share for share in written) == pytest.approx(200_000, rel=0.05)


def test_what_is_always_written_is_neither_counted_nor_left_out() -> None:
    sampler = Sampler(sample_ppm=0, per_s=1, monotonic=Seconds())
    assert sampler.shares([None, "a", None, "b"]) == [ALL_PPM, 0, ALL_PPM, 0]
    assert Sampler(per_s=2, monotonic=Seconds()).shares([None] * 9 + ["a", "b"]) == [ALL_PPM] * 11


def test_replicas_of_one_share_write_of_the_same_and_a_smaller_share_is_part_of_it() -> None:
    def ids(share: int, order: list[str]) -> set[str]:
        sampler = Sampler(share, per_s=1e9, monotonic=Seconds())
        return {one for one, kept in zip(order, sampler.shares(order), strict=True) if kept}

    one, other = ids(50_000, IDS), ids(50_000, IDS[::-1])
    assert one == other
    assert ids(10_000, IDS) < one
    assert len(one) == pytest.approx(1000, rel=0.1)


@pytest.mark.parametrize(
    ("code", "changed", "usual"),
    [
        ("decided", {"degradation_level": "D0", "degraded": []}, True),
        ("decided", {"degradation_level": "D0", "degraded": [], "outcome": Outcome.REVIEW}, True),
        ("decided", {"degradation_level": "D0", "degraded": [], "outcome": Outcome.DECLINE}, False),
        ("decided", {"degradation_level": "D0", "degraded": ["store"]}, False),
        ("decided", {"degradation_level": "D2", "degraded": []}, False),
        ("replayed", None, True),
        ("conflict", None, False),
        ("overloaded", None, False),
        ("missing_field", None, False),
    ],
)
def test_a_complete_answer_is_usual_and_what_went_wrong_or_against_somebody_is_not(
    code: str, changed: dict[str, object] | None, usual: bool
) -> None:
    decision = None
    if changed is not None:
        decision = msgspec.structs.replace(make_decision("a-1", sequence=1), **changed)
    assert Sampler.usual(code, decision) is usual
