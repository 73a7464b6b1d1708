"""What the walk needs of the outside. Adapters keep these promises, fakes keep the same ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from sluice.domain.authorization import Authorization
from sluice.domain.decision import Decision, Origin, Pending
from sluice.domain.observation import EntityKind
from sluice.domain.stateformat import why_not

Ints = npt.NDArray[np.int64]


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """An authorization at a door, before anything was looked up.

    row: the kernel's (:func:`sluice.domain.events.event_row`).
    digest: 8-byte BLAKE2b of the canonical encoding; tells a repeat from a conflict.
    traceparent: W3C trace context of the caller, carried on to ``decisions.v1``.
    """

    auth: Authorization
    amount_minor: int
    """In the reference currency."""
    row: tuple[int, ...]
    digest: bytes
    received_at: int
    origin: Origin | None = None
    traceparent: str | None = None


class Reply(msgspec.Struct, frozen=True, gc=False):
    """What the store knew of one arrival, in one round trip that also left a pending entry.

    A state is None where its view could not be read, b"" where the entity was never written.
    earlier: the answer's bytes if this id was decided before; claimed_elsewhere: another
    arrival holds the id and has not answered yet; conflict: the id came with other content.
    lost: the store forgot what it held and is not rebuilt yet; every view is None.
    """

    card: bytes | None
    terminal: bytes | None
    merchant: bytes | None
    device: bytes | None
    pending: tuple[Pending, ...] = ()
    earlier: bytes | None = None
    claimed_elsewhere: bool = False
    conflict: bool = False
    lost: bool = False


NOTHING = Reply(None, None, None, None)
"""The reply of a store that is down: every view missing."""


class OnlineStore(Protocol):
    """Reads states and leaves pending entries; one round trip for the whole batch."""

    async def observe(self, batch: Sequence[Arrival]) -> list[Reply]:
        """(n,) arrivals to (n,) replies, in order: of two arrivals of one card, the second
        sees the first as pending. Raises Unavailable past its budget."""
        ...

    def remember(self, answers: Sequence[tuple[Arrival, bytes]]) -> None:
        """Keep each answer under its authorization id; does not wait, may be lost."""
        ...

    def release(self, arrivals: Sequence[Arrival]) -> None:
        """Give up the claims of arrivals that got no decision; does not wait, may be lost."""
        ...


@dataclass(frozen=True, slots=True)
class Scores:
    """Probability of fraud in parts per million, and what speaks for it.

    ppm: (n,) int64. Reasons of a row are computed only where someone asks: see Scorer.reasons.
    """

    ppm: Ints
    release: str


class Scorer(Protocol):
    """One release of a model. Deterministic: same rows, same bits, whatever the batch."""

    release: str
    tolerates: frozenset[str]
    """Views that may be missing (rung D1)."""

    def score(self, features: Ints) -> Scores:
        """(n, f) catalogue features to n scores. Raises Unavailable if the model cannot run."""
        ...

    def reasons(self, row: Ints) -> list[str]:
        """(f,) one row to reason codes, strongest first."""
        ...


NOT_SENT = "not_sent"
"""Code of an Unavailable: refused before anything left this process."""


class DecisionLog(Protocol):
    """``decisions.v1``."""

    async def append(self, decisions: Sequence[tuple[Arrival, Decision]]) -> None:
        """Returns when every record is durable (acks=all). Raises Unavailable if one may not be;
        its code is NOT_SENT if none can be."""
        ...


class StateUpdate(msgspec.Struct, frozen=True):
    """One state to store, if the stored one still carries the etag that we read.

    etag: bytes 1..9 of the state read (:func:`sluice.domain.states.etag`), b"" for none.
    event_us: newest event in the state; becomes Feast's event timestamp.
    """

    entity: EntityKind
    key: str
    etag: bytes
    state: bytes
    event_us: int


class StateStore(Protocol):
    """The featurizer's side of the online store. Synchronous: its caller works in batches."""

    def read(self, entities: Sequence[tuple[EntityKind, str]]) -> list[bytes]:
        """(n,) entities to (n,) states, b"" where none. Raises Unavailable."""
        ...

    def write(self, updates: Sequence[StateUpdate]) -> list[bool]:
        """Compare and set each; False where another writer came first. Raises Unavailable."""
        ...

    def remember(self, answers: Sequence[tuple[str, str, bytes, bytes]]) -> None:
        """Keep (tenant, authorization_id, digest, answer) of decided authorizations."""
        ...


READY, LOST, REBUILDING, CATCHING_UP = "ready", "lost", "rebuilding", "catching_up"
"""What a store is: its states are what the log makes; it forgot some; they are being made again
from the archive; featurizers apply what the archive does not hold yet. Only READY is served."""
MISSING = "missing"
"""A store without a marker: new, or emptied."""
WRITABLE = frozenset({READY, CATCHING_UP})
"""What featurizers write to."""
STORE_LOST = "store_lost"
"""Code of an Unavailable: the store lacks what it once held, or holds states of another format.
Trying again does not help."""

Offsets = Mapping[tuple[str, int], int]
"""By topic and partition: the next offset to read."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What a store says of itself. id: made anew with each installation and each rebuild."""

    id: str
    state: str
    applied: Offsets
    """What has taken effect in it."""
    format: str = ""
    """What its states mean: see :mod:`sluice.domain.stateformat`; "" if it does not say."""

    def why_not_written(self) -> str:
        """Why featurizers stay away from it, "" if they do not: its state, or its format."""
        if self.state not in WRITABLE:
            return "" if self.state == MISSING else f"the online store's states are {self.state}"
        why = why_not(self.format)
        return why and f"the online store is not used: {why}"
