"""Kill the witness at each named point: it says yes to one history, before and after."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.metrics_page import samples
from local.stack import Process, Stack
from sluice.adapters import tls
from sluice.adapters.witness.client import WitnessClient
from sluice.application.cosigners import Behind, Cosigners
from sluice.application.log_keys import make_log_key
from sluice.audit.checkpoints import open_checkpoint
from sluice.audit.notes import Key
from sluice.errors import Rejected, Unavailable
from sluice.testing.witness import ORIGIN, WITNESS_NAME, GrownLog
from tests.support.disk import FAULTS, Disk, needs_disks
from tests.support.kafka import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.fault]

POINTS = ("witness.before_rename", "witness.after_rename", "witness.after_sync")
LOG = GrownLog(40)
FORK = GrownLog(40, shares=2, fork="other")


def test_two_hundred_seeds_of_kills_leave_one_history(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.fault.witness_killed", str(tmp_path), "200"],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    [last] = run.stdout.splitlines()
    killed = int(last.split()[1])
    assert killed > 400, last


class Deployed:
    """A witness as it is deployed, and a log that asks it over HTTP."""

    def __init__(self, folder: Path) -> None:
        self.key: Key = make_log_key(folder / "witness.pem", WITNESS_NAME, witness=True)
        (folder / "logs.keys").write_text(f"# the log under test\n{LOG.key}\n")
        self.stack = Stack(
            "localhost:1",
            "redis://localhost:1/0",
            folder / "run",
            {
                "SLUICE_WITNESS_NAME": WITNESS_NAME,
                "SLUICE_WITNESS_KEY_FILE": str(folder / "witness.pem"),
                "SLUICE_WITNESS_LOGS_FILE": str(folder / "logs.keys"),
                "SLUICE_WITNESS_STATE_DIR": str(folder / "state"),
            },
        )

    def start(self, kill_at: str = "") -> tuple[Process, WitnessClient]:
        process = self.stack.start("witness", kill_at=kill_at)
        self.stack.wait_ready(process)
        url = f"http://127.0.0.1:{process.port}"
        return process, WitnessClient(self.key, url, tls.Files("auditor"))


@pytest.fixture
def deployed(tmp_path: Path) -> Iterator[Deployed]:
    made = Deployed(tmp_path)
    with made.stack:
        yield made


def test_a_killed_witness_starts_again_with_what_it_cosigned(deployed: Deployed) -> None:
    size = 0
    for point in POINTS:
        process, client = deployed.start(f"{point}:2")
        answer = client.add_checkpoint(LOG.submission(size, size + 3))
        assert isinstance(answer, bytes)
        note = LOG.signed(size + 3) + answer
        assert open_checkpoint(note, ORIGIN, LOG.key, [deployed.key]).cosigned
        with pytest.raises(Unavailable):
            client.add_checkpoint(LOG.submission(size + 3, size + 4))
        process.popen.wait(180)
        process, client = deployed.start()
        told = client.add_checkpoint(LOG.submission(0, size + 3))
        assert isinstance(told, Behind)
        assert told.size in (size + 3, size + 4)
        with pytest.raises(Rejected):
            client.add_checkpoint(FORK.submission(told.size, told.size + 2))
        cosigners = Cosigners([client], wait_s=30)
        size = told.size + 2
        note = cosigners.cosign(LOG.signed(size), LOG.complete)
        assert open_checkpoint(note, ORIGIN, LOG.key, [deployed.key]).cosigned
        assert process.metric("sluice_witness_checkpoints_total") >= 3
        process.popen.terminate()
        assert process.popen.wait(180) == 0


def test_a_witness_cosigns_nothing_that_its_disk_does_not_take(tmp_path: Path) -> None:
    needs_disks()
    deployed = Deployed(tmp_path)
    with Disk(tmp_path / "state") as disk, deployed.stack:
        process, client = deployed.start()
        assert isinstance(client.add_checkpoint(LOG.submission(0, 3)), bytes)
        for size, fault in enumerate(FAULTS, 3):
            with fault(disk):
                with pytest.raises(Unavailable, match="503"):
                    client.add_checkpoint(LOG.submission(size, size + 1))
                wait_until(lambda: not process.ready(), "it is not ready")
                with pytest.raises(Rejected):  # it still knows what it said
                    client.add_checkpoint(FORK.submission(size, size + 1))
            wait_until(process.ready, "it is ready again by itself")
            answer = client.add_checkpoint(LOG.submission(size, size + 1))
            assert isinstance(answer, bytes), fault
        refused = samples(process.metrics(), "sluice_witness_checkpoints_total")
        assert {one.labels["result"]: one.value for one in refused}["not_remembered"] == len(FAULTS)
        assert deployed.stack.stop("witness") == 0
        disk.mount_again()
        process, client = deployed.start()
        told = client.add_checkpoint(LOG.submission(0, 1))
        assert told == Behind(3 + len(FAULTS))
        assert deployed.stack.stop("witness") == 0
