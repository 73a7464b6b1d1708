"""Every week: how late frauds become known, and the word that a further week of labels is there.

    maturity

**maturity** counts, by channel and source, which share of the reported frauds was known after so
many days: what a label delay costs is in its log. It fails while there is no report old enough to
count. Its event (`x-sluice://labels/matured`) starts `sluice_retrain`; change the schedule here to
train more often, or pause this DAG to train by hand alone. It changes nothing: run it at any time.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag
from assets import LABELS_MATURED
from steps import DAGS, place, step


@dag(
    dag_id="sluice_matured",
    schedule="30 3 * * 1",
    dagrun_timeout=timedelta(hours=3),
    doc_md=__doc__,
    **DAGS,
)
def matured() -> None:
    """One step."""
    step(
        "labels maturity",
        *("--archive", place("archive")),
        task_id="maturity",
        outlets=[LABELS_MATURED],
        within=timedelta(hours=1),
        again="the archive's disk may be away",
    )


matured()
