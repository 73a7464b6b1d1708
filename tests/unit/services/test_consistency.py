"""A round of the consistency check as metrics."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec
import prometheus_client
import pytest

from services.consistency import main as service
from sluice import telemetry
from sluice.application.consistency import Tally
from sluice.settings import Settings


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> prometheus_client.CollectorRegistry:
    registry = prometheus_client.CollectorRegistry()
    monkeypatch.setattr(telemetry, "METRICS", telemetry.Metrics(registry))
    return registry


def test_before_the_first_round_every_result_counts_zero(shown, tmp_path: Path):
    archiver = msgspec.structs.replace(Settings().archiver, root=str(tmp_path))
    telemetry.METRICS.begin("consistency")
    check = service.make(msgspec.structs.replace(Settings(), archiver=archiver))
    for result in service.RESULTS:
        labels = {"result": result}
        assert shown.get_sample_value("sluice_consistency_decisions_total", labels) == 0
    service.show(check.round(), check.oldest_waiting_s(), 0.1)
    assert shown.get_sample_value("sluice_consistency_parity_ratio") is None  # unknown is not 1


def test_a_difference_lowers_parity_and_names_the_worst_feature_alone(shown):
    tally = Tally(compared=4, differing=1, waiting=2)
    tally.features = Counter({"terminal_count_1h": 1, "merchant_count_1h": 3})
    tally.behind_us["terminal"] = [0, 0, 250_000]
    service.show(tally, 7.5, 0.1)
    value = shown.get_sample_value
    assert value("sluice_consistency_parity_ratio") == 0.75
    assert value("sluice_consistency_decisions_total", {"result": "differing"}) == 1
    assert value("sluice_consistency_worst_feature_info", {"feature": "merchant_count_1h"}) == 1
    assert value("sluice_consistency_worst_feature_info", {"feature": "terminal_count_1h"}) is None
    assert value("sluice_consistency_waiting") == 2
    assert value("sluice_consistency_oldest_waiting_seconds") == 7.5
    p99 = {"entity": "terminal", "quantile": "p99"}
    assert value("sluice_consistency_behind_quantile_seconds", p99) == 0.25

    service.show(Tally(compared=4), 0.0, 0.1)
    assert value("sluice_consistency_parity_ratio") == 1
    assert value("sluice_consistency_decisions_total", {"result": "differing"}) == 1


def test_what_is_judged_again_is_counted_by_result_and_a_difference_is_logged(shown, caplog):
    tally = Tally(compared=4)
    tally.replayed = Counter({"equal": 2, "differing": 1, "no_release": 1})
    tally.fields = Counter({"score_ppm": 1})
    tally.why = ["no release here is test-2"]
    service.show(tally, 0.0, 0.1)
    for result, n in (("equal", 2), ("differing", 1), ("no_release", 1), ("no_policy", 0)):
        labels = {"result": result}
        assert shown.get_sample_value("sluice_consistency_replays_total", labels) == n
    assert "replay_differs" in caplog.text
    assert "not_replayed" in caplog.text
