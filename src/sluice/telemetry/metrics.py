"""Counts, gauges and histograms of the metric table, many values a call, and ``/metrics``."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import prometheus_client
from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from sluice.domain.features import catalogue
from sluice.domain.records.decision import Decision
from sluice.telemetry.table import AGE_SAMPLE, LABEL_SETS_MAX, SHOWN_BY, TABLE, Kind, Metric

T = TypeVar("T")
_SINCE_LAST = {entity: catalogue.INDEX[f"{entity}_since_last_s"] for entity in catalogue.VIEWS}
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
    """The metrics of one process. Created on first use, or by ``begin``: a page shows what runs.

    registry: by default the one that ``/metrics`` shows. Thread-safe.
    Raises LookupError for a name or a number of labels that TABLE does not hold.
    """

    def __init__(self, registry: CollectorRegistry = prometheus_client.REGISTRY) -> None:
        self._registry = registry
        self._families: dict[str, Any] = {}
        self._children: dict[tuple[str, ...], Any] = {}
        self._lock = threading.Lock()

    def begin(self, service: str) -> None:
        """Show the counters of a service's mistakes at 0, so that the first one is a rise."""
        for row in TABLE:
            if row.kind == "counter" and service in SHOWN_BY[row.name.split("_")[1]]:
                for labels in row.begins if row.labels else ((),):
                    self.count(row.name, *labels, by=0)

    def count(self, name: str, /, *labels: str, by: float = 1) -> None:
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

    def replace(self, name: str, values: Mapping[tuple[str, ...], float]) -> None:
        """Set a gauge under these label sets and drop every other: what left is not shown."""
        for labels, value in values.items():
            self.set(name, value, *labels)
        family = self._family(name, "gauge", _ROWS[name].labels)
        with self._lock:
            shown = [key for key in self._children if key[0] == name and "other" not in key]
            for key in [key for key in shown if key[1:] not in values]:
                del self._children[key]
                family.remove(*key[1:])

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
    metrics: Metrics, entrypoint: str, decisions: Sequence[Decision], seconds: Sequence[float]
) -> None:
    """Count a micro-batch of decisions: outcome, reasons, degradation level, parts missing, states,
    duration.

    decisions: (n,). seconds: durations, any number. Aggregates first, so that the cost in a batch
    of 100 is about 1.5 µs an authorization.
    """
    each = metrics.count_each
    each("sluice_decider_decisions_total", Counter([d.outcome for d in decisions]), entrypoint)
    each(
        "sluice_decider_degradation_levels_total", Counter([d.degradation_level for d in decisions])
    )
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
    metrics.observe_each("sluice_decider_duration_seconds", seconds, entrypoint)


def show_lag(metrics: Metrics, lag: Mapping[tuple[str, int], int]) -> None:
    """Messages behind the end, by topic and partition, of the partitions that are ours now."""
    metrics.replace(
        "sluice_consumer_lag_messages",
        {(topic, str(partition)): behind for (topic, partition), behind in lag.items()},
    )
