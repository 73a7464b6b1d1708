"""A compliance log in a folder, and its second place of checkpoints, for tests and benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sluice.adapters.tiles.ahead import WriteAheadFiles
from sluice.adapters.tiles.folder import LogFolder
from sluice.application.append_log import FENCED, AppendLog
from sluice.application.keep_log import Read, Refused, decided_of
from sluice.application.ports import Message
from sluice.audit.entries import join
from sluice.audit.notes import Key
from sluice.domain.records.log_record import LabelBody, LabelRecord, Source, encode
from sluice.errors import Corrupt

ORIGIN = "test/eu/0"
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


class KeptCheckpoints:
    """The port Published, in memory. Of two writers the one that came last may publish."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []
        self._writer = 0

    def writer(self) -> Published:
        """One more writer's side: it fences the others."""
        self._writer += 1
        return Published(self, self._writer)

    def publish(self, signed: bytes, writer: int) -> None:
        """Keep it, unless another writer came since."""
        if writer != self._writer:
            raise Corrupt("another process writes this log now", code=FENCED)
        self.kept.append(signed)


class Published:
    """One writer's side of it."""

    def __init__(self, kept: KeptCheckpoints, number: int) -> None:
        self._kept = kept
        self._number = number

    def last(self) -> bytes | None:
        """See the port."""
        return self._kept.kept[-1] if self._kept.kept else None

    def publish(self, signed: bytes) -> None:
        """See the port."""
        self._kept.publish(signed, self._number)


def log_at(
    folder: Path,
    kept: KeptCheckpoints | None = None,
    *,
    origin: str = ORIGIN,
    private: Ed25519PrivateKey = PRIVATE,
    retired: Sequence[Key] = (),
) -> AppendLog:
    """A log below ``folder``, its write-ahead files beside it, not open yet."""
    store = LogFolder(folder)
    store.prepare()
    published = (kept or KeptCheckpoints()).writer()
    ahead = WriteAheadFiles(folder.with_suffix(".ahead"))
    return AppendLog(store, ahead, published, origin=origin, private=private, retired=retired)


class PlainEntries:
    """The port MakesEntries: a label's record of whatever comes. What is b"forbidden" is refused.

    away: Unavailable, or the like, that the next calls raise, in turn.
    """

    def __init__(self, origin: str = ORIGIN) -> None:
        self._origin = origin
        self.superseded: list[tuple[int, int]] = []
        """Partition and offset of what was said to be."""
        self.away: list[Exception] = []

    def read(self, batch: Sequence[Message]) -> list[Read]:
        """See the port."""
        return [Read(one, decided_of(one.value), None) for one in batch]

    def entries(
        self, batch: Sequence[Read], superseded: Sequence[bool], at_us: int
    ) -> list[bytes | Refused]:
        """See the port."""
        if self.away:
            raise self.away.pop(0)
        self.superseded += [
            (one.message.partition, one.message.offset)
            for one, mark in zip(batch, superseded, strict=True)
            if mark
        ]
        return [self._entry(one.message, at_us) for one in batch]

    def _entry(self, message: Message, at_us: int) -> bytes | Refused:
        if message.value == b"forbidden":
            return Refused("forbidden_content", "card_number")
        body = LabelBody(
            tenant="t",
            channel=None,
            known_at=0,
            is_fraud=True,
            kind="verdict",
            source="test",
            reason=None,
            uncounted=None,
            withdraws=None,
        )
        source = Source(topic=message.topic, partition=message.partition, offset=message.offset)
        record = LabelRecord(
            log=self._origin,
            recorded_at=at_us,
            source=source,
            emitter=f"{message.topic}/{message.partition}",
            sequence=message.offset,
            body=body,
        )
        return join(encode(record), message.value)


def at_once(work: Callable[[], None]) -> Future[None]:
    """The port Beside, in the same thread."""
    done: Future[None] = Future()
    try:
        work()
    except Exception as error:
        done.set_exception(error)
    else:
        done.set_result(None)
    return done
