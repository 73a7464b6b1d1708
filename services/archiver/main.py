"""``python -m services.archiver.main``: decisions.v1 and labels.v1 to parquet, each row once."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from sluice import telemetry
from sluice.adapters.kafka.consumer import GroupConsumer
from sluice.adapters.parquet.archive import ParquetFiles
from sluice.application.archive import Archiver, Partition, Rolled, behind
from sluice.bootstrap import services as bootstrap
from sluice.errors import SluiceError
from sluice.faultpoints import kill_at
from sluice.settings import Settings, load

BATCH_MAX = 2_000
POLL_S = 0.2
LAG_EVERY_S = 1.0


def main() -> int:
    """Run until SIGTERM. Returns the exit status: 0 stopped, 1 gave up (see the log)."""
    settings, _ = load()
    stop = bootstrap.start("archiver", settings)
    try:
        service = Service(settings)
        try:
            while not stop.is_set():
                service.once()
        finally:
            service.close()
    except SluiceError as error:
        # A restart reads on behind the newest file, so giving up costs nothing but time.
        telemetry.event("stopped", level=logging.ERROR, code=error.code, reason=str(error))
        return 1
    telemetry.event("stopped", code="sigterm")
    return 0


class Service:
    """Poll, buffer, roll, commit."""

    def __init__(self, settings: Settings) -> None:
        names = bootstrap.topics(settings)
        folders = {names.decisions: "decisions", names.labels: "labels"}
        files = ParquetFiles(Path(settings.archiver.root), folders)
        self._archiver = Archiver(files, roll_s=settings.archiver.roll_s)
        self._lag_at = 0.0
        self._consumer = GroupConsumer(
            settings.kafka.bootstrap,
            group=bootstrap.group("archiver", settings),
            topics=list(folders),
            client_id=f"archiver-{settings.service.name()}",
            on_assign=self._taken,
            on_revoke=self._leave,
            extra=settings.kafka.extra(),
        )

    def once(self) -> None:
        """One batch. Raises Unavailable or Corrupt; then a restart goes on."""
        batch = self._consumer.poll_batch(BATCH_MAX, POLL_S)
        rolled = self._archiver.add(batch, time.monotonic())
        self._commit(rolled + self._archiver.roll(self._archiver.due(time.monotonic())))
        if time.monotonic() >= self._lag_at:
            self._lag_at = time.monotonic() + LAG_EVERY_S
            for (topic, partition), lag in self._consumer.lag().items():
                telemetry.METRICS.set("sluice_consumer_lag_messages", lag, topic, str(partition))

    def close(self) -> None:
        """Write what is buffered, commit, leave the group."""
        try:
            self._commit(self._archiver.roll(self._archiver.held()))
        finally:
            self._archiver.drop(self._archiver.held())
            self._consumer.close()

    def _commit(self, rolled: Sequence[Rolled]) -> None:
        self._consumer.commit(behind(rolled))
        kill_at("archiver.after_commit")
        now_ms = time.time_ns() // 1_000_000
        metrics = telemetry.METRICS
        for file in rolled:
            topic, rows = file.partition[0], file.rows
            metrics.count("sluice_archiver_files_total", topic)
            metrics.count("sluice_archiver_rows_total", topic, by=len(rows))
            metrics.count("sluice_consumer_messages_total", topic, by=len(rows))
            ages = [max(0, now_ms - row.written_ms) / 1000 for row in rows]
            metrics.observe_each("sluice_archiver_age_seconds", ages, topic)

    def _taken(self, partitions: list[Partition]) -> dict[Partition, int]:
        return self._archiver.start(self._consumer.committed(partitions), partitions)

    def _leave(self, partitions: list[Partition], lost: bool) -> None:
        if lost:
            self._archiver.drop(partitions)
        else:
            self._commit(self._archiver.roll(partitions))


if __name__ == "__main__":
    raise SystemExit(main())
