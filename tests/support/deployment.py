"""A whole Sluice for one test: topics of its own, a store, a release, and services over them."""

from __future__ import annotations

import shutil
import threading
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from local.stack import Stack
from sluice.adapters.kafka import topics as topic_table
from sluice.adapters.kafka.topics import Topics
from sluice.domain.release import public_line
from sluice.testing.release import KEY, make_release
from tests.support.recount import Ledger, read_ledger, wait_applied, wait_balanced


@dataclass(frozen=True)
class Deployment:
    """What a test over processes holds in its hands.

    release: folder that the deciders follow; remove it before they start for a world without
    model. policy: the one that they follow, free to be edited.
    """

    bootstrap: str
    topics: Topics
    prefix: str
    stack: Stack
    release: Path
    policy: Path

    @property
    def featurizer_group(self) -> str:
        """The consumer group that makes states."""
        return f"{self.prefix}sluice-featurizer"

    def start(self, *names: str) -> None:
        """Start services and wait until they are ready; all begin at once."""
        for process in [self.stack.start(name) for name in names]:  # type: ignore[arg-type]
            self.stack.wait_ready(process)

    @contextmanager
    def supervised(self) -> Iterator[None]:
        """Start again what exits, as Kubernetes does, until the end of the ``with``."""
        over = threading.Event()

        def supervise() -> None:
            while not over.wait(0.2):
                for name, process in list(self.stack.processes.items()):
                    if not process.alive():
                        self.stack.start(name)  # type: ignore[arg-type]

        thread = threading.Thread(target=supervise, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def ledger(self) -> Ledger:
        """The topics as they are now."""
        return read_ledger(self.bootstrap, self.topics)

    def settle(self, *, heard: Collection[str] = ()) -> Ledger:
        """Wait until all that was sent is decided and all states are made."""
        ledger = wait_balanced(self.bootstrap, self.topics, heard=heard)
        wait_applied(self.bootstrap, self.topics, self.featurizer_group)
        return ledger

    def recount(self, heard: Mapping[str, bytes]) -> Ledger:
        """Assert what must hold whatever died, once all is settled.

        heard: answers by authorization id, as callers of the sync API got them.
        """
        ledger = self.settle(heard=heard)
        assert ledger.unbalanced() == {}
        assert ledger.decided_twice() == []
        answers = ledger.answers()
        assert {key: answers.get(key) for key in heard} == dict(heard)
        assert ledger.wrong_states(self.stack.store_url) == []
        return ledger

    def logs(self) -> str:
        """All that the services said."""
        return "".join(
            path.read_text(errors="replace") for path in sorted(self.stack.folder.glob("*.log"))
        )


@contextmanager
def make_deployment(
    bootstrap: str,
    store_url: str,
    folder: Path,
    *,
    partitions: int = 3,
    replication: int = 1,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Deployment]:
    """Topics under a prefix of their own and a stack over them; both are gone afterwards."""
    prefix = f"w{uuid.uuid4().hex[:8]}."
    topics = Topics(prefix)
    topic_table.apply(bootstrap, topics, partitions=partitions, replication=replication)
    release = make_release(folder / "release")
    policy = folder / "policy"
    shutil.copytree("policies/default", policy)
    trust = folder / "trust"
    trust.mkdir()
    (trust / "test.pub").write_text(public_line(KEY.public_key(), "test"))
    settings = {
        "SLUICE_KAFKA_TOPIC_PREFIX": prefix,
        "SLUICE_DECIDER_RELEASE_DIR": str(release),
        "SLUICE_DECIDER_TRUST_DIR": str(trust),
        "SLUICE_DECIDER_POLICY_DIR": str(policy),
        "SLUICE_DECIDER_RELOAD_S": "1",
        "SLUICE_DECIDER_DRAIN_S": "0",
        "SLUICE_STORE_BUDGET_MS": "1000",  # a loaded machine is late, not broken
        # The release's weights are random, and decline almost everything.
        "SLUICE_DECIDER_BREAKER_DECLINE_PPM": "1000000",
        **(environment or {}),
    }
    try:
        with Stack(bootstrap, store_url, folder / "run", settings) as stack:
            yield Deployment(bootstrap, topics, prefix, stack, release, policy)
    finally:
        topic_table.delete(bootstrap, topics)
