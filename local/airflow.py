"""A real Airflow on this machine, with the DAGs of dags/: ``make airflow`` and ``make retrain``.

  python -m local.airflow serve     all of it until Ctrl-C; prints address and password
  python -m local.airflow retrain   a small simulated history, then the DAG ``sluice_retrain`` once

Airflow has an environment of its own (dags/.venv) and is only ever started as a program. Its
database, logs and password are in FOLDER/airflow, what the steps share in FOLDER/loop.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from local.kafka import processes
from sluice.errors import Misconfigured, SluiceError, Unavailable

ROOT = Path(__file__).parents[1]
DAGS = ROOT / "dags"
PROGRAM = DAGS / ".venv/bin/airflow"
USER = "admin"
READY_MAX_S = 180.0
"""Nine seconds on an idle machine; a minute while it compiles its byte code."""
ASK_AGAIN_S = 0.5
STOP_MAX_S = 30.0
KILL_AFTER_S = 5.0
COMPONENTS = ("metadatabase", "scheduler", "triggerer", "dag_processor")
TASKS_MAX = 4
"""At once. Steps are processes of this machine here."""
DAG = "sluice_retrain"
HISTORY = (
    *("--days", "56", "--start", "2026-09-01", "--seed", "7"),
    *("--cards", "1200", "--fraud-bp", "80"),
)
SMALL = {
    "first": "2026-09-08",
    "until": "2026-10-20",
    "label_delay": "7d",
    "tests": 1,
    "time_box": "30s",
    "trials": 1,
    # The committed release was made of three worlds of half a year: nothing that five weeks of one
    # teach takes its place, and so few frauds carry no student in eight bits:
    # the gate finds 165 of 100,000 decisions changed by them, where 10 may be.
    "candidate": "lightgbm",
    "first_champion": True,
}
"""What `make retrain` asks of the DAG: two minutes on two cores."""
FROM_OURSELVES = ("AIRFLOW", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV")
OURS = "AIRFLOW__SLUICE__"
"""Variables of section ``sluice``, by which steps are told where keys, releases, archive and images
are. The rest of Airflow's stays out: a shell that is set up for a bank's own Airflow would have
this one migrate that one's database."""


def asked_for() -> dict[str, str]:
    """What the caller's environment says of section ``sluice``, by key."""
    return {key.removeprefix(OURS): v for key, v in os.environ.items() if key.startswith(OURS)}


def left_out() -> list[str]:
    """Other variables of an Airflow in the caller's environment, which are not passed on."""
    return sorted(key for key in os.environ if key.startswith("AIRFLOW") and OURS not in key)


