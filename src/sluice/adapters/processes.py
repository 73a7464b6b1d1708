"""The pieces of a work on all cores of this machine, in processes of their own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from sluice.application.spread import Piece, Result, Work


@dataclass(frozen=True, slots=True)
class Processes:
    """See :class:`sluice.application.spread.Spread`. Their memory goes back when they end.

    most: processes at once.
    """

    most: int

    def __call__(
        self, prepare: Callable[[], Work[Piece, Result]], pieces: Sequence[Piece]
    ) -> Iterator[Result]:
        """See the port."""
        with ProcessPoolExecutor(
            max(1, min(self.most, len(pieces))),
            multiprocessing.get_context("spawn"),  # Feast and Arrow have threads: no fork
            initializer=_start,
            initargs=(prepare,),
        ) as pool:
            yield from pool.map(_do, pieces)


_work: Work[Any, Any] | None = None


def _start(prepare: Callable[[], Work[Any, Any]]) -> None:
    global _work  # noqa: PLW0603 - a pool's process has no other place to keep it
    _work = prepare()


def _do(piece: Any) -> Any:
    if _work is None:
        raise AssertionError("start comes first")
    return _work(piece)
