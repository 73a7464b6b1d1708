"""Drift, by Airflow's own scheduler, starts a training: once, and not again every night.

Half a minute. What `sluice drift` says is a stand-in's; when it says so is in its own tests.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from serving import MAX_S, Airflow, serving

FOUND, TOLD = 3, 4
SAID = """\
#!/bin/sh
here="$(dirname "$0")"
echo "$*" >> "$here/words"
case "$1" in drift) exit "$(cat "$here/drift")";; gate) exit 1;; esac
"""
STARTED = "select run_id from dag_run where dag_id='sluice_retrain' and run_type='asset_triggered'"
NIGHTS = "select run_id from dag_run where dag_id='sluice_nightly'"
EVENTS = (
    "select e.id from asset_event e join asset a on a.id = e.asset_id "
    "where a.uri='x-sluice://drift/found'"
)


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    """With every part that runs what an event starts, and both DAGs switched on."""
    with serving(tmp_path_factory.mktemp("airflow"), SAID) as made:
        (made.home / "drift").write_text(str(FOUND))
        token = made.token()
        assert made.start("dags", "reserialize").wait(MAX_S) == 0
        for dag in ("sluice_nightly", "sluice_retrain"):
            made.ask("PATCH", f"/api/v2/dags/{dag}", {"is_paused": False}, token)
        with made.during("scheduler"):
            yield made


def night(airflow: Airflow, status: int, name: str) -> None:
    """A further run of `sluice_nightly`, in which drift ends so."""
    (airflow.home / "drift").write_text(str(status))
    airflow.ask(
        "POST",
        "/api/v2/dags/sluice_nightly/dagRuns",
        {"dag_run_id": name, "logical_date": None},
        airflow.token(),
    )
    ended(airflow, name)


def ended(airflow: Airflow, name: str, after: int = 0) -> int:
    """Once a run is over and its drift has succeeded, in a later try than that: which. A run that
    is cleared before it is over would not begin again."""
    query = (
        "select t.try_number from task_instance t "
        "join dag_run r on r.run_id = t.run_id and r.dag_id = t.dag_id "
        f"where t.task_id='drift' and t.run_id='{name}' and t.try_number > {after} "
        "and t.state='success' and r.state='success'"
    )
    airflow.wait(f"{name} ended after try {after}", lambda: len(airflow.rows(query)) == 1)
    return int(airflow.rows(query)[0][0])


def test_drift_starts_one_training_and_goes_on_in_silence(airflow: Airflow) -> None:
    airflow.wait("the night before was made up for", lambda: len(airflow.rows(NIGHTS)) == 1)
    ((first,),) = airflow.rows(NIGHTS)
    tries = ended(airflow, first)
    airflow.wait("a training was started", lambda: len(airflow.rows(STARTED)) == 1)
    # The same night again, as of a person who cleared it.
    airflow.ask(
        "POST",
        "/api/v2/dags/sluice_nightly/clearTaskInstances",
        {"dag_run_id": first, "task_ids": ["drift"], "dry_run": False, "only_failed": False},
        airflow.token(),
    )
    ended(airflow, first, after=tries)
    night(airflow, TOLD, "second")
    assert len(airflow.rows(EVENTS)) == 1
    night(airflow, FOUND, "a-week-later")
    assert len(airflow.rows(EVENTS)) == 2
    airflow.wait("a second training was started", lambda: len(airflow.rows(STARTED)) == 2)
    words = (airflow.home / "words").read_text().splitlines()
    said = [line for line in words if line.startswith("drift ")]
    assert len(set(said)) == 3, "a night looks at the same days again"
    assert "--again-after 7d" in said[0]
