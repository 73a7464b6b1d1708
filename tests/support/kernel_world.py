"""A small world that is the same for ever, and what the kernel makes of it, register by register.

Six cards and a crowd of others at few places over 150 days: bursts, idle weeks, more in an hour
than a card remembers, declines, reports, redeliveries, late arrivals, two at one microsecond.

  python -m tests.support.kernel_world      write what has no golden values yet

It changes no value that is there: where the kernel makes another, raise the register's version.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sluice.domain.clock import DAY_US, SECOND_US
from sluice.domain.features.catalogue import REGISTERS, VERSIONS, register_meaning
from sluice.domain.features.events import (
    CARD,
    DECLINED,
    DEVICE,
    EVENT_US,
    MERCHANT,
    TERMINAL,
    WIDTH,
)
from sluice.domain.features.kernel import AUTHORIZATION, FRAUD, GENUINE, Kernel, scratch, update
from sluice.domain.records.countries import COUNTRY_INDEX
from sluice.domain.records.currencies import CURRENCY_INDEX
from sluice.domain.records.entity import ENTITY_KINDS, EntityKind

GOLDEN = Path(__file__).with_suffix(".json")
KINDS = ENTITY_KINDS
KEYS = (CARD, TERMINAL, MERCHANT, DEVICE)
START_US = 1_772_323_200_000_000
"""2026-03-01, a Sunday."""
EVENTS = 2400
COUNTRIES = tuple(COUNTRY_INDEX[code] for code in ("BE", "FR", "US", "JP", "AU", "BR", "ZA", "IS"))
CURRENCIES = tuple(CURRENCY_INDEX[code] for code in ("EUR", "USD", "JPY"))
MCCS = (5411, 4829, 4722, 5311, 5999, 7995, 1)
GAPS_S = (0, 5, 20, 40, 90, 250, 900, 2_500, 6_000, 20_000)
AMOUNTS = (0, 120, 299, 300, 1_999, 4_000, 12_345, 60_000, 999_999, 140_000_000)

Ints = npt.NDArray[np.int64]


class _Dice:
    """Knuth's MMIX generator: the same numbers under every version of everything."""

    def __init__(self, seed: int) -> None:
        self._state = seed

    def below(self, n: int) -> int:
        self._state = (self._state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self._state >> 33) % n


def events() -> Ints:
    """(EVENTS, WIDTH), in the order of arrival."""
    dice = _Dice(20260301)
    rows = np.zeros((EVENTS, WIDTH), np.int64)
    now = START_US
    for i in range(EVENTS):
        crowded = 400 <= i < 520  # more of one card in an hour than it remembers
        now += 20 * SECOND_US if crowded else GAPS_S[dice.below(10)] * SECOND_US + dice.below(9)
        if i % 250 == 249:
            now += 9 * DAY_US
        late = dice.below(12) == 0
        card = 0 if crowded else dice.below(6)
        stranger = not crowded and dice.below(4) == 0
        row = (
            now - dice.below(4) * DAY_US - dice.below(5_000) * SECOND_US if late else now,
            1_000 + i,
            AMOUNTS[dice.below(10)] + dice.below(3) * dice.below(50),
            1_000_003 * (7 + dice.below(200)) if stranger else 71 + card,
            801 + dice.below(4),
            9_001 + dice.below(5),
            0 if dice.below(3) == 0 else 5_001 + dice.below(3),
            COUNTRIES[dice.below(8) if dice.below(3) == 0 else card],
            COUNTRIES[card],
            CURRENCIES[dice.below(3) if dice.below(4) == 0 else card % 3],
            MCCS[dice.below(7)],
            1 + dice.below(5),
            dice.below(5),
            int(dice.below(7) == 0),
        )
        rows[i] = row
        if i and dice.below(40) == 0:
            rows[i] = rows[i - 1]  # once more
        elif i and dice.below(30) == 0:
            rows[i, EVENT_US] = rows[i - 1, EVENT_US]
    return rows


def register_values() -> Ints:
    """(EVENTS, registers): what each authorization was judged by, at its arrival."""
    return replay()[0]


def replay() -> tuple[Ints, Ints]:
    """Registers and features of every event."""
    dice = _Dice(1)
    kernel, work = Kernel(), scratch()
    states: dict[tuple[EntityKind, int], bytes] = {}
    rows = events()
    registers, features = [], []
    for i, row in enumerate(rows):
        entities = [(kind, int(row[at])) for kind, at in zip(KINDS, KEYS, strict=True)]
        entities = [entity for entity in entities if entity[1]]
        held = [states.get((kind, int(row[at])), b"") for kind, at in zip(KINDS, KEYS, strict=True)]
        # What was judged moments ago may not be in the states yet, or be in them already.
        recent = [r for r in rows[max(0, i - 3) : i] if r[CARD] == row[CARD]]
        pending = [(*map(int, r[:DECLINED]), 0) for r in recent]
        served = kernel.finalise(row[None], [held], [pending])
        registers.append(kernel.registers())
        features.append(served.features[0])
        changes = [[AUTHORIZATION, 1, i, 0]]
        if (fate := dice.below(20)) < 3:
            known = int(row[EVENT_US]) + dice.below(20) * DAY_US
            changes.append([FRAUD if fate < 2 else GENUINE, 2, i, known])
        n = len(changes)
        fresh = update(
            [(kind, str(key)) for kind, key in entities],
            [states.get(entity, b"") for entity in entities],
            np.arange(0, n * len(entities) + 1, n),
            np.tile(row, (n * len(entities), 1)),
            np.tile(np.array(changes, np.int64), (len(entities), 1)),
            work,
        )
        states.update(zip(entities, fresh.states, strict=True))
    return np.array(registers), np.array(features)


def fingerprints(values: Ints) -> dict[str, str]:
    """By what each register means, a digest of its values."""
    return {
        register_meaning(name): hashlib.sha256(values[:, at].tobytes()).hexdigest()[:16]
        for name, at in REGISTERS.items()
    }


def changed(values: Ints) -> tuple[list[str], list[str]]:
    """Meanings whose values are not the golden ones, and meanings that have none."""
    golden = json.loads(GOLDEN.read_text())
    found = fingerprints(values)
    other = [meaning for meaning, digest in found.items() if golden.get(meaning, digest) != digest]
    return other, [meaning for meaning in found if meaning not in golden]


def write() -> None:
    """Add what has no golden values, drop what no register means any more, change nothing."""
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    found = fingerprints(register_values())
    kept = {meaning: golden.get(meaning, digest) for meaning, digest in found.items()}
    GOLDEN.write_text(json.dumps(kept, indent=1) + "\n")
    print(f"{len(kept)} registers, {len(kept.keys() - golden.keys())} of them new; {VERSIONS=}")


if __name__ == "__main__":
    write()
