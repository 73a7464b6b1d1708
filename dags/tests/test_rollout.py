"""`sluice_rollout` whole, answered through Airflow's own API; only `sluice` is a stand-in.

Half a minute: the run waits for the answer while a web server of the same database takes it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from serving import MAX_S, Airflow, serving

SAID = """\
#!/bin/sh
here="$(dirname "$0")"
echo "$*" >> "$here/words"
case "$*" in
  *"release held"*"--as champion") test ! -e "$here/returned" || exit 78 ;;
esac
"""
"""Does as it is told, but for a champion that somebody took back."""
AT_ONCE = {f"{step}_hours": 0 for step in ("shadow", "canary", "champion")} | {
    "wide_hours": 0.0005,
    "release": "r42",
}


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    with serving(tmp_path_factory.mktemp("airflow"), SAID) as made:
        yield made


def answered(airflow: Airflow, answer: str) -> tuple[int, dict[str, str], list[str]]:
    """The exit status of a rollout that a person answers so, its tasks' states, and the verbs."""
    (airflow.home / "words").unlink(missing_ok=True)
    before = {run for (run,) in airflow.rows("select run_id from dag_run")}
    run = airflow.start("dags", "test", "sluice_rollout", "--conf", json.dumps(AT_ONCE))
    until = time.monotonic() + MAX_S
    waits = "select run_id from task_instance where task_id='approve' and state='awaiting_input'"
    while not (asked := [name for (name,) in airflow.rows(waits) if name not in before]):
        assert run.poll() is None, (airflow.home / "dags.log").read_text()[-3000:]
        assert time.monotonic() < until, "nobody was asked"
        time.sleep(0.2)
    place = f"/api/v2/dags/sluice_rollout/dagRuns/{quote(asked[0])}"
    token = airflow.token()
    shown = airflow.ask("GET", f"{place}/taskInstances/approve/-1/hitlDetails", token=token)
    assert shown["subject"] == "Make r42 the champion?"
    airflow.ask(
        "PATCH",
        f"{place}/taskInstances/approve/-1/hitlDetails",
        {"chosen_options": [answer], "params_input": {}},
        token,
    )
    status = run.wait(MAX_S)
    states = airflow.rows(f"select task_id, state from task_instance where run_id='{asked[0]}'")
    verbs = (airflow.home / "words").read_text().splitlines()
    return status, dict(states), verbs


def test_an_approved_release_becomes_the_champion_after_the_share_that_it_was_given(
    airflow: Airflow,
) -> None:
    status, states, verbs = answered(airflow, "Approve")
    assert status == 0
    assert states.pop("back") == "skipped"
    assert set(states.values()) == {"success"}
    assert len(states) == 13
    (promoted,) = (verb for verb in verbs if verb.startswith("release promote"))
    assert "r42 --once --held-s 1 --key" in promoted
    assert not [verb for verb in verbs if verb.startswith("release withdraw")]


def test_a_champion_that_was_taken_back_fails_the_run_and_stays_back(airflow: Airflow) -> None:
    returned = airflow.home / "returned"
    returned.touch()
    try:
        status, states, verbs = answered(airflow, "Approve")
    finally:
        returned.unlink()
    assert status != 0
    ended = {name: states[name] for name in ("promote", "champion_held", "kept", "back")}
    assert ended == {
        "promote": "success",
        "champion_held": "failed",
        "kept": "upstream_failed",
        "back": "success",
    }
    asked = [verb for verb in verbs if verb.endswith("--as champion")]
    assert len(asked) == 1, "that it went back is an answer, and not asked again"
    assert "release withdraw" in verbs[-1]


def test_a_rejected_release_goes_back_and_the_run_fails(airflow: Airflow) -> None:
    status, states, verbs = answered(airflow, "Reject")
    assert status != 0
    ended = {name: states[name] for name in ("approve", "promote", "kept", "back")}
    assert ended == {
        "approve": "failed",
        "promote": "upstream_failed",
        "kept": "upstream_failed",
        "back": "success",
    }
    assert "release withdraw" in verbs[-1]
    assert not [verb for verb in verbs if verb.startswith("release promote")]
