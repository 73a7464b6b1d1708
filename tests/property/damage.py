"""Damages states in every way and feeds them to the kernel; what it says is told on stdout.

Run as a program with NUMBA_BOUNDSCHECK=1 it dies of the first index outside of an array.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Iterator

import numpy as np

from sluice.domain.features.catalogue import VIEWS
from sluice.domain.features.events import WIDTH, event_rows
from sluice.domain.features.kernel import Kernel, update
from sluice.domain.records.entity import ENTITY_KINDS
from sluice.errors import Corrupt
from tests.property.reference import Event
from tests.property.worlds import START, TEMPOS, WORK, Stream, world

PROBE = Event(START, 1, 100, country=77, merchant=31, device=41)


def good_states() -> list[tuple[int, bytes]]:
    """(index into VIEWS, state) of some worlds."""
    found = []
    for tempo in TEMPOS:
        stream = Stream()
        for change in world(20, 150, tempo):
            stream.apply(change)
        for v, view in enumerate(VIEWS):
            found.append((v, max((s for (k, _), s in stream.states.items() if k == view), key=len)))
    return found


def damaged(state: bytes, rng: random.Random) -> Iterator[bytes]:
    """Every beginning of it, single bits, wild bytes, things cut out or put in, and noise."""
    yield from (state[:end] for end in range(1, len(state)))
    for _ in range(400):
        raw = bytearray(state)
        for _ in range(rng.choice((1, 1, 2, 8))):
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        yield bytes(raw)
    for _ in range(200):
        at = rng.randrange(1, len(state))
        wild = bytes(rng.choice((0, 1, 127, 128, 255)) for _ in range(rng.randrange(1, 12)))
        yield state[:at] + wild + state[at + len(wild) :]
        yield state[:at] + wild + state[at:]
        yield state[:at] + state[at + len(wild) :]
    for _ in range(100):
        yield bytes([1]) + rng.randbytes(rng.randrange(1, 200))


def run(seed: int) -> Counter[str]:
    """How often damage was seen, or read as some other state."""
    rng = random.Random(seed)
    kernel = Kernel()
    reported: Counter[str] = Counter()
    for v, state in good_states():
        pieces = list(damaged(state, rng))
        rows: list[list[bytes | None]] = [[b""] * 4 for _ in pieces]
        for row, piece in zip(rows, pieces, strict=True):
            row[v] = piece
        events = event_rows([PROBE.row()] * len(pieces))
        pending = [[(START, 2, 1, 0, 0, 5, 0, 10**6, 0, -3, 0, 9, 0, 0)]] * len(pieces)
        served = kernel.finalise(events, rows, pending)
        for piece, missing in zip(pieces, served.missing.tolist(), strict=True):
            assert missing in (0, 1 << v)
            try:
                done = update(
                    [(ENTITY_KINDS[v], "k")],
                    [piece],
                    np.array([0, 1], np.int64),
                    event_rows([PROBE.row()]),
                    np.array([[0, 4095, 2**40, 0]], np.int64),
                    WORK,
                )
            except Corrupt as exc:
                reported["corrupt"] += 1
                if not missing and exc.code != "too_many_sources":
                    raise
                continue
            assert not missing
            # What was read can be written, and read again as the same.
            again = update(
                [(ENTITY_KINDS[v], "k")],
                done.states,
                np.zeros(2, np.int64),
                np.zeros((0, WIDTH), np.int64),
                np.zeros((0, 4), np.int64),
                WORK,
            )
            assert again.states == done.states
            reported["read"] += 1
    return reported


if __name__ == "__main__":
    print(dict(run(int(sys.argv[1]))))
