"""A real S3 server for tests: VersityGW over a folder, built once from its Go module and kept.

``python3 -m tests.support.s3_server`` builds it: two minutes on two idle cores, and 340 MB of
modules; what is kept takes 40 MB and is found again until a file of ``tests/support/s3`` changes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

HERE = Path(__file__).parent / "s3"
KEPT = Path("~/.cache/sluice-s3").expanduser()
BUILD_MAX_S = 900
START_MAX_S = 30.0
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "only-for-tests"}
REGION = "us-east-1"


class MissingError(Exception):
    """There is no such program, and none could be had; says why."""


def built() -> Path:
    """The program. Raises MissingError."""
    digest = hashlib.sha256()
    for name in ("go.mod", "go.sum", "main.go"):
        digest.update(hashlib.sha256((HERE / name).read_bytes()).digest())
    done = KEPT / digest.hexdigest()[:16]
    if done.exists():
        return done
    if shutil.which("go") is None:
        raise MissingError("Go is not on the path, and no S3 server is built yet: install Go 1.26")
    KEPT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="building-", dir=KEPT) as folder:
        fresh = Path(folder) / "s3"
        flags = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false", "GOWORK": "off"}
        run = subprocess.run(
            ["go", "build", "-trimpath", "-ldflags", "-s -w", "-o", str(fresh), "."],
            cwd=HERE,
            env=os.environ | flags,
            capture_output=True,
            text=True,
            timeout=BUILD_MAX_S,
            check=False,
        )
        if run.returncode:
            raise MissingError(f"the S3 server cannot be built: {run.stderr[-2000:]}")
        fresh.replace(done)  # whole or not at all
    return done


@dataclass
class S3Server:
    """One server over one folder, at a port of its own. May be stopped and started again."""

    folder: Path
    port: int = 0
    _process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Return when it answers. Raises MissingError."""
        program = built()
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.port:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(program), str(self.folder), str(self.port)],
                env=os.environ | CREDENTIALS,
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
        raise MissingError(f"the S3 server did not start: {(self.folder / 'log').read_text()}")

    def stop(self) -> None:
        """Kill it; what it took is there."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> S3Server:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


if __name__ == "__main__":
    try:
        print(built())
    except MissingError as missing:
        sys.exit(str(missing))
