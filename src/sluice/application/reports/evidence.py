"""What a report is made from: a log that was verified first, up to one checkpoint.

The checkpoint is read once. Whatever a report takes of the log it takes in the pass that verifies
it, so that nobody can put another entry between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from sluice.application.open_record import Found
from sluice.application.prove_entry import prove
from sluice.application.read_log import CHECKPOINT, Order, opened
from sluice.application.reports.document import RestsOn, instant
from sluice.application.verify_log import OK, Verdict, verify
from sluice.audit.entries import split
from sluice.audit.errors import Malformed, Tampered
from sluice.audit.tiles import Read
from sluice.domain.records.log_record import read as read_record
from sluice.errors import Rejected

KEPT_MAX = 10_000
"""Entries that a report keeps: of one authorization there are a handful, of a subject's erasures
and holds some tens."""
Take = Callable[[int, Sequence[bytes]], None]
"""Is given each bundle: the index of its first entry, and the entries. What it made of them counts
only if the whole log was found to hold."""
Progress = Callable[[int, int], None]


class Log(NamedTuple):
    """A log's folder, and what is asked of it."""

    read: Read
    order: Order


class Unfounded(Exception):  # noqa: N818 - as in sluice.errors
    """No report is made of this log; its verdict says why."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(f"{verdict.log}: {verdict.verdict}: {verdict.why}")
        self.verdict = verdict


class Checked(NamedTuple):
    """A log that holds. checkpoint: its exact bytes."""

    rests_on: RestsOn
    checkpoint: bytes
    log: Log


def check(log: Log, take: Take, progress: Progress = lambda _done, _of: None) -> Checked:
    """Verify a log, and show each of its entries. Raises Unfounded."""
    pinned = Log(_with_one_checkpoint(log.read), log.order)
    verdict = verify(pinned.read, pinned.order, seen=take, progress=progress)
    if verdict.status != OK:
        raise Unfounded(verdict)
    rests_on = RestsOn(
        log=verdict.log,
        key=str(log.order.key),
        size=verdict.size,
        root=verdict.root,
        cosigned={name: instant(at_s * 1_000_000) for name, at_s in verdict.cosigned.items()},
        first_at=None if verdict.first_at is None else instant(verdict.first_at),
        last_at=None if verdict.last_at is None else instant(verdict.last_at),
        file=f"{verdict.log.replace('/', '-')}.checkpoint",
    )
    return Checked(rests_on, pinned.read(CHECKPOINT), pinned)


class Kept:
    """Keeps the entries whose bytes hold one of the marks, read; for :func:`check`."""

    def __init__(self, *marks: bytes) -> None:
        self._marks = marks
        self.found: list[Found] = []

    def __call__(self, first: int, entries: Sequence[bytes]) -> None:
        """Raises Rejected for more than KEPT_MAX."""
        for place, entry in enumerate(entries, first):
            if any(mark in entry for mark in self._marks):
                self.found.append(found_at(place, entry))
        if len(self.found) > KEPT_MAX:
            raise Rejected(f"more than {KEPT_MAX:,} entries belong to it", where=str(self._marks))


def named(field: str, value: str) -> bytes:
    """The bytes of each header that has this field; of others too, so look again. What is no UTF-8
    is in none."""
    return b'"%b":"%b"' % (field.encode(), value.encode(errors="replace"))


def found_at(place: int, entry: bytes) -> Found:
    """An entry, read. Raises Tampered for one whose texts no writer of a log writes: verifying
    looks at all but their patterns."""
    header, sealed = split(entry)
    try:
        return Found(place, read_record(header), header, sealed)
    except Malformed as exc:
        raise Tampered(f"entry {place}: {exc}", first=place, until=place + 1) from exc


def proof_of(checked: Checked, place: int) -> bytes:
    """A proof that stands alone of one entry of a log that holds; ``sluice log verify-proof``."""
    now = opened(checked.log.read, checked.log.order)
    return bytes(prove(checked.log.read, checked.checkpoint, now, place))


def proof_file(checked: Checked, kind: str, place: int) -> str:
    """Its name beside a document. kind: of the record."""
    return f"{kind}-{checked.rests_on.log.replace('/', '-')}-{place}.tlog-proof"


def checkpoints(logs: Sequence[Checked]) -> dict[str, bytes]:
    """The files that go beside a document."""
    return {one.rests_on.file: one.checkpoint for one in logs}


def _with_one_checkpoint(read: Read) -> Read:
    """A reader to whom the log stays as long as it was."""
    kept: list[bytes] = []

    def again(path: str) -> bytes:
        if path != CHECKPOINT:
            return read(path)
        if not kept:
            kept.append(read(path))
        return kept[0]

    return again
