"""What is read of a ``/metrics`` page, as prometheus_client writes it."""

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from local import metrics_page


@pytest.fixture
def page() -> str:
    registry = CollectorRegistry()
    counter = Counter("asked", "One.", ["who"], registry=registry)
    counter.labels('a "quoted", {strange} name').inc(2)
    counter.labels("b\nc").inc(1e9)
    Counter("asked_again", "A longer name.", registry=registry).inc(7)
    seconds = Histogram("seconds", "Two.", ["at"], buckets=[1, 2, 4], registry=registry)
    for value in [0.5] * 50 + [1.5] * 40 + [9] * 10:
        seconds.labels("sync").observe(value)
    seconds.labels("stream")
    return generate_latest(registry).decode()


def test_a_total_is_the_sum_of_exactly_this_name(page: str) -> None:
    assert metrics_page.total(page, "asked_total") == 1e9 + 2
    assert metrics_page.total(page, "asked_again_total") == 7
    assert metrics_page.total(page, "asked") == 0
    assert metrics_page.total(page, "seconds_count") == 100


def test_labels_come_back_as_they_were_set(page: str) -> None:
    found = {
        sample.labels["who"]: sample.value for sample in metrics_page.samples(page, "asked_total")
    }
    assert found == {'a "quoted", {strange} name': 2, "b\nc": 1e9}


def test_percentiles_are_interpolated_in_the_buckets_of_the_series(page: str) -> None:
    def at(q: float) -> float | None:
        return metrics_page.percentile(page, "seconds", q, at="sync")

    assert at(0.25) == 0.5
    assert at(0.50) == 1
    assert at(0.70) == 1.5
    assert at(0.99) == 4
    assert metrics_page.percentile(page, "seconds", 0.5, at="stream") is None
    assert metrics_page.percentile(page, "seconds", 0.5, at="nowhere") is None
