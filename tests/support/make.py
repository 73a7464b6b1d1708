"""`make` as a newcomer types it: on ports and data of its own."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from local.kafka import processes
from local.kafka.broker import free_port

ROOT = Path(__file__).parents[2]
VERB_MAX_S = 300
START_MAX_S = 300.0
FROM_MAKE = ("MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS", "MAKELEVEL", "ARGS", "DATA", "PYTHON")
"""Variables of the `make test` that may run us."""


class Make:
    """`make` in this checkout, or in a copy of it, over one folder and three ports.

    data: the folder, from the tree where it is relative. environment: beside this process's own.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tree: Path = ROOT,
        data: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.tree = tree
        self.data = data or folder / "data"
        self._more = dict(environment or {})
        self.kafka, self.store, self.http = free_port(), free_port(), free_port()
        self.named = tree / self.data / "local" / "processes.json"
        self._log = folder / "up.log"

    def command(self, verb: str) -> list[str]:
        return [
            *("make", "--no-print-directory", verb, f"DATA={self.data}"),
            *(f"KAFKA_PORT={self.kafka}", f"STORE_PORT={self.store}", f"HTTP_PORT={self.http}"),
        ]

    def __call__(self, verb: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(verb),
            cwd=self.tree,
            env=_environment() | self._more,
            capture_output=True,
            text=True,
            timeout=VERB_MAX_S,
            check=False,
        )

    def up(self) -> subprocess.Popen[bytes]:
        """Returns once it says that it is ready."""
        with self._log.open("wb") as log:
            up = subprocess.Popen(
                self.command("up"),
                cwd=self.tree,
                env=_environment() | self._more,
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + START_MAX_S
        while "\nready " not in self.reported():
            assert up.poll() is None, self.reported()
            assert time.monotonic() < until, self.reported()
            time.sleep(0.1)
        return up

    def reported(self) -> str:
        return self._log.read_text()

    def entries(self) -> list[processes.Entry]:
        return processes.read(self.named)


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in FROM_MAKE}
