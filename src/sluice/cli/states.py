"""Make the online store's states again after it lost some: from the archive, then the topics.

Decisions go on meanwhile, at degradation level D2, and say so (`degraded` names `store`).
Featurizers leave by themselves, and must be running for the last part: what the archive does not
hold yet. Killed half-way, it can be run again.

  sluice states rebuild
  sluice states rebuild --archive /mnt/archive --processes 8
  sluice states rebuild --topic-alone
"""

from __future__ import annotations

import argparse
import itertools
import math
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from sluice import bootstrap
from sluice.adapters.kafka.groups import Group
from sluice.adapters.kafka.reader import TopicReader
from sluice.adapters.parquet.archive import Archive
from sluice.adapters.parquet.event_history import ArchiveEventHistory, Bucket
from sluice.application.decide import recorded_digest
from sluice.application.rebuild import Rebuild, TopicNames, states_of
from sluice.cli.progress import Progress
from sluice.domain.features.catalogue import VIEWS
from sluice.domain.records.authorization import encode
from sluice.domain.records.decision import answer
from sluice.errors import Unavailable
from sluice.settings import Settings, load

BUCKET_EVENTS = 1_000_000
"""Events that one process holds at a time: some 0.4 GB."""
ANSWERS_MAX = 5_000
"""Answers a round."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("verb", choices=("rebuild",))
    parser.add_argument("--archive", type=Path, help="default: archiver.root of the settings")
    parser.add_argument(
        "--topic-alone", action="store_true", help="as if there were no archive: takes longer"
    )
    parser.add_argument(
        "--accept-gaps",
        action="store_true",
        help="go on without records that neither archive nor topic holds",
    )
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="default: one a core"
    )


def run(args: argparse.Namespace) -> int:
    """Returns 0 when the store is ready. Raises Misconfigured, Unavailable."""
    settings, _ = load()
    names = bootstrap.topics(settings)
    root = args.archive or Path(settings.archiver.root)
    archive = Archive(root)
    use = not args.topic_alone and any(
        archive.files(kind) for kind in ("decisions", "labels", "history")
    )
    online = bootstrap.store(settings)
    store, watermark = online.states(), online.watermark()
    reader = TopicReader(settings.kafka.bootstrap, extra=settings.kafka.extra())
    progress, began = Progress(), time.monotonic()
    progress.show(f"from {root} and the topics" if use else "from the topics alone", last=True)
    try:
        Rebuild(
            watermark=watermark,
            group=Group(
                settings.kafka.bootstrap,
                bootstrap.group("featurizer", settings),
                extra=settings.kafka.extra(),
            ),
            log=reader,
            topics=TopicNames(names.decisions, names.labels, names.observations),
            clear=store.clear,
            fill=partial(_fill, settings, root, args.processes, progress) if use else None,
            archived=_archived(archive, names.decisions, names.labels) if use else {},
            accept_gaps=args.accept_gaps,
            report=progress.show,
        ).run()
    finally:
        reader.close()
        store.close()
        watermark.close()
    progress.show(f"ready after {time.monotonic() - began:.1f} s", last=True)
    return 0


def _archived(archive: Archive, decisions: str, labels: str) -> dict[tuple[str, int], int]:
    """Offset behind the archive's last record, by topic and partition."""
    return {
        (topic, partition): last + 1
        for topic, kind in ((decisions, "decisions"), (labels, "labels"))
        for partition, last in archive.ends(kind).items()
    }


class _Job(NamedTuple):
    """The states of one bucket of entities, for one process."""

    root: Path
    settings: Settings
    bucket: Bucket


def _fill(settings: Settings, root: Path, processes: int, progress: Progress) -> None:
    """Write all that the archive makes: states on all cores, then the answers still remembered."""
    # An event is of up to four entities, each perhaps in another bucket.
    events = ArchiveEventHistory(root).events() * len(VIEWS)
    of = max(processes, math.ceil(events / BUCKET_EVENTS))
    jobs = [_Job(root, settings, Bucket(number, of)) for number in range(of)]
    began, written = time.monotonic(), 0
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        for done, count in enumerate(pool.map(_write_bucket, jobs), 1):
            written += count
            rate = written / (time.monotonic() - began)
            progress.show(
                f"{done} of {of} buckets, {written:,} entities, {rate:,.0f}/s", last=done == of
            )
    progress.show(f"{_remember(settings, root):,} answers", last=True)


def _write_bucket(job: _Job) -> int:
    """Runs in a process of its own. Returns the number of states written."""
    store = bootstrap.store(job.settings).states()
    written = 0
    try:
        for updates in states_of(ArchiveEventHistory(job.root).read(job.bucket)):
            if not all(store.write(updates)):
                raise Unavailable(
                    "something else writes states while they are rebuilt",
                    where="the online store",
                    fix="stop it (a backfill, another rebuild), then run this again",
                )
            written += len(updates)
    finally:
        store.close()
    return written


def _remember(settings: Settings, root: Path) -> int:
    """Answers that a caller who asks again may still get."""
    since_us = time.time_ns() // 1000 - settings.store.answer_ttl_s * 1_000_000
    store = bootstrap.store(settings).states()
    count = 0
    try:
        answers = _answers(root, since_us)
        while some := list(itertools.islice(answers, ANSWERS_MAX)):
            store.remember(some)
            count += len(some)
    finally:
        store.close()
    return count


def _answers(root: Path, since_us: int) -> Iterator[tuple[str, str, bytes, bytes]]:
    for held in Archive(root).decided_since(since_us):
        auth = held.decision.authorization
        said = encode(answer(held.decision))
        yield auth.tenant, auth.authorization_id, recorded_digest(held.record), said
