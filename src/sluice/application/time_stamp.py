"""A checkpoint's time, by somebody who has nothing to do with the log (RFC 3161).

Beside the log's files, for each one: ``timestamps/SIZE.note``, the checkpoint as it was, and
``timestamps/SIZE.tsr``, the authority's answer over its bytes. ``openssl ts -verify`` reads both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from sluice.application.append_log import CHECKPOINT, LogStore
from sluice.audit.checkpoints import open_checkpoint
from sluice.audit.errors import Malformed, Refuted
from sluice.audit.notes import Key
from sluice.errors import Corrupt

FOLDER = "timestamps"


class Stamp(NamedTuple):
    """at_us: the authority's time. answer: its TimeStampResp, DER."""

    at_us: int
    answer: bytes


class TimeStamps(Protocol):
    """An authority."""

    def stamp(self, data: bytes) -> Stamp:
        """Over these bytes. Raises Unavailable; Rejected for an answer that does not verify."""
        ...


class CheckpointStamps:
    """Stamps of one log. stores: the log's own first, then its copies. log: its key."""

    def __init__(self, stores: Sequence[LogStore], stamps: TimeStamps, log: Key) -> None:
        self._stores = stores
        self._stamps = stamps
        self._log = log

    def once(self) -> int | None:
        """Stamp the newest checkpoint. Returns the authority's time, microseconds; None if it has
        a stamp already, or there is no checkpoint. Raises Unavailable, Rejected, Corrupt."""
        try:
            raw = self._stores[0].read(CHECKPOINT)
            size = open_checkpoint(raw, self._log.name, self._log).checkpoint.size
        except FileNotFoundError:
            return None
        except (Malformed, Refuted) as exc:
            raise Corrupt(f"the checkpoint is not this log's: {exc}", where=self._log.name) from exc
        try:
            self._stores[0].read(f"{FOLDER}/{size}.tsr")
        except FileNotFoundError:
            found = self._stamps.stamp(raw)
            files = [(f"{FOLDER}/{size}.note", raw), (f"{FOLDER}/{size}.tsr", found.answer)]
            for store in reversed(self._stores):  # its own last: a copy that failed is tried again
                store.write(files)
            return found.at_us
        return None
