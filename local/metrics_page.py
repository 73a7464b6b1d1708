"""Reads a ``/metrics`` page: samples by name, sums, and percentiles of a histogram."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample


def samples(page: str, name: str) -> list[Sample]:
    """Samples of exactly this name: with ``_total`` of a counter, with ``_bucket`` of a histogram.

    Only lines that begin with it are parsed: a whole page takes 10 ms, and it is asked for often.
    """
    lines = "\n".join(line for line in page.splitlines() if line.startswith(name))
    return [
        sample
        for family in text_string_to_metric_families(lines)
        for sample in family.samples
        if sample.name == name
    ]


def total(page: str, name: str) -> float:
    """Sum over its labels; 0 if the page has none."""
    return float(sum(sample.value for sample in samples(page, name)))


def percentile(page: str, name: str, q: float, **labels: str) -> float | None:
    """Quantile of a histogram, interpolated in its buckets; None while it has counted nothing.

    labels: of the series. Past the last finite edge it is that edge.
    """
    buckets = [
        (float(sample.labels["le"]), sample.value)
        for sample in samples(page, f"{name}_bucket")
        if sample.labels.items() >= labels.items()
    ]
    if not buckets or not buckets[-1][1]:
        return None
    wanted = q * buckets[-1][1]
    edge, below = 0.0, 0.0
    for upper, count in buckets:
        if count >= wanted:
            if upper == float("inf"):
                return edge
            return edge + (upper - edge) * (wanted - below) / max(count - below, 1)
        edge, below = upper, count
    return edge
