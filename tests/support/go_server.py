"""Servers for tests that are Go modules: built once, kept, and started at a port of their own."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from tests.support.debian import MissingError

BUILD_MAX_S = 900
START_MAX_S = 120.0


@dataclass(frozen=True)
class GoProgram:
    """sources: folder with go.mod and go.sum, and main.go where ``package`` is the module itself.
    kept: where the program goes; it is found again until a file of the sources changes."""

    sources: Path
    kept: Path
    package: str = "."

    def built(self) -> Path:
        """The program. Raises MissingError."""
        digest = hashlib.sha256()
        for path in sorted(self.sources.glob("*.*")):
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        done = self.kept / digest.hexdigest()[:16]
        if done.exists():
            return done
        if shutil.which("go") is None:
            raise MissingError(f"Go is not on the path, and {done} is not there: install Go 1.26")
        self.kept.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="building-", dir=self.kept) as folder:
            fresh = Path(folder) / "program"
            flags = {
                "CGO_ENABLED": "0",
                "GOFLAGS": "-mod=readonly -buildvcs=false",
                "GOWORK": "off",
            }
            run = subprocess.run(
                ["go", "build", "-trimpath", "-ldflags", "-s -w", "-o", str(fresh), self.package],
                cwd=self.sources,
                env=os.environ | flags,
                capture_output=True,
                text=True,
                timeout=BUILD_MAX_S,
                check=False,
            )
            if run.returncode:
                raise MissingError(f"{self.sources} cannot be built: {run.stderr[-2000:]}")
            fresh.replace(done)  # whole or not at all
        return done


@dataclass
class GoServer:
    """One server over one folder. May be stopped and started again."""

    program: ClassVar[GoProgram]
    folder: Path
    port: int = 0
    _process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def arguments(self) -> list[str]:
        """Of its command line."""
        return []

    def environment(self) -> dict[str, str]:
        """Besides ours."""
        return {}

    def start(self) -> None:
        """Return when it answers. Raises MissingError."""
        program = self.program.built()
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.port:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(program), *self.arguments()],
                env=os.environ | self.environment(),
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + START_MAX_S
        while time.monotonic() < until and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        self.stop()
        raise MissingError(f"{program} did not start: {(self.folder / 'log').read_text()}")

    def stop(self) -> None:
        """Kill it; what it took is there."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Stop it where it is: it takes connections and says nothing, until ``resume``."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
