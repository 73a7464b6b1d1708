"""Every day: the sources' files of fraud reports go to the labeller.

    send_SOURCE, one for each source

A source is a folder of the inbox where a file comes each day, `visa-tc40/2026-11-26.csv`; which
there are is said in Airflow's configuration (`AIRFLOW__SLUICE__SOURCES`, comma separated; none
without it). Each row has its source's own `report_id`, so a file may be sent again. The labeller
makes labels of them: `labels.v1`, from which features, training sets and figures come.

A file that has not come yet is waited for: the step is tried again for hours. A step that fails
for its rows names the first of them: mend the file, or raise `allow_bad`, and clear the task.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import Param, conf, dag
from steps import DAGS, SECTION, UNMENDABLE, place, step

LABELLER = "http://127.0.0.1:8081"
"""Of a machine without a cluster."""
TRIES = 40
"""Every half an hour at last: most of a day."""
WRONG = {status: why for status, why in UNMENDABLE.items() if status != 78}
"""A file that is not there is wrong input, which may yet come."""


@dag(
    dag_id="sluice_labels",
    schedule="10 2 * * *",
    dagrun_timeout=timedelta(hours=23),
    params={"allow_bad": Param(0, type="integer", minimum=0, description="Rows without a label.")},
    doc_md=__doc__,
    **DAGS,
)
def labels() -> None:
    """A step for each source."""
    sources = conf.get(SECTION, "sources", fallback="").split(",")
    credentials: list[str] = []
    for option, key in (("--token-file", "labeller_token"), ("--ca-file", "labeller_ca")):
        if given := conf.get(SECTION, key, fallback=""):
            credentials += [option, given]
    for source in filter(None, map(str.strip, sources)):
        step(
            "labels send",
            place("inbox") + f"/{source}/{{{{ dag_run.run_after.strftime('%Y-%m-%d') }}}}.csv",
            *("--url", conf.get(SECTION, "labeller", fallback=LABELLER)),
            *credentials,
            *("--set", f"source={source}", "--allow-bad", "{{ params.allow_bad }}"),
            task_id=f"send_{source}",
            within=timedelta(hours=2),
            again="the file may not have come yet, or the labeller be away",
            retries=TRIES,
            wrong=WRONG,
        )


labels()
