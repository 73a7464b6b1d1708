"""The numbers of one emitter's decisions: each is taken once, and it is known what became of it.

A number is open until its record is durable or given up. What was given up is told by the next
record that becomes durable. So a hole in the numbers has a reason that a record gives, or lies
where the emitter's last records call nothing settled: there it died with appends on their way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sluice.domain.records.decision import MAX_GIVEN_UP

Stretch = tuple[int, int]
"""Numbers, [first, until)."""


class Taken(NamedTuple):
    """Numbers of a batch, from first on. settled, given_up: as the records say it, the latter in
    the first of them (:class:`sluice.domain.records.decision.Decision`)."""

    first: int
    settled: int
    given_up: list[Stretch]


class Numbers:
    """Not shared between threads.

    >>> numbers = Numbers()
    >>> numbers.take(2), numbers.take(1)
    (Taken(first=0, settled=0, given_up=[]), Taken(first=2, settled=0, given_up=[]))
    >>> numbers.settle(0, lost=[1])
    >>> numbers.take(1)
    Taken(first=3, settled=1, given_up=[(1, 2)])
    """

    def __init__(self) -> None:
        self.next = 0
        self._open: dict[int, tuple[int, list[Stretch]]] = {}
        """By first number, in rising order: how many, and what its first record tells of."""
        self._given_up: list[Stretch] = []
        """That no record tells of yet."""

    def take(self, count: int) -> Taken:
        """The next numbers."""
        settled, first = self._settled(), self.next
        told, self._given_up = self._given_up[:MAX_GIVEN_UP], self._given_up[MAX_GIVEN_UP:]
        self._open[first] = count, told
        self.next += count
        return Taken(first, settled, told)

    def settle(self, first: int, lost: Sequence[int] = ()) -> None:
        """What became of a batch: its records are durable but those at these places."""
        if first not in self._open:  # its numbers were taken back
            return
        _, told = self._open.pop(first)
        if not lost:
            return
        again = [(first + at, first + at + 1) for at in lost] + told * (0 in lost)
        self._given_up = _joined([*self._given_up, *again])

    def give_up(self, first: int) -> None:
        """None of a batch's records is durable."""
        if first in self._open:
            self.settle(first, range(self._open[first][0]))

    def back_to(self, number: int) -> None:
        """Take numbers back: nothing was recorded of them, nor will be."""
        told = [one for first, (_, tells) in self._open.items() if first >= number for one in tells]
        self._open = {first: held for first, held in self._open.items() if first < number}
        self._given_up = [one for one in _joined([*self._given_up, *told]) if one[0] < number]
        self.next = number

    def _settled(self) -> int:
        """Below it nothing is open, and all that was given up is told by a durable record."""
        firsts = [next(iter(self._open), self.next)]
        firsts += [first for first, _ in self._given_up[:1]]
        firsts += [told[0][0] for _, told in self._open.values() if told]
        return min(firsts)


def _joined(stretches: list[Stretch]) -> list[Stretch]:
    """In order, neighbours in one."""
    found: list[Stretch] = []
    for first, until in sorted(stretches):
        if found and found[-1][1] == first:
            found[-1] = found[-1][0], until
        else:
            found.append((first, until))
    return found
