"""The witness: cosign a checkpoint of a known log if what it cosigned before is its beginning.

C2SP tlog-witness. What it knows of a log is the last checkpoint that it cosigned, which is durable
before anybody hears the cosignature; so it never says yes to two trees of which none begins the
other, wherever it is killed.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sluice.application.ports import Count, uncounted
from sluice.audit.checkpoints import Checkpoint, parse_checkpoint
from sluice.audit.errors import Malformed, Refuted
from sluice.audit.merkle import EMPTY_ROOT, check_consistency
from sluice.audit.notes import WITNESS, Key, Note, cosign, parse_note, verified
from sluice.audit.submissions import Submission, parse_submission
from sluice.domain.clock import SECOND_US, Clock
from sluice.errors import Corrupt, Misconfigured, Rejected, Unavailable

RESULTS = "sluice_witness_checkpoints_total"
Refusal = Literal[
    "malformed", "unknown_log", "not_signed", "shrinks", "behind", "other_root", "inconsistent"
]
"""Why a checkpoint is not cosigned: HTTP 400, 404, 403, 400, 409, 409, 422."""
CLOCK_BACK = "clock_back"
BACK_MAX_S = 2
"""How far a clock may be set back without a refusal: the time of a cosignature never falls."""


class NotCosigned(Rejected):
    """It is not cosigned. code: a :data:`Refusal`. size: of the last cosigned checkpoint of its
    log, where the log is known."""

    def __init__(self, why: str, code: Refusal, origin: str = "", size: int | None = None) -> None:
        super().__init__(why, where=origin, code=code)
        self.size = size


class Remembered(Protocol):
    """The last checkpoint of each log that this witness cosigned."""

    def read(self, origin: str) -> bytes | None:
        """The note, None of a log that it never cosigned. Raises Unavailable, Corrupt."""
        ...

    def write(self, origin: str, note: bytes) -> None:
        """Replace the note. Durable when it returns; the one before or this one, whatever happens
        meanwhile. Raises Unavailable."""
        ...

    def keep_fork(self, origin: str, note: bytes) -> None:
        """Keep a checkpoint that a log signed beside another one of the same size: a proof against
        it. Raises nothing."""
        ...

    def check(self) -> None:
        """Write something beside the notes, as durably. Raises Unavailable."""
        ...


class _Last(NamedTuple):
    size: int
    root: bytes
    time_s: int
    note: bytes


class Witness:
    """One key, any number of logs. Thread-safe.

    name, private: of the witness. logs: keys whose name is their log's origin; several of one name
    while a log changes its key.
    """

    def __init__(
        self,
        name: str,
        private: Ed25519PrivateKey,
        logs: Sequence[Key],
        remembered: Remembered,
        clock: Clock,
        count: Count = uncounted,
    ) -> None:
        """Read what it remembers of each log. Raises Misconfigured, Unavailable; Corrupt if it is
        not what this witness cosigned."""
        if not logs:
            raise Misconfigured("the witness knows no log", where="witness.logs_file")
        try:
            self.key = Key(name, WITNESS, private.public_key())
        except Malformed as exc:
            raise Misconfigured(str(exc), where="witness.name") from exc
        self._private = private
        self._remembered = remembered
        self._clock = clock
        self._count = count
        self._logs: dict[str, list[Key]] = {}
        for key in logs:
            self._logs.setdefault(key.name, []).append(key)
        self._last = {origin: self._recall(origin) for origin in self._logs}
        self._one = threading.Lock()
        self._forgetful = False
        """The last write failed."""

    @property
    def sizes(self) -> dict[str, int]:
        """Of the last cosigned checkpoint of each log, 0 of none."""
        return {origin: last.size for origin, last in self._last.items()}

    def last(self, origin: str) -> bytes | None:
        """The last cosigned checkpoint of a log, a note; None of none."""
        found = self._last.get(origin)
        return found.note or None if found else None

    def check(self) -> None:
        """Whether it can remember again, if it could not. Raises Unavailable."""
        with self._one:
            if self._forgetful:
                self._remembered.check()
                self._forgetful = False

    def add_checkpoint(self, raw: bytes) -> bytes:
        """The body of a request to the body of its answer: lines of signatures.

        Raises NotCosigned, Unavailable.
        """
        try:
            answer, first = self._add(raw)
        except (NotCosigned, Unavailable) as error:
            self._count(RESULTS, error.code)
            raise
        self._count(RESULTS, "first" if first else "cosigned")
        return answer

    def _add(self, raw: bytes) -> tuple[bytes, bool]:
        try:
            asked = parse_submission(raw)
            note = parse_note(asked.checkpoint)
            found = parse_checkpoint(note.text)
        except Malformed as exc:
            raise NotCosigned(str(exc), "malformed") from exc
        keys = self._logs.get(found.origin)
        if keys is None:
            raise NotCosigned("nobody told this witness of the log", "unknown_log", found.origin)
        self._check_signed(note, keys, found.origin)
        if asked.old > found.size:
            raise NotCosigned(
                f"the old size is {asked.old}, the checkpoint has {found.size}",
                "shrinks",
                found.origin,
            )
        with self._one:
            last = self._last[found.origin]
            self._check(asked, found, last)
            return self._cosign(note, found, last), last.size == 0

    def _check_signed(self, note: Note, keys: Sequence[Key], origin: str) -> None:
        try:
            if verified(note, keys):
                return
        except Refuted as exc:
            raise NotCosigned(str(exc), "not_signed", origin) from exc
        raise NotCosigned("no known key of the log signed it", "not_signed", origin)

    def _check(self, asked: Submission, found: Checkpoint, last: _Last) -> None:
        origin = found.origin
        if found.size == last.size and found.root != last.root:
            self._remembered.keep_fork(origin, asked.checkpoint)
            raise NotCosigned(
                f"another root of {last.size} entries was cosigned", "other_root", origin, last.size
            )
        if asked.old != last.size:
            raise NotCosigned(
                f"{last.size} entries were cosigned last, not {asked.old}",
                "behind",
                origin,
                last.size,
            )
        try:
            check_consistency(last.size, found.size, last.root, found.root, asked.hashes)
        except (Malformed, Refuted) as exc:
            raise NotCosigned(str(exc), "inconsistent", origin, last.size) from exc

    def _cosign(self, note: Note, found: Checkpoint, last: _Last) -> bytes:
        of_log = {(key.name, key.id) for key in self._logs[found.origin]}
        named = {(one.name, one.id): one for one in note.signatures}
        signed = [one for name, one in named.items() if name in of_log]
        now_s = self._clock.now_us() // SECOND_US
        if now_s < last.time_s - BACK_MAX_S:
            raise Unavailable(
                f"the clock is {last.time_s - now_s} s behind the last cosignature",
                where=found.origin,
                fix="set the witness's clock",
                code=CLOCK_BACK,
            )
        time_s = max(now_s, last.time_s)
        line = cosign(note.text, self.key.name, self._private, time_s)
        cosigned = bytes(Note(note.text, [*signed, line]))
        self._forgetful = True
        self._remembered.write(found.origin, cosigned)
        self._forgetful = False
        self._last[found.origin] = _Last(found.size, found.root, time_s, cosigned)
        return str(line).encode()

    def _recall(self, origin: str) -> _Last:
        raw = self._remembered.read(origin)
        if raw is None:
            return _Last(0, EMPTY_ROOT, 0, b"")
        try:
            note = parse_note(raw)
            found = parse_checkpoint(note.text)
            times = verified(note, [self.key])
        except (Malformed, Refuted) as exc:
            raise self._not_ours(origin, str(exc)) from exc
        if self.key.name not in times:
            raise self._not_ours(origin, "this witness's key did not cosign it")
        if found.origin != origin:
            raise self._not_ours(origin, f"it is of {found.origin!r}")
        return _Last(found.size, found.root, times[self.key.name], raw)

    @staticmethod
    def _not_ours(origin: str, why: str) -> Corrupt:
        return Corrupt(
            f"what is remembered of a log is not what this witness cosigned: {why}",
            where=origin,
            fix="docs/runbooks/witness.md",
        )
