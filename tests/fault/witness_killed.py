"""Kills a witness with each seed at a named point, lets the next one go on, and recounts.

``python -m tests.fault.witness_killed FOLDER SEEDS``: a process of its own, since it forks. A child
is a witness; whatever it says it writes down, as a log that hears it would, and dies as kill -9.
"""

from __future__ import annotations

import importlib
import os
import random
import sys
from pathlib import Path

from sluice import faultpoints
from sluice.adapters.witness.remembered import RememberedFiles
from sluice.application.cosign import NotCosigned, Witness
from sluice.domain.clock import SystemClock
from sluice.testing.witness import OF_WITNESS, ORIGIN, WITNESS_NAME, GrownLog

POINTS = ("witness.before_rename", "witness.after_rename", "witness.after_sync")
LIVES, ASKED_A_LIFE, SIZE = 4, 12, 60


def main(folder: Path, seeds: int) -> int:
    """Exit status 0; a line for each seed whose witness said two things."""
    log = GrownLog(SIZE)
    killed = 0
    for seed in range(seeds):
        choose = random.Random(seed)
        fork = GrownLog(SIZE, shares=choose.randrange(SIZE), fork="other")
        place = folder / str(seed)
        heard = place.with_suffix(".heard")
        place.mkdir(parents=True)
        heard.touch()
        for _ in range(LIVES):
            killed += _life(place, heard, log, fork, choose)
        why = _two_histories(heard, log, fork)
        if why:
            print(f"seed {seed}: {why}")
    print(f"killed {killed} of {seeds * LIVES}")
    return 0


def _life(place: Path, heard: Path, log: GrownLog, fork: GrownLog, choose: random.Random) -> bool:
    """One process of the witness. Whether it was killed."""
    point = f"{choose.choice(POINTS)}:{choose.randint(1, 8)}"
    asks = random.Random(choose.random())
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    os.environ["SLUICE_KILL_AT"] = point
    importlib.reload(faultpoints)
    witness = Witness(WITNESS_NAME, OF_WITNESS, [log.key], RememberedFiles(place), SystemClock())
    with heard.open("a", buffering=1) as says:
        for _ in range(ASKED_A_LIFE):
            whose = asks.choice((log, fork))
            old = witness.sizes[ORIGIN]
            size = min(SIZE, old + asks.randrange(5))
            try:
                witness.add_checkpoint(whose.submission(old, size))
            except NotCosigned:
                continue
            says.write(f"{size} {whose.roots[size].hex()}\n")
    os._exit(0)


def _two_histories(heard: Path, log: GrownLog, fork: GrownLog) -> str:
    said = [line.split() for line in heard.read_text().splitlines()]
    sizes = [int(size) for size, _ in said]
    if sizes != sorted(sizes):
        return f"it went back: {sizes}"
    for one in (log, fork):
        if all(one.roots[int(size)].hex() == root for size, root in said):
            return ""
    return "it cosigned two histories"


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), int(sys.argv[2])))
