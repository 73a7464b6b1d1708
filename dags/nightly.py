"""Every night: was it served as the log says, and is the world still the one of the release?

    consistency
    drift

**consistency** recomputes served vectors from the archive and compares every bit. A difference
fails the task, and so does a night without enough to compare; `docs/runbooks/parity.md` goes on
from there. **drift** compares inputs and scores with the distributions that the release in force
carries. Drift is an answer, not a failure: the task succeeds, and its event
(`x-sluice://drift/found`) starts `sluice_retrain`.

Both write a report, whose URI is their XCom, and change nothing: run them again at any time.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag
from assets import DRIFT_FOUND
from steps import DAGS, own_folder, place, step

FOUND = 3
"""Exit status of `sluice drift` where something drifted."""


@dag(
    dag_id="sluice_nightly",
    schedule="40 1 * * *",
    dagrun_timeout=timedelta(hours=8),
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
        *("--report", f"{run}/drift.json"),
        out=f"{run}/drift.json",
        verdicts={FOUND: DRIFT_FOUND},
        within=timedelta(hours=2),
        again="the archive's disk may be away",
    )


nightly()
