"""`sluice_rollout` whole, answered through Airflow's own API; only `sluice` is a stand-in.

Half a minute: the run waits for the answer while a web server of the same database takes it.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

DAGS = Path(__file__).parents[1]
AIRFLOW = Path(sys.executable).with_name("airflow")
SAID = """\
#!/bin/sh
here="$(dirname "$0")"
echo "$*" >> "$here/words"
case "$*" in
  *"release held"*"--as champion") test ! -e "$here/returned" || exit 78 ;;
esac
"""
"""Does as it is told, but for a champion that somebody took back."""
MAX_S = 150.0
AT_ONCE = {f"{step}_hours": 0 for step in ("shadow", "canary", "champion")} | {
    "wide_hours": 0.0005,
    "release": "r42",
}


class Airflow:
    """A home with a database of its own, and what answers at its address."""

    def __init__(self, home: Path, port: int) -> None:
        self.home, self.url = home, f"http://127.0.0.1:{port}"
        own = {key: v for key, v in os.environ.items() if not key.startswith("AIRFLOW")}
        self.told = own | {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__SLUICE__SERVICES": str(home / "sluice"),
            "PATH": f"{AIRFLOW.parent}{os.pathsep}{os.environ['PATH']}",
        }

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        with (self.home / f"{words[0]}.log").open("ab") as log:
            return subprocess.Popen([AIRFLOW, *words], env=self.told, stdout=log, stderr=log)

    def ask(self, method: str, path: str, body: Any = None, token: str = "") -> Any:
        request = urllib.request.Request(
            self.url + path,
            None if body is None else json.dumps(body).encode(),
            {"content-type": "application/json", "authorization": f"Bearer {token}"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def token(self) -> str:
        """Once the web server answers."""
        until = time.monotonic() + MAX_S
        while True:
            try:
                return str(self.ask("GET", "/auth/token")["access_token"])
            except urllib.error.URLError:
                assert time.monotonic() < until, (self.home / "api-server.log").read_text()[-3000:]
                time.sleep(0.2)

    def rows(self, query: str) -> list[tuple[str, ...]]:
        with sqlite3.connect(self.home / "airflow.db", timeout=30) as database:
            return database.execute(query).fetchall()


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    home = tmp_path_factory.mktemp("airflow")
    (home / "sluice").write_text(SAID)
    (home / "sluice").chmod(0o755)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    made = Airflow(home, port)
    assert made.start("db", "migrate").wait(MAX_S) == 0, (home / "db.log").read_text()[-3000:]
    server = made.start("api-server", "--host", "127.0.0.1", "--port", str(port))
    try:
        yield made
    finally:
        server.terminate()
        server.wait(30)


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