def environment(folder: Path, port: int, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables of a local Airflow over one folder. more: of section ``sluice``, by key."""
    home, loop = folder / "airflow", folder / "loop"
    kept = {key: v for key, v in os.environ.items() if not key.startswith(FROM_OURSELVES)}
    url = f"http://127.0.0.1:{port}"
    given = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": str(TASKS_MAX),
        "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "150",  # on a machine that others use too
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__WORKERS": "1",
        # Both listen beside the web server, on every address.
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(port + 1),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(port + 2),
        "AIRFLOW__SLUICE__WORK": (loop / "runs").as_uri(),
        "AIRFLOW__SLUICE__INBOX": (loop / "inbox").as_uri(),
        "AIRFLOW__SLUICE__REGISTRY": (loop / "registry").as_uri(),
        "AIRFLOW__SLUICE__ARCHIVE": (folder / "local/archive").as_uri(),
        "SCARF_ANALYTICS": "false",  # Airflow counts its installations with it
        "DO_NOT_TRACK": "1",
        # `standalone` looks for its parts there.
        "PATH": f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}",
    }
    ours = {f"{OURS}{key.upper()}": value for key, value in (more or {}).items()}
    return kept | given | ours


def password(folder: Path) -> str:
    """Of USER, as Airflow's simple auth manager made it."""
    made = folder / "airflow/simple_auth_manager_passwords.json.generated"
    return str(json.loads(made.read_text())[USER])


def healthy(port: int) -> bool:
    """Whether every part of an Airflow says that it is."""
    url = f"http://127.0.0.1:{port}/api/v2/monitor/health"
    with contextlib.suppress(OSError, ValueError), urllib.request.urlopen(url, timeout=5) as answer:
        said = json.load(answer)
        return all((said.get(part) or {}).get("status") == "healthy" for part in COMPONENTS)
    return False


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def serve(folder: Path, port: int) -> int:
    """Start all of it, and stay until a signal. Returns 1 if it died, 0 after a signal."""
    _refuse_a_taken(port)
    (folder / "airflow").mkdir(parents=True, exist_ok=True)
    for place in ("runs", "inbox"):
        (folder / "loop" / place).mkdir(parents=True, exist_ok=True)
    log = folder / "airflow/standalone.log"
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    if others := left_out():
        print(f"airflow    is one of its own, so these are not passed on: {', '.join(others)}")
    print(f"airflow    starts; its lines are in {log}", flush=True)
    with log.open("wb") as lines:
        airflow = subprocess.Popen(
            [PROGRAM, "standalone"],
            env=environment(folder, port, asked_for()),
            stdout=lines,
            stderr=lines,
            start_new_session=True,  # Ctrl-C is ours to pass on, once
        )
    try:
        _wait(airflow, port, log)
        print(f"address    http://127.0.0.1:{port}")
        print(f"user       {USER}, password {password(folder)}")
        print("dags       are paused; one runs when it is switched on, or triggered there")
        print("ready      until Ctrl-C", flush=True)
        airflow.wait()
    except KeyboardInterrupt:
        print("stopping", flush=True)
        return 0
    finally:
        _end(airflow)
    print(f"airflow died: see {log}", file=sys.stderr)
    return 1


def _wait(airflow: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + READY_MAX_S
    while not healthy(port):
        if airflow.poll() is not None:
            raise Unavailable(f"airflow ended with {airflow.returncode}", where=str(log))
        if time.monotonic() > until:
            raise Unavailable(f"airflow is not healthy after {READY_MAX_S:.0f} s", where=str(log))
        time.sleep(ASK_AGAIN_S)


def _end(airflow: subprocess.Popen[bytes]) -> None:
    """Ask it to end its parts, then end what is left: they start processes of their own."""
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(airflow.pid).children(recursive=True)
    airflow.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        airflow.wait(STOP_MAX_S)
    if airflow.poll() is None:
        airflow.kill()
        airflow.wait()
    processes.end([process for process in family if process.is_running()], KILL_AFTER_S)


def _refuse_a_taken(port: int) -> None:
    for number in (port, port + 1, port + 2):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", number)) == 0:
                raise Misconfigured(
                    f"port {number} is taken by another process",
                    where=f"127.0.0.1:{number}",
                    fix=f"end it, or choose another: make airflow AIRFLOW_PORT={port + 10}",
                )


def retrain(folder: Path, port: int) -> int:
    """A small history, and the DAG `sluice_retrain` once. Returns what `airflow dags test` does."""
    began = time.monotonic()
    history, archive, keys = folder / "history", folder / "local/archive", folder / "keys"
    registry = folder / "loop/registry"
    if not (history / "labels.parquet").exists():
        _sluice("simulate", "history", "--out", history, *HISTORY)
    _sluice(
        *("backfill", history / "authorizations.parquet", "--labels", history / "labels.parquet"),
        "--no-store",
        more={"SLUICE_ARCHIVER_ROOT": str(archive)},
    )
    if not (keys / "release").exists():
        keys.mkdir(parents=True, exist_ok=True)
        _sluice("release", "keygen", "--out", keys / "release")
    if not registry.exists():
        _first_champion(registry, keys)
    told = environment(folder, port, {"key": (keys / "release").as_uri(), "trust": keys.as_uri()})
    _run([PROGRAM, "db", "migrate"], told)
    print(f"prepared   in {time.monotonic() - began:.0f} s; the DAG's own lines follow", flush=True)
    done = subprocess.run(
        [PROGRAM, "dags", "test", DAG, "--conf", json.dumps(SMALL)],
        env=told,
        cwd=ROOT,
        check=False,
    )
    print(f"{DAG} ended with {done.returncode} after {time.monotonic() - began:.0f} s in all")
    print(f"report     {folder}/loop/runs/retrain/*/judgement/report.html", flush=True)
    _sluice("release", "list", registry)
    return done.returncode


def _first_champion(registry: Path, keys: Path) -> None:
    """The committed release, whose key is trusted beside the one made here."""
    release = (ROOT / "models/releases/current").resolve()
    for public in (ROOT / "policies/trust").glob("*.pub"):
        shutil.copy(public, keys)
    shutil.copytree(release, registry / release.name)
    _sluice(
        *("release", "promote", registry, release.name, "--key", keys / "release"),
        *("--who", "make retrain", "--why", "the committed release"),
    )


def _sluice(*words: str | Path, more: Mapping[str, str] | None = None) -> None:
    """Raises Unavailable if the verb fails; what it said stands above."""
    _run([ROOT / ".venv/bin/sluice", *words], dict(os.environ) | dict(more or {}))


def _run(words: Sequence[str | Path], told: Mapping[str, str]) -> None:
    ended = subprocess.run(words, env=told, cwd=ROOT, check=False)
    if ended.returncode:
        said = " ".join(map(str, words[1:3]))
        raise Unavailable(f"{said} ended with {ended.returncode}, see above")


def main() -> int:
    """serve: 0 after Ctrl-C, 1 if it died. retrain: 0 if every step succeeded."""
    parser = argparse.ArgumentParser(prog="python -m local.airflow", description=__doc__)
    parser.add_argument("verb", choices=("serve", "retrain"))
    parser.add_argument("--folder", type=Path, default=Path("var"), help="of all data and logs")
    parser.add_argument("--port", type=int, default=8793)
    args = parser.parse_args()
    try:
        chosen = serve if args.verb == "serve" else retrain
        return chosen(args.folder.resolve(), args.port)
    except SluiceError as error:
        print(f"{args.verb}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
