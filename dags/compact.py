"""Every night: the archive's small files of days that are over are put together.

    compact

An archiver writes a file a partition every minute; readers list and open them one by one.
**compact** puts those of a day and partition together to one, of every day that ended more than a
day ago, and deletes what it put together the night before: who listed before still finds it.
Nobody sees a row twice or never meanwhile.

It may be ended at any point and run again: it looks at what lies there, and what was done is not
done again. By hand, or without Airflow: `sluice archive compact`.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag
from steps import DAGS, place, step


@dag(
    dag_id="sluice_compact",
    schedule="10 3 * * *",
    dagrun_timeout=timedelta(hours=12),
    doc_md=__doc__,
    **DAGS,
)
def compact() -> None:
    """One step."""
    step(
        "archive compact",
        *("--archive", place("archive"), "--keep-h", "20"),
        task_id="compact",
        within=timedelta(hours=3),
        again="the archive's storage may be away for longer than the verb waits",
    )


compact()
