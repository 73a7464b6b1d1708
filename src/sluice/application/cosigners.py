"""The log's side of its witnesses: ask each for its cosignature, and wait for none too long."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple, Protocol

from sluice.application.ports import Count, uncounted
from sluice.audit.checkpoints import parse_checkpoint
from sluice.audit.errors import Malformed, Refuted
from sluice.audit.merkle import Complete, consistency_proof
from sluice.audit.notes import SIGNATURES_MAX, Key, Note, Signature, parse_note
from sluice.audit.submissions import Submission, cosignatures
from sluice.errors import Misconfigured, SluiceError

ASKED = "sluice_auditor_cosigned_total"
CONTRADICTED = "sluice_auditor_contradicted_total"
AGAINST_THE_LOG = ("ahead", "other_root", "inconsistent")
WITNESSES_MAX = 8
WAIT_S = 0.4
"""For all of them together, of the second between two checkpoints; who is later is asked again with
the next one."""
ROUNDS = 2
"""Requests to one witness for one checkpoint: its 409 says from where it wants the proof."""


class Behind(NamedTuple):
    """A witness's answer: it cosigned so many entries last, not as many as was said."""

    size: int


class AsksWitness(Protocol):
    """One witness."""

    @property
    def key(self) -> Key:
        """By which its cosignatures are known."""
        ...

    def add_checkpoint(self, body: bytes) -> bytes | Behind:
        """The lines of its answer. Raises Unavailable; Rejected where it does not cosign."""
        ...


class Cosigners:
    """The witnesses of one log. For one thread."""

    def __init__(
        self,
        witnesses: Sequence[AsksWitness],
        *,
        wait_s: float = WAIT_S,
        count: Count = uncounted,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises Misconfigured for too many, and for two of one name."""
        names = [one.key.name for one in witnesses]
        if len(names) > WITNESSES_MAX or len(set(names)) < len(names):
            raise Misconfigured(
                f"{len(names)} witnesses: at most {WITNESSES_MAX}, each with a name of its own",
                where="auditor.witnesses_file",
            )
        self._witnesses = list(witnesses)
        self._wait_s = wait_s
        self._count = count
        self._clock = clock
        self._sizes = dict.fromkeys(names, 0)
        """What each cosigned last, as far as it told us."""
        self._under_way: dict[str, Future[bytes | Behind]] = {}
        self._pool = ThreadPoolExecutor(max(1, len(names)), "witness")

    def cosign(self, signed: bytes, complete: Complete) -> bytes:
        """A signed checkpoint to the same with the cosignatures that came in time.

        complete: reads the tree of the checkpoint. What goes wrong with a witness is counted, and
        nothing is raised for it; what ``complete`` raises is.
        """
        if not self._witnesses:
            return signed
        note = parse_note(signed)
        size = parse_checkpoint(note.text).size
        ends = self._clock() + self._wait_s
        lines: list[Signature] = []
        asked = [one for one in self._witnesses if self._free(one)]
        for _ in range(ROUNDS):
            self._ask(asked, signed, size, complete)
            asked = self._answers(asked, signed, size, ends, lines)
        for witness in asked:
            self._say(witness.key.name, "behind")
        room = SIGNATURES_MAX - len(note.signatures)
        return bytes(Note(note.text, [*note.signatures, *lines[:room]]))

    def close(self) -> None:
        """Ask no more. Does not wait for an answer."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _say(self, name: str, result: str) -> None:
        self._count(ASKED, name, result)
        if result in AGAINST_THE_LOG:
            self._count(CONTRADICTED, result)

    def _free(self, witness: AsksWitness) -> bool:
        """Whether its last answer has come; one that is late is asked nothing meanwhile."""
        name = witness.key.name
        late = self._under_way.get(name)
        if late is not None and not late.done():
            self._say(name, "late")
            return False
        self._under_way.pop(name, None)
        return True

    def _ask(
        self, witnesses: Sequence[AsksWitness], signed: bytes, size: int, complete: Complete
    ) -> None:
        for witness in witnesses:
            name = witness.key.name
            old = min(self._sizes[name], size)
            body = bytes(Submission(old, consistency_proof(old, size, complete), signed))
            self._under_way[name] = self._pool.submit(witness.add_checkpoint, body)

    def _answers(
        self,
        asked: Sequence[AsksWitness],
        signed: bytes,
        size: int,
        ends: float,
        lines: list[Signature],
    ) -> list[AsksWitness]:
        """Add the lines of those that cosigned. Returns those to be asked again."""
        wait([self._under_way[one.key.name] for one in asked], max(0.0, ends - self._clock()))
        again = []
        for witness in asked:
            name = witness.key.name
            if not self._under_way[name].done():
                self._say(name, "late")
                continue
            try:
                found = self._under_way.pop(name).result()
                if isinstance(found, Behind):
                    if found.size > size:
                        self._say(name, "ahead")
                    elif found.size != self._sizes[name]:
                        again.append(witness)
                    else:
                        self._say(name, "other_root")
                    self._sizes[name] = found.size
                    continue
                lines += cosignatures(found, signed, witness.key)[:1]
            except SluiceError as error:
                self._say(name, error.code)
            except (Malformed, Refuted):
                self._say(name, "no_witness")
            else:
                self._sizes[name] = size
                self._say(name, "cosigned")
        return again
