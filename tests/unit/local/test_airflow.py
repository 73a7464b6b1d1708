"""What a local Airflow is told before it starts."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from local import airflow
from sluice.errors import Misconfigured


def test_it_is_told_its_own_folder_and_nothing_of_the_callers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql://the-banks-own")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    told = airflow.environment(tmp_path, 8793, {"key": "/keys/release"})
    assert "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN" not in told
    assert "PYTHONDONTWRITEBYTECODE" not in told
    assert told["AIRFLOW_HOME"] == str(tmp_path / "airflow")
    assert told["AIRFLOW__SLUICE__WORK"] == (tmp_path / "loop/runs").as_uri()
    assert told["AIRFLOW__SLUICE__KEY"] == "/keys/release"
    assert told["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert told["PATH"].split(":")[0] == str(airflow.PROGRAM.parent)


def test_what_the_caller_says_of_our_own_section_goes_over_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in (
        ("AIRFLOW__SLUICE__KEY", "file:///keys/release"),
        ("AIRFLOW__SLUICE__REGISTRY", "file:///elsewhere"),
        ("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql://the-banks-own"),
        ("AIRFLOW_HOME", "/the/banks/own"),
    ):
        monkeypatch.setenv(key, value)
    told = airflow.environment(tmp_path, 8793, airflow.asked_for())
    assert told["AIRFLOW__SLUICE__KEY"] == "file:///keys/release"
    assert told["AIRFLOW__SLUICE__REGISTRY"] == "file:///elsewhere"
    assert told["AIRFLOW__SLUICE__ARCHIVE"] == (tmp_path / "local/archive").as_uri()
    assert told["AIRFLOW_HOME"] == str(tmp_path / "airflow")
    assert airflow.left_out() == ["AIRFLOW_HOME", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]


def test_the_password_is_the_one_that_airflow_made(tmp_path: Path) -> None:
    (tmp_path / "airflow").mkdir()
    made = tmp_path / "airflow/simple_auth_manager_passwords.json.generated"
    made.write_text(json.dumps({"admin": "s3same"}))
    assert airflow.password(tmp_path) == "s3same"


def test_a_port_that_another_process_has_is_named_with_the_way_out(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Misconfigured, match=f"port {port} is taken") as refused:
            airflow.serve(tmp_path, port)
    assert "AIRFLOW_PORT=" in refused.value.fix
    assert not any(tmp_path.iterdir())


def test_what_does_not_answer_is_not_healthy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
    assert not airflow.healthy(port)
