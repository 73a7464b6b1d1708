"""States go through bytes and come back; damaged bytes are reported, and never crash or hang."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sluice.domain.compiled import FOLDER
from sluice.domain.features.events import WIDTH, event_rows
from sluice.domain.features.kernel import Kernel, update
from sluice.domain.records.entity import ENTITY_KINDS
from sluice.errors import Corrupt
from tests.property.damage import PROBE, good_states, run
from tests.property.worlds import WORK

ROOT = Path(__file__).parents[2]
NOTHING = (np.zeros((0, WIDTH), np.int64), np.zeros((0, 4), np.int64))


def test_a_state_read_and_written_again_is_the_same_bytes() -> None:
    states = good_states()
    done = update(
        [(ENTITY_KINDS[v], "k") for v, _ in states],
        [state for _, state in states],
        np.zeros(len(states) + 1, np.int64),
        *NOTHING,
        WORK,
    )
    assert done.states == [state for _, state in states]


def test_every_cut_state_is_missing_to_the_decider_and_corrupt_to_the_featurizer() -> None:
    kernel = Kernel()
    for v, state in good_states():
        for end in (1, 8, 9, 10, len(state) - 1):
            row: list[bytes | None] = [b""] * 4
            row[v] = state[:end]
            served = kernel.finalise(event_rows([PROBE.row()]), [row], [[]])
            unseen = kernel.finalise(event_rows([PROBE.row()]), [[b""] * 4], [[]])
            assert served.missing[0] == 1 << v
            assert served.features.tolist() == unseen.features.tolist()
            assert served.versions == []
            with pytest.raises(Corrupt, match="cannot be read"):
                update(
                    [(ENTITY_KINDS[v], "k")], [state[:end]], np.zeros(2, np.int64), *NOTHING, WORK
                )


def test_one_damaged_state_does_not_disturb_its_neighbours_in_a_batch() -> None:
    kernel = Kernel()
    (_, card), (_, terminal), *_ = good_states()
    rows: list[list[bytes | None]] = [
        [card, terminal, b"", b""],
        [card[:-1], terminal[:-1], None, b"\xff"],
        [card, terminal, b"", b""],
    ]
    served = kernel.finalise(event_rows([PROBE.row()] * 3), rows, [[]] * 3)
    assert served.missing.tolist() == [0, 0b1111, 0]
    assert served.features[0].tolist() == served.features[2].tolist()


def test_damage_is_seen_or_read_as_some_state_and_nothing_worse() -> None:
    reported = run(1)
    assert reported["corrupt"] > 1000
    assert reported["read"] > 1000


@pytest.mark.slow
def test_damage_never_reaches_outside_an_array() -> None:
    checked = FOLDER.with_name(f"{FOLDER.name}-checked")
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(checked)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.property.damage", "2"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "corrupt" in done.stdout
