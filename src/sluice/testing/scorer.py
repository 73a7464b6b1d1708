"""A scorer of which a test knows what it will say."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from sluice.application.ports import Ints, Scores
from sluice.domain.features import catalogue
from sluice.domain.reference import Reference
from sluice.errors import Unavailable

MAX_PPM = 1_000_000


def by_amount(features: Ints) -> Ints:
    """(n, N) to (n,): one ppm for each minor unit of the amount."""
    return features[:, catalogue.INDEX["amount_minor"]]


class FakeScorer:
    """Scores by a function of the rows, cut to a probability; by default the amount.

    Set ``down`` to make it fail as a runtime does.
    """

    def __init__(
        self,
        ppm: Callable[[Ints], Ints] | int = by_amount,
        *,
        release: str = "fake-1",
        signer: str = "",
        tolerates: frozenset[str] = frozenset(),
        columns: Sequence[str] = ("amount_minor",),
        reference: Reference | None = None,
    ) -> None:
        self.release = release
        self.digest = hashlib.sha256(release.encode()).hexdigest()
        self.signer = signer
        self.tolerates = tolerates
        self.columns = np.array([catalogue.INDEX[name] for name in columns], np.int64)
        self.reference = reference
        self.down = False
        self._ppm = ppm

    def score(self, features: Ints) -> Scores:
        """(n, N) catalogue features to n scores. Raises Unavailable while ``down``."""
        if self.down:
            raise Unavailable("the fake scorer is down")
        if features.shape[1] != catalogue.N:
            raise IndexError(f"{features.shape[1]} columns, the catalogue has {catalogue.N}")
        ppm = self._ppm(features) if callable(self._ppm) else np.full(len(features), self._ppm)
        return Scores(np.clip(ppm, 0, MAX_PPM).astype(np.int64), self.release)

    def reasons(self, row: Ints) -> list[str]:
        """The amount, where there is one."""
        return ["MODEL_AMOUNT"] if by_amount(row[None])[0] else []
