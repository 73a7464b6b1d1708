"""Once a week: old runs of the learning loop are deleted.

    retention

Training sets, trainings and reports of runs that began over `keep_days` ago go, but for the three
newest of each DAG. Releases stay, and so does the archive: how long decisions are kept is for the
bank to say, not for this DAG. What the task would delete: `sluice retention --dry-run`.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import Param, dag
from steps import DAGS, place, step


@dag(
    dag_id="sluice_retention",
    schedule="20 4 * * 6",
    dagrun_timeout=timedelta(hours=4),
    params={"keep_days": Param(90, type="integer", minimum=1, description="Of a run's folder.")},
    doc_md=__doc__,
    **DAGS,
)
def retention() -> None:
    """One step."""
    step(
        "retention",
        *("--work", place("work"), "--keep-days", "{{ params.keep_days }}"),
        within=timedelta(hours=2),
        again="what was interrupted is ended by the next try",
    )


retention()
