"""The featurizer: decisions of a stream processor in, states and observations out, to the very
end."""

from __future__ import annotations

import statistics
from pathlib import Path

from benchmarks.processes import MEASURED, on
from benchmarks.report import Row, row
from benchmarks.stream_processor import Drained, drain, watch
from benchmarks.testbed import Testbed

EVENTS = "sluice_featurizer_events_total"


def measure(testbed: Testbed, results: Path) -> tuple[list[Row], list[str]]:
    """Repetitions, and one with a profile."""
    runs = [_run(testbed, f"features{n}-") for n in range(testbed.scale.replays)]
    _run(testbed, "features-profile-", results / "featurizer.profile.txt")
    decisions = testbed.scale.messages
    observations = 2 * decisions + sum(testbed.traffic.remote[:decisions])
    share = decisions / (decisions + observations)
    middle = statistics.median(run.per_core for run in runs)
    return [
        row("decisions per second of CPU, with their observations", "1/s", middle * share,
            target=">= 15,000"),
        row("CPU per decision, with its observations", "µs", 1e6 / middle / share),
        row("decisions per second, process on one core", "1/s",
            share * statistics.median(run.per_second for run in runs)),
        row("records (decisions and observations) per second of CPU", "1/s", middle),
    ], [
        f"{decisions:,} decisions made {observations:,} observations "
        f"({observations / decisions:.2f} each), produced and consumed by the same process",
        "spread of records per second of CPU: " + ", ".join(f"{r.per_core:,.0f}" for r in runs),
        "profile: featurizer.profile.txt",
    ]  # fmt: skip


def _run(testbed: Testbed, prefix: str, profile: Path | None = None) -> Drained:
    """Decide everything, then feed the decisions to a featurizer over a store with the past."""
    drain(testbed, prefix)
    wanted = 3 * testbed.scale.messages + sum(testbed.traffic.remote[: testbed.scale.messages])
    with testbed.store() as store, testbed.stack(store, prefix) as stack:
        with on(MEASURED):
            process = stack.start("featurizer")
        found = watch(
            process, lambda: process.metric(EVENTS), wanted, testbed.folder, profile, whole=True
        )
        stack.stop("featurizer")
    return found
