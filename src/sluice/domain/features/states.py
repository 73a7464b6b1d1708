"""Sources and versions of a state. The state itself is in :mod:`sluice.domain.features.kernel`."""

from __future__ import annotations

# Kinds of source that a state is made from; the versions inside states hold these numbers.
DECISIONS = 0
"""A partition of the decisions."""
LABELS = 1
"""A partition of the labels."""
BACKFILL = 2
"""A firm's own past, loaded once."""
PARTITIONS_MAX = 4096
ETAG_BYTES = 8


def source(kind: int, partition: int) -> int:
    """The number of one source partition inside a state's version.

    >>> source(LABELS, 3)
    4099
    """
    if not 0 <= partition < PARTITIONS_MAX:
        raise ValueError(f"partition {partition} is not in 0..{PARTITIONS_MAX - 1}")
    return kind * PARTITIONS_MAX + partition


def etag(state: bytes) -> bytes:
    """Changes with every event applied: bytes 1..9 of a state, b"" of none.

    It counts the events applied, so it is itself a function of the set of events.
    """
    return state[1 : 1 + ETAG_BYTES]
