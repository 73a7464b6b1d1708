"""A real Airflow's web server over a database of its own; only `sluice` is a stand-in."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

DAGS = Path(__file__).parents[1]
AIRFLOW = Path(sys.executable).with_name("airflow")
IMAGES = ("SERVICES", "FEATURES", "TRAINING")
MAX_S = 300.0


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
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__API_AUTH__JWT_SECRET": "of the tests alone, as long as is asked",
            "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "150",  # on a machine that others use too
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(port + 1),
            **{f"AIRFLOW__SLUICE__{image}": str(home / "sluice") for image in IMAGES},
            "AIRFLOW__SLUICE__WORK": (home / "runs").as_uri(),
            "PATH": f"{AIRFLOW.parent}{os.pathsep}{os.environ['PATH']}",
        }

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        with (self.home / f"{words[0]}.log").open("ab") as log:
            return subprocess.Popen([AIRFLOW, *words], env=self.told, stdout=log, stderr=log)

    @contextlib.contextmanager
    def during(self, *words: str) -> Iterator[None]:
        """A part of it, ended afterwards."""
        part = self.start(*words)
        try:
            yield
        finally:
            part.terminate()
            part.wait(MAX_S)

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

    def wait(self, what: str, holds: Callable[[], bool]) -> None:
        """Until something holds. Raises AssertionError with what it is."""
        until = time.monotonic() + MAX_S
        while not holds():
            assert time.monotonic() < until, f"still not so: {what}"
            time.sleep(0.2)


@contextlib.contextmanager
def serving(home: Path, said: str) -> Iterator[Airflow]:
    """One whose `sluice` does what a script says."""
    (home / "sluice").write_text(said)
    (home / "sluice").chmod(0o755)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    made = Airflow(home, port)
    assert made.start("db", "migrate").wait(MAX_S) == 0, (home / "db.log").read_text()[-3000:]
    with made.during("api-server", "--host", "127.0.0.1", "--port", str(port)):
        yield made
