"""A past goes through the kernel into the archive, and the states that it leaves into the store."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from sluice.application.backfill import Backfill, History, PastLabels, reference_amounts
from sluice.application.ports import StateStore, StateUpdate
from sluice.domain.policy.fx import Fx

Ints = npt.NDArray[np.int64]

WRITE_MAX = 5_000
"""States a round: bounds memory, and lets progress be seen."""


class FeatureFiles(Protocol):
    """Where one past's rows and labels are written; what is there already stays as it is."""

    def write(self, first: int, features: Ints) -> int:
        """The rows from first on, (k, catalogue.N) features. Returns the files made."""
        ...

    def write_labels(self) -> int:
        """All its labels. Returns the files made."""
        ...


class PastSource(Protocol):
    """A past: authorizations by event_at, labels by known_at."""

    def history(self) -> History:
        """Its authorizations."""
        ...

    def labels(self) -> PastLabels:
        """Its labels."""
        ...

    def files(self, amounts: Ints, reference: str) -> FeatureFiles:
        """Where it goes. amounts: (n,) in the reference currency.

        Raises Misconfigured if another past lies there.
        """
        ...


class Archived(NamedTuple):
    """What a past became."""

    rows: int
    files: int
    """Those that were not there before."""
    states: Iterable[StateUpdate]
    """What it leaves; may be read once."""


def archive(
    past: PastSource,
    fx: Fx,
    *,
    threads: int = 1,
    keep_states: bool = True,
    progress: Callable[[int, int], None] = lambda done, rows: None,
) -> Archived:
    """Write the feature log of a past, and return the states that it leaves, if they are kept.

    progress: rows done, of all. Raises Misconfigured if the archive holds another history,
    Rejected for a currency without a rate, Unavailable.
    """
    history = past.history()
    amounts = reference_amounts(history, fx)
    run = Backfill(history, amounts, past.labels(), threads=threads, keep_states=keep_states)
    files = past.files(amounts, fx.reference)
    rows, made = len(amounts), 0
    for first, features in run.pieces():
        made += files.write(first, features)
        progress(first + len(features), rows)
    made += files.write_labels()
    return Archived(rows, made, run.states())


class Stored(NamedTuple):
    """What became of the states."""

    stored: int
    others: int
    """Entities that had another state, and keep it."""


def store_states(states: Iterable[StateUpdate], store: StateStore) -> Stored:
    """Store them where no state is. Raises Unavailable; may be run again then."""
    stored = others = 0
    left = iter(states)
    while some := list(islice(left, WRITE_MAX)):
        taken = store.write(some)
        stored += sum(taken)
        there = [update for update, ok in zip(some, taken, strict=True) if not ok]
        held = store.read([(update.entity, update.key) for update in there])
        others += sum(a.state != b for a, b in zip(there, held, strict=True))
    return Stored(stored, others)
