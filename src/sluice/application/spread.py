"""Where the pieces of a large work are done: a piece knows nothing of the others, nor of where.

What is done with a piece is one function whatever the engine; an engine only says which process,
of which machine, has which piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

Piece = TypeVar("Piece")
Result = TypeVar("Result")
Work = Callable[[Piece], Result]


class Spread(Protocol):
    """An engine."""

    def __call__(
        self, prepare: Callable[[], Work[Piece, Result]], pieces: Sequence[Piece]
    ) -> Iterator[Result]:
        """(n,) pieces to n results, in order. prepare: makes the function, once in each process or
        task; it, the pieces and the results are pickled. Raises what the function raises."""
        ...


def one_by_one(
    prepare: Callable[[], Work[Piece, Result]], pieces: Sequence[Piece]
) -> Iterator[Result]:
    """Here, one after the other."""
    return map(prepare(), pieces)
