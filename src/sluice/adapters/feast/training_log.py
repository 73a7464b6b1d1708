"""The feature log joined by Feast, on all cores: what a training set is built from."""

from __future__ import annotations

import hashlib
import importlib.metadata
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

import sluice
from sluice.adapters.feast.historical import FeatureLog, Job, feature_service, make, start
from sluice.application.build_dataset import Made, Order, Served
from sluice.application.dataset import Inputs, TimeSlice

PACKAGES = ("feast", "numpy", "pandas", "pyarrow")
"""What writes the bytes of a training set."""


class FeastTrainingLog:
    """See :class:`sluice.application.build_dataset.TrainingLog`.

    log: opens the feature log of the order's time, when it is first asked for.
    """

    def __init__(
        self, log: Callable[[], FeatureLog], repo: Path, order: Order, processes: int
    ) -> None:
        self._open = log
        self._repo = repo
        self._order = order
        self._processes = processes

    def served(self) -> Served:
        """See the port. Raises Misconfigured for a repository that is not applied."""
        return self._service

    @cached_property
    def _service(self) -> Served:
        return feature_service(self._repo, self._order.service)

    @cached_property
    def _log(self) -> FeatureLog:
        return self._open()

    def per_second(self) -> npt.NDArray[np.uint32]:
        """See the port."""
        return self._log.per_second()

    def join(self, plan: Sequence[TimeSlice], folder: Path) -> Iterator[Made]:
        """See the port. In processes of their own, so that memory goes back."""
        job = Job(self._log, self._repo, self._service, self._log.named(), folder)
        with ProcessPoolExecutor(
            max(1, min(self._processes, len(plan))),
            multiprocessing.get_context("spawn"),  # Feast and Arrow have threads: no fork
            initializer=start,
            initargs=(job,),
        ) as pool:
            yield from pool.map(make, plan)

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
