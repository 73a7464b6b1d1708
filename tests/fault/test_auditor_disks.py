"""The auditor on disks that are full, answer with I/O errors, or are read-only: it stops taking,
says so, loses nothing, and goes on by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from local.kafka.broker import Node
from local.stack import Process, Stack
from sluice.adapters.kafka.shard import ShardConsumer
from sluice.adapters.kafka.topics import Topics
from tests.support.decisions import decide
from tests.support.disk import FAULTS, Disk, needs_disks
from tests.support.kafka import read_all, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.fault]

EACH = 100
"""Decisions between two faults."""


@pytest.fixture(autouse=True)
def _disks() -> None:
    needs_disks()


class Auditing:
    """An auditor, its log and its keystore each on a disk of its own."""

    def __init__(self, kafka: Node, topics: Topics, folder: Path, disks: ExitStack) -> None:
        self.kafka, self.topics, self.folder = kafka, topics, folder
        self.log = disks.enter_context(Disk(folder / "log"))
        self.keystore = disks.enter_context(Disk(folder / "keystore"))
        self.prefix = topics.decisions.removesuffix("decisions.v1")
        environment = {"SLUICE_KAFKA_TOPIC_PREFIX": self.prefix}
        self.stack = disks.enter_context(
            Stack(kafka.bootstrap, "redis://localhost:1/0", folder, environment)
        )
        self.key = self.stack.make_log_keys()
        self.sent = 0
        self.group = ShardConsumer(
            kafka.bootstrap,
            group=f"{self.prefix}sluice-auditor-0",
            topics=[topics.decisions],
            client_id="test",
            shard=0,
            shards=1,
        )
        disks.callback(self.group.close)

    def start(self) -> Process:
        return self.stack.start("auditor")

    def decide(self) -> None:
        """Some more, of cards that the keystore has no key of."""
        decide(
            self.kafka.bootstrap,
            self.topics,
            self.sent,
            self.sent + EACH,
            cards=f"card-{self.sent}",
        )
        self.sent += EACH

    def behind(self) -> int:
        """Decisions that were not committed."""
        there = read_all(self.kafka.bootstrap, self.topics.decisions)
        done = self.group.committed({(one.topic, one.partition) for one in there})
        return sum(one.offset >= done.get((one.topic, one.partition), 0) for one in there)

    def all_committed(self) -> bool:
        return self.behind() == 0

    def verify(self) -> tuple[int, str]:
        """The log by itself, against the broker, and against each checkpoint ever published."""
        known = []
        for one in read_all(self.kafka.bootstrap, self.topics.checkpoints):
            path = self.folder / f"published-{one.partition}-{one.offset}"
            path.write_bytes(one.value)
            known += ["--known", str(path)]
        done = self.stack.verb(
            *("log", "verify", str(self.folder / "log/0"), "--key", str(self.key)),
            *("--accounting", *known),
        )
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def auditing(kafka: Node, topics: Topics, tmp_path: Path) -> Iterator[Auditing]:
    with ExitStack() as disks:
        yield Auditing(kafka, topics, tmp_path, disks)


def test_an_auditor_waits_for_its_disks_and_loses_nothing(auditing: Auditing) -> None:
    auditing.decide()
    process = auditing.start()
    wait_until(auditing.all_committed, "the first are told of")
    for disk, code in ((auditing.log, "log_disk"), (auditing.keystore, "keystore_disk")):
        for fault in FAULTS:
            what = f"{fault.__name__} {disk.root.name}"
            before = process.metric("sluice_consumer_aborts_total")
            with fault(disk):
                auditing.decide()
                wait_until(lambda: not process.ready(), f"{what}: it is not ready")
                wait_until(
                    lambda before=before: process.metric("sluice_consumer_aborts_total") > before,
                    f"{what}: it is counted",
                )
                why = process.why_not_ready()
                assert "cannot be" in why, (what, why)
                assert auditing.behind(), what
            wait_until(auditing.all_committed, f"{what}: it goes on")
            assert process.alive(), what
            assert f'code="{code}"' in process.metrics(), what
    wait_until(process.ready, "it is ready")

    # Made read-only by the kernel: it stays so until it is mounted anew, and nobody has it open.
    auditing.log.fails()
    auditing.decide()
    wait_until(lambda: not process.ready(), "it is not ready")
    auditing.stack.stop("auditor")  # with status 1 where it could not write that it stops
    auditing.log.mount_again()
    auditing.keystore.mount_again()
    auditing.start()
    wait_until(auditing.all_committed, "the next one goes on")
    assert auditing.stack.stop("auditor") == 0
    auditing.log.mount_again()  # what is verified is on the disk
    status, said = auditing.verify()
    assert status == 0, said
    assert f"decision {auditing.sent}" in said, said
