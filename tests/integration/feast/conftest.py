"""A fresh clone's feature repository over a real Valkey, applied by Feast's own command."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from feast import FeatureStore

from local.stack import free_port
from sluice.adapters.redis.embedded import EmbeddedStore
from tests.support.kafka import wait_until

ROOT = Path(__file__).parents[3]
REPO = ROOT / "feature_repo"
RELEASES = ROOT / "models" / "releases"


@dataclass
class Applied:
    directory: Path
    store: EmbeddedStore
    env: dict[str, str]

    def feast(self, *words: str, file: str = "env.yaml") -> str:
        done = subprocess.run(
            [sys.executable, "-m", "feast.cli.cli", "-f", file, *words],
            cwd=self.directory,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextmanager
    def serving(self, verb: str, ready: str) -> Iterator[str]:
        """A process of ``feast VERB`` on a free port; yields its URL once a path answers."""
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        log = self.directory / f"{verb}.log"
        with log.open("wb") as out:
            command = [sys.executable, "-m", "feast.cli.cli", "-f", "env.yaml", verb]
            process = subprocess.Popen(
                [*command, "-h", "127.0.0.1", "-p", str(port)],
                cwd=self.directory,
                env=self.env,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

        def answers() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                with urllib.request.urlopen(url + ready, timeout=5):
                    return True
            except OSError:
                return False

        try:
            wait_until(answers, f"feast {verb} answers")
            yield url
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture(scope="session")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Applied]:
    """A fresh clone's feature_repo after ``feast apply``."""
    clone = tmp_path_factory.mktemp("clone")
    shutil.copytree(REPO, clone / "feature_repo", ignore=shutil.ignore_patterns("__pycache__"))
    (clone / "models").mkdir()
    shutil.copytree(RELEASES, clone / "models" / "releases", symlinks=True)
    with EmbeddedStore() as store:
        env = os.environ | {
            "SLUICE_FEAST_STORE": store.host_port,
            "SLUICE_FEAST_REGISTRY": f"sqlite:///{clone}/registry.db",
            "FEAST_USAGE": "False",
        }
        made = Applied(clone / "feature_repo", store, env)
        made.feast("apply")
        yield made


@pytest.fixture(scope="session")
def sdk(applied: Applied) -> Iterator[FeatureStore]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("SLUICE_FEAST_STORE", "SLUICE_FEAST_REGISTRY"):
            patch.setenv(name, applied.env[name])
        yield FeatureStore(
            repo_path=str(applied.directory), fs_yaml_file=applied.directory / "env.yaml"
        )
