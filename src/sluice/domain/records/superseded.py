"""Of two records of one id in ``decisions.v1`` the first counts; the second is superseded.

An id is decided once, unless nobody could know that it was: then its partition holds two records.
Which one counts is a function of the log alone. A record is superseded if another of its id lies
among the REACH offsets before it, in the same partition: whoever has read those knows, wherever it
began. Records of one id have one key, the card's token, and so one partition, unless their contents
differ.
"""

from __future__ import annotations

from collections import deque

REACH = 10_000
"""Offsets of a partition. What a reader has to read again when it begins: 20 MB; and to remember:
3 MB. A caller that hears nothing asks again within seconds, at 80 records a second in a partition
this is two minutes."""

Id = tuple[str, str]
"""Tenant and authorization id."""


class Superseded:
    """Tells it of one partition's records, read in order, and again from ``since`` on.

    since: the first offset of which it can tell; what lies within reach before it was read, or is
    gone. Not thread-safe.
    """

    def __init__(self, since: int = 0, reach: int = REACH) -> None:
        self.since = since
        self._reach = reach
        self._last: dict[Id, int] = {}
        """The newest offset of each id."""
        self._before: dict[Id, list[int]] = {}
        """And those before it, where there are any."""
        self._order: deque[tuple[int, Id]] = deque()
        self._newest = -1

    def __len__(self) -> int:
        """Ids remembered."""
        return len(self._last)

    def read(self, offset: int, tenant: str, authorization_id: str) -> bool:
        """Whether the record at this offset is superseded; remembers it. O(1).

        >>> one = Superseded(reach=10)
        >>> [one.read(at, "acme", "a-1") for at in (3, 13, 24)]
        [False, True, False]
        """
        key = tenant, authorization_id
        last = self._last.get(key, -1)
        if offset > self._newest:
            self._newest = offset
            self._order.append((offset, key))
            self._last[key] = offset
            if last < 0:
                return False
            self._before.setdefault(key, []).append(last)
            return offset - last <= self._reach
        # Read again: what it is was settled by what lies before it.
        return any(
            0 < offset - other <= self._reach for other in (last, *self._before.get(key, ()))
        )

    def forget_before(self, offset: int) -> None:
        """Nothing before this offset will be read again: what is out of its reach may go."""
        self.since = max(self.since, offset)
        order = self._order
        while order and order[0][0] < offset - self._reach:
            at, key = order.popleft()
            if self._last[key] == at:
                del self._last[key]
                self._before.pop(key, None)
            else:
                self._before[key].remove(at)
