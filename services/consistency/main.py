"""``python -m services.consistency.main``: a sample of served vectors, recomputed all the time."""

from __future__ import annotations

import logging
import time

import numpy as np

from services.repeat import show_completed, show_due
from sluice import telemetry
from sluice.application.consistency import ConsistencyCheck, Tally
from sluice.application.rejudge import RESULTS as REPLAY_RESULTS
from sluice.bootstrap import services as bootstrap
from sluice.domain.clock import SECOND_US
from sluice.domain.features import catalogue
from sluice.errors import SluiceError
from sluice.settings import Settings, load

ROUND = "check"
"""Its name among what is due again and again."""
RESULTS = ("equal", "differing", "other_catalogue", "too_large", "gave_up")
QUANTILES = {"p50": 50, "p99": 99}


def main() -> int:
    """Run until SIGTERM. Returns the exit status: 0 stopped, 1 gave up (see the log)."""
    settings, _ = load()
    try:
        stop = bootstrap.start("consistency", settings).stop
        check = make(settings)
        telemetry.HEALTH.silent_max_s += settings.consistency.every_s
        show_due(ROUND, settings.consistency.every_s)
        while not stop.is_set():
            began = time.monotonic()
            show(check.round(), check.oldest_waiting_s(), time.monotonic() - began)
            telemetry.HEALTH.beat(ready=True)
            show_completed(ROUND)
            stop.wait(settings.consistency.every_s)
    except SluiceError as error:
        telemetry.event("stopped", level=logging.ERROR, code=error.code, reason=str(error))
        return 1
    telemetry.event("stopped", code="sigterm")
    return 0


def make(settings: Settings) -> ConsistencyCheck:
    """The consistency check over the archive."""
    return bootstrap.consistency_check(settings)


def show(tally: Tally, oldest_waiting_s: float, seconds: float) -> None:
    """One round as metrics, and what differs as an event of the log."""
    metrics = telemetry.METRICS
    found = (
        tally.compared - tally.differing,
        tally.differing,
        tally.other_catalogue,
        tally.too_large,
        tally.gave_up,
    )
    metrics.count_each("sluice_consistency_decisions_total", dict(zip(RESULTS, found, strict=True)))
    metrics.set("sluice_consistency_waiting", tally.waiting)
    metrics.set("sluice_consistency_oldest_waiting_seconds", oldest_waiting_s)
    metrics.set("sluice_consistency_round_seconds", seconds)
    if tally.parity is not None:
        metrics.set("sluice_consistency_parity_ratio", tally.parity)
    if tally.worst is not None:
        metrics.info("sluice_consistency_worst_feature_info", tally.worst)
        telemetry.event(
            "parity_broken",
            level=logging.ERROR,
            compared=tally.compared,
            differing=tally.differing,
            features=dict(tally.features.most_common(10)),
            places=[example.place for example in tally.examples],
            fix="docs/runbooks/parity.md",
        )
    if tally.replayed:
        metrics.count_each(
            "sluice_consistency_replays_total",
            {result: tally.replayed[result] for result in REPLAY_RESULTS},
        )
    if tally.replayed["differing"]:
        telemetry.event(
            "replay_differs",
            level=logging.ERROR,
            differing=tally.replayed["differing"],
            fields=dict(tally.fields.most_common(10)),
            places=[example.place for example in tally.replay_examples],
            fix="docs/runbooks/parity.md",
        )
    if tally.why:
        telemetry.event("not_replayed", level=logging.WARNING, reasons=tally.why)
    same = tally.with_pending - tally.pending_mattered
    metrics.count("sluice_consistency_pending_total", "mattered", by=tally.pending_mattered)
    metrics.count("sluice_consistency_pending_total", "same", by=same)
    for view in catalogue.VIEWS:
        metrics.count("sluice_consistency_defaulted_total", view, "missing", by=tally.missing[view])
        metrics.count("sluice_consistency_defaulted_total", view, "new", by=tally.new[view])
        ages = np.array(tally.behind_us[view], np.int64) / SECOND_US
        if not len(ages):
            continue
        metrics.observe_each("sluice_consistency_behind_seconds", ages.tolist(), view)
        for name, q in QUANTILES.items():
            value = float(np.percentile(ages, q, method="higher"))
            metrics.set("sluice_consistency_behind_quantile_seconds", value, view, name)


if __name__ == "__main__":
    raise SystemExit(main())
