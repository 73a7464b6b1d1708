"""The feature log joined by Feast, on all cores: what a training set is built from."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

import sluice
from sluice.adapters.feast.historical import (
    FeatureLog,
    Job,
    bounded_features,
    feature_service,
    maker,
)
from sluice.application.build_dataset import Made, Rules, Served
from sluice.application.dataset import Order, TimeSlice
from sluice.application.dataset_manifest import Inputs
from sluice.application.maturity import ReportTimes
from sluice.application.spread import Spread

PACKAGES = ("feast", "numpy", "pandas", "pyarrow")
"""What writes the bytes of a training set."""


class FeastTrainingLog:
    """See :class:`sluice.application.build_dataset.TrainingLog`.

    log: opens the feature log of the order's time, when it is first asked for. held: the same with
    every label held back for the label delay, in a folder of its own; asked for only if the order
    wants that. spread: where the partitions are joined; memory of a process goes back as it ends.
    """

    def __init__(
        self,
        log: Callable[[], FeatureLog],
        held: Callable[[], FeatureLog],
        repo: Path,
        order: Order,
        spread: Spread,
    ) -> None:
        self._open, self._hold = log, held
        self._repo = repo
        self._order = order
        self._spread = spread

    def served(self) -> Served:
        """See the port. Raises Misconfigured for a repository that is not applied."""
        return self._service

    @cached_property
    def _service(self) -> Served:
        if not self._order.service:
            return bounded_features()
        return feature_service(self._repo, self._order.service)

    @cached_property
    def _log(self) -> FeatureLog:
        return self._open()

    @cached_property
    def _joined(self) -> FeatureLog:
        return self._hold() if self._order.hold_labels else self._log

    def reports(self) -> ReportTimes:
        """See the port."""
        return self._joined.reports()

    def per_second(self) -> npt.NDArray[np.uint32]:
        """See the port."""
        return self._joined.per_second(self._order.first_us, self._order.until_us)

    def join(self, plan: Sequence[TimeSlice], rules: Rules, folder: Path) -> Iterator[Made]:
        """See the port."""
        named = {
            split.name: self._joined.named(split.cards_since_us)
            for split in dict.fromkeys(part.split for part in plan)
            if split.cards_since_us is not None
        }
        job = Job(
            self._joined, self._repo, self._service, bool(self._order.service), named, rules, folder
        )
        return self._spread(partial(maker, job), plan)

    def holes(self) -> int:
        """See the port."""
        return self._log.holes()

    def inputs(self) -> Inputs:
        """See the port."""
        return Inputs(
            files=self._log.files(),
            code=code_digest(),
            versions={name: importlib.metadata.version(name) for name in PACKAGES},
        )


def code_digest() -> str:
    """SHA-256 of this library's sources."""
    root = Path(sluice.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
