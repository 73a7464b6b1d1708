"""Every night: was it served as the log says?

    consistency

**consistency** recomputes served vectors from the archive and compares every bit. A difference
fails the task, and so does a night without enough to compare; `docs/runbooks/parity.md` goes on
from there. It writes a report, whose URI is its XCom, and changes nothing: run it again at any
time.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag
from steps import DAGS, own_folder, place, step


@dag(
    dag_id="sluice_nightly",
    schedule="40 1 * * *",
    dagrun_timeout=timedelta(hours=8),
    doc_md=__doc__,
    **DAGS,
)
def nightly() -> None:
    """One step."""
    run = own_folder("nightly")
    step(
        "consistency",
        *("--archive", place("archive"), "--newest", "100000"),
        *("--report", f"{run}/consistency.json"),
        out=f"{run}/consistency.json",
        within=timedelta(hours=2),
        again="the archiver may be behind, or its disk away",
    )


nightly()
