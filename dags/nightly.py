"""Every night: was it served as the log says, and is the world still the one of the release?

    consistency
    drift

**consistency** recomputes served vectors from the archive and compares every bit. A difference
fails the task, and so does a night without enough to compare; `docs/runbooks/parity.md` goes on
from there. **drift** compares inputs and scores with the distributions that the release in force
carries. Drift is an answer, not a failure: the task succeeds, and its event
(`x-sluice://drift/found`) starts `sluice_retrain`. What goes on is told once in `again_after`, a
week as it comes: of the same release and verdict a report of these days is looked for beside the
run's own. A release retrained and rolled out takes as long, and each new one takes the place of
the one in shadow: drift told every night would let none become champion. A new champion that
drifts, or one that leaves its domain after it drifted, is told at once.

Both write a report, whose URI is their XCom, and change nothing: run them again at any time. They
look up to the run's own time, so that a run cleared and run again finds the same; an event that a
run has sent it does not send again. To retrain all the same, trigger `sluice_retrain`.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import Param, dag
from assets import DRIFT_FOUND
from steps import DAGS, own_folder, place, step

FOUND, TOLD = 3, 4
"""Exit statuses of `sluice drift` where something drifted, and where a night before told so."""


@dag(
    dag_id="sluice_nightly",
    schedule="40 1 * * *",
    dagrun_timeout=timedelta(hours=8),
    params={
        "again_after": Param("7d", type="string", description="Until the same drift is told again.")
    },
    doc_md=__doc__,
    **DAGS,
)
def nightly() -> None:
    """The consistency check, and drift, beside each other."""
    run = own_folder("nightly")
    step(
        "consistency",
        *("--archive", place("archive"), "--newest", "100000"),
        *("--report", f"{run}/consistency.json"),
        out=f"{run}/consistency.json",
        within=timedelta(hours=2),
        again="the archiver may be behind, or its disk away",
    )
    step(
        "drift",
        *("--archive", place("archive"), "--release", place("registry"), "--trust", place("trust")),
        *("--to", "{{ dag_run.run_after.strftime('%Y-%m-%dT%H:%M:%SZ') }}"),
        *("--report", f"{run}/drift.json", "--again-after", "{{ params.again_after }}"),
        out=f"{run}/drift.json",
        verdicts={FOUND: DRIFT_FOUND, TOLD: None},
        within=timedelta(hours=2),
        again="the archive's disk may be away",
    )


nightly()
