"""DESIGN 4.2: a state carries its versions, and nothing counts twice."""

from __future__ import annotations

import random

import numpy as np
import pytest

from sluice.domain.features import states
from sluice.domain.features.cardstate import SOURCES_MAX
from sluice.domain.features.catalogue import N
from sluice.domain.features.events import event_rows
from sluice.domain.features.kernel import REDELIVERED, Kernel, backfill_entity
from sluice.domain.records.entity import ENTITY_KINDS, EntityKind
from sluice.errors import Corrupt
from tests.property.reference import Event
from tests.property.worlds import START, TEMPOS, WORK, Change, Tempo, apply_to, entities, world


def versions(kind: EntityKind, state: bytes) -> list[list[int]]:
    """As the decider is told them."""
    row: list[bytes | None] = [b"", b"", b"", b""]
    row[ENTITY_KINDS.index(kind)] = state
    return Kernel().finalise(event_rows([Event(START, 1, 1).row()]), [row], [[]]).versions


@pytest.mark.parametrize("tempo", TEMPOS)
def test_any_prefix_delivered_again_changes_nothing(tempo: Tempo) -> None:
    changes = world(4, 200, tempo)
    rng = random.Random(3)
    for entity in {e for c in changes for e in entities(c.about)}:
        mine = [c for c in changes if entity in entities(c.about)]
        cut = rng.randrange(len(mine))
        before, _ = apply_to(entity[0], b"", mine[:cut])
        after, statuses = apply_to(entity[0], before, mine[: rng.randrange(cut + 1)])
        assert after == before
        assert set(statuses) <= {REDELIVERED}
        whole, _ = apply_to(entity[0], b"", mine)
        start_over = mine[rng.randrange(cut + 1) :]
        assert apply_to(entity[0], before, start_over)[0] == whole


@pytest.mark.parametrize("tempo", TEMPOS)
def test_versions_are_the_last_offset_of_each_source_and_the_etag_counts_the_events(
    tempo: Tempo,
) -> None:
    changes = world(6, 150, tempo)
    for entity in {e for c in changes for e in entities(c.about)}:
        mine = [c for c in changes if entity in entities(c.about)]
        last = {c.source: c.offset for c in mine}
        state, _ = apply_to(entity[0], b"", mine)
        assert versions(entity[0], state) == [[s, last[s]] for s in sorted(last)]
        assert int.from_bytes(states.etag(state), "little") == len(mine)


@pytest.mark.parametrize("kind", ENTITY_KINDS)
def test_more_sources_than_a_state_holds_stop_the_featurizer_and_the_backfill(
    kind: EntityKind,
) -> None:
    event = Event(START, 1, 1)
    changes = [Change(event, event, source, 0) for source in range(SOURCES_MAX)]
    state, _ = apply_to(kind, b"", changes)
    assert len(versions(kind, state)) == SOURCES_MAX
    one_more = Change(event, event, SOURCES_MAX, 0)
    with pytest.raises(Corrupt, match="more than 64 source partitions"):
        apply_to(kind, state, [one_more])
    every = [*changes, one_more]
    with pytest.raises(Corrupt, match="more than 64 source partitions"):
        backfill_entity(
            ENTITY_KINDS.index(kind),
            np.arange(len(every)),
            np.array([0, len(every)]),
            event_rows([event.row()] * len(every)),
            np.array([c.row() for c in every], np.int64),
            np.zeros((len(every), N), np.int64),
            WORK,
            keep_states=False,
        )
