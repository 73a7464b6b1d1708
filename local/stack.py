"""The services as processes of this machine: for the demo, the benchmarks and the fault tests.

Each runs exactly as it is deployed (``python -m services.…``), configured by environment alone.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal

from local import metrics_page
from sluice.application.sign_release import make_key
from sluice.bootstrap.auditor import verifier_key
from sluice.bootstrap.keystore import make_keystore
from sluice.errors import Unavailable
from sluice.settings import AuditorSettings, KeystoreSettings, Settings

Name = Literal[
    "decider-sync",
    "decider-stream",
    "featurizer",
    "archiver",
    "labeller",
    "consistency",
    "auditor",
    "witness",
]
NAMES: tuple[Name, ...] = ("featurizer", "archiver", "decider-stream", "decider-sync")
"""Of the main path. The consistency check only looks on, and the labeller waits for reports: start
them beside these."""
_COMMANDS: dict[Name, list[str]] = {
    "decider-sync": ["-m", "services.decider.main", "sync"],
    "decider-stream": ["-m", "services.decider.main", "stream"],
    "featurizer": ["-m", "services.featurizer.main"],
    "archiver": ["-m", "services.archiver.main"],
    "labeller": ["-m", "services.labeller.main"],
    "consistency": ["-m", "services.consistency.main"],
    "auditor": ["-m", "services.auditor.main"],
    "witness": ["-m", "services.witness.main"],
}
FOREIGN = {"PROMETHEUS_MULTIPROC_DIR"}
"""Set for the whole process by importing Feast; it changes how a service's metrics work."""
READY_MAX_S = 120.0
"""A first start compiles the kernel, which takes most of a minute on a slow machine."""
STOP_MAX_S = 30.0
SESSION_S = "10"
"""Half of the default: no broker takes over from the only one, and the killed are missed sooner."""
VERB_MAX_S = 300.0


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Process:
    """One service process and the log it writes."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path
    admin_port: int
    """Where it shows metrics and health."""
    port: int
    """Where it takes authorizations or reports, if it does."""

    def alive(self) -> bool:
        """True while it runs."""
        return self.popen.poll() is None

    def ready(self) -> bool:
        """What it says of itself; False if it does not answer."""
        return not self.why_not_ready()

    def why_not_ready(self) -> str:
        """The same with the reason; "" while it is ready."""
        url = f"http://127.0.0.1:{self.admin_port}/v2/health/ready"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return ""
        except urllib.error.HTTPError as error:
            with error:
                return str(json.load(error).get("why", "it does not say"))
        except OSError as error:
            return str(error)

    def metric(self, name: str) -> float:
        """Sum of a metric over its labels, as its ``/metrics`` says now; 0 if it has none yet."""
        return metrics_page.total(self.metrics(), name)

    def metrics(self) -> str:
        """The page. Raises OSError if the process does not answer."""
        url = f"http://127.0.0.1:{self.admin_port}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            text: str = answer.read().decode()
            return text


@dataclass
class Stack:
    """All services over one broker and one store, in a folder of their own.

    environment: further SLUICE_ settings. Use as a context manager: what still runs is killed.
    """

    bootstrap: str
    store_url: str
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    processes: dict[str, Process] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    """Of the sync API."""

    @property
    def url(self) -> str:
        """The sync API."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, name: Name, *, replica: str = "1", kill_at: str = "", **more: str) -> Process:
        """Start one service and return at once. kill_at: see :mod:`sluice.faultpoints`."""
        key = name if replica == "1" else f"{name}-{replica}"
        self.folder.mkdir(parents=True, exist_ok=True)
        first = name == "decider-sync" and replica == "1"
        port, admin_port = self.port if first else free_port(), free_port()
        environment = self._environment(
            kill_at,
            {
                "SLUICE_SERVICE_REPLICA": key,
                "SLUICE_SERVICE_ADMIN_HOST": "127.0.0.1",
                "SLUICE_SERVICE_ADMIN_PORT": str(admin_port),
                "SLUICE_DECIDER_HOST": "127.0.0.1",
                "SLUICE_DECIDER_PORT": str(port),
                "SLUICE_LABELLER_HOST": "127.0.0.1",
                "SLUICE_LABELLER_PORT": str(port),
                "SLUICE_WITNESS_HOST": "127.0.0.1",
                "SLUICE_WITNESS_PORT": str(port),
                **more,
            },
        )
        log = self.folder / f"{key}.log"
        with log.open("ab") as out:
            popen = subprocess.Popen(
                [sys.executable, *_COMMANDS[name]],
                env=environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is ours to pass on
            )
        process = self.processes[key] = Process(key, popen, log, admin_port, port)
        return process

    def verb(self, *words: str, kill_at: str = "") -> subprocess.CompletedProcess[str]:
        """Run ``sluice`` with the services' settings, and wait. stdout and stderr are text."""
        return subprocess.run(
            [Path(sys.executable).with_name("sluice"), *words],
            env=self._environment(kill_at, {}),
            capture_output=True,
            text=True,
            timeout=VERB_MAX_S,
            check=False,
        )

    def _environment(self, kill_at: str, more: Mapping[str, str]) -> dict[str, str]:
        return {
            **{key: value for key, value in os.environ.items() if key not in FOREIGN},
            "SLUICE_KAFKA_BOOTSTRAP": self.bootstrap,
            "SLUICE_KAFKA_SESSION_S": SESSION_S,
            "SLUICE_STORE_URL": self.store_url,
            "SLUICE_ARCHIVER_ROOT": str(self.folder / "archive"),
            "SLUICE_AUDITOR_ROOT": str(self.folder / "log"),
            "SLUICE_AUDITOR_KEY_FILE": str(self.folder / "log.key"),
            "SLUICE_KEYSTORE_PATH": str(self.folder / "keystore/keys.sqlite"),
            "SLUICE_KEYSTORE_ROOTS": str(self.folder / "keystore-roots/roots.json"),
            **({"SLUICE_KILL_AT": kill_at} if kill_at else {}),
            **self.environment,
            **more,
        }

    def make_log_keys(self) -> Path:
        """Make what an auditor needs, unless it is there. Returns its verifier key's file."""
        key, public = self.folder / "log.key", self.folder / "log.pub"
        given = Settings(
            auditor=AuditorSettings(key_file=str(key)),
            keystore=KeystoreSettings(
                path=str(self.folder / "keystore/keys.sqlite"),
                roots=str(self.folder / "keystore-roots/roots.json"),
            ),
        )
        if not key.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            make_key(key)
            make_keystore(given)
        public.write_text(f"{verifier_key(given)}\n")
        return public

    def start_all(self, *, wait: bool = True) -> None:
        """Start the four services, and wait until all work."""
        for name in NAMES:
            self.start(name)
        if wait:
            self.wait_all()

    def wait_all(self) -> None:
        """Return when every process is ready. Raises Unavailable."""
        for process in list(self.processes.values()):
            self.wait_ready(process)

    def wait_ready(self, process: Process) -> None:
        """Return when it answers: what has an API on readiness, the others on ``/metrics``, where a
        featurizer has reported what it thinks of the store.

        Raises Unavailable with the end of its log if it exits or takes over READY_MAX_S.
        """
        reported = b"sluice_store_ready" if process.name.startswith("featurizer") else b""
        api = process.name.startswith(("decider-sync", "labeller", "witness"))
        path = "/v2/health/ready" if api else "/metrics"
        until = time.monotonic() + READY_MAX_S
        while time.monotonic() < until and process.alive():
            try:
                url = f"http://127.0.0.1:{process.admin_port}{path}"
                with urllib.request.urlopen(url, timeout=10) as answer:
                    if reported in answer.read():
                        return
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.05)
        tail = process.log.read_text(errors="replace")[-2000:]
        raise Unavailable(f"{process.name} did not become ready", where=str(process.log), fix=tail)

    def kill(self, name: str) -> None:
        """As the kernel's out-of-memory killer does."""
        process = self.processes.pop(name)
        process.popen.kill()
        process.popen.wait()

    def stop(self, name: str) -> int:
        """SIGTERM, and wait. Returns its exit status; kills past STOP_MAX_S."""
        process = self.processes.pop(name)
        process.popen.send_signal(signal.SIGTERM)
        try:
            return process.popen.wait(STOP_MAX_S)
        except subprocess.TimeoutExpired:
            process.popen.kill()
            return process.popen.wait()

    def stop_all(self, *, but: str = "") -> dict[str, int]:
        """Stop them in the direction of the data. Returns the exit statuses. but: goes on."""
        order = (
            "decider-sync", "decider-stream", "labeller", "featurizer", "archiver", "auditor",
            "consistency", "witness",
        )  # fmt: skip
        left = [name for name in self.processes if name != but]
        names = sorted(left, key=lambda n: [n.startswith(o) for o in order].index(True))
        return {name: self.stop(name) for name in names}

    def __enter__(self) -> Stack:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name in list(self.processes):
            self.kill(name)
