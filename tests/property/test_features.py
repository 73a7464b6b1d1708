"""All features of random events equal the reference's, in the stream and in the backfill."""

from __future__ import annotations

import numpy as np
import pytest

from sluice.domain.features.catalogue import ENTITIES, FEATURES, NAMES, VIEWS, N
from sluice.domain.features.events import event_rows
from sluice.domain.features.kernel import backfill_cold_starts, backfill_entity, context_features
from tests.property.reference import Event
from tests.property.worlds import TEMPOS, WORK, Stream, Tempo, world


def differences(got: list[int], wanted: list[int]) -> dict[str, tuple[int, int]]:
    return {name: (g, w) for name, g, w in zip(NAMES, got, wanted, strict=True) if g != w}


@pytest.mark.parametrize("tempo", TEMPOS)
@pytest.mark.parametrize("seed", range(3))
def test_every_feature_of_every_event_equals_brute_force(seed: int, tempo: Tempo) -> None:
    stream = Stream()
    for change in world(seed, 250, tempo):
        if isinstance(change.what, Event):
            served = stream.serve(change.what)
            assert differences(served.features[0].tolist(), stream.expect(change.what)) == {}
            assert served.missing[0] == 0
        stream.apply(change)


@pytest.mark.parametrize("tempo", TEMPOS)
def test_a_batch_serves_what_its_rows_would_be_served_alone(tempo: Tempo) -> None:
    stream = Stream()
    changes = world(11, 300, tempo)
    for change in changes[:200]:
        stream.apply(change)
    events = [c.what for c in changes[200:] if isinstance(c.what, Event)]
    others = [[e for e in events[:i] if e.card == event.card] for i, event in enumerate(events)]
    batch = stream.kernel.finalise(
        event_rows([e.row() for e in events]),
        [stream.states_of(e) for e in events],
        [[e.row() for e in entries] for entries in others],
    )
    for i, event in enumerate(events):
        alone = stream.serve(event, others[i])
        assert batch.features[i].tolist() == alone.features[0].tolist()
        assert batch.used[i] == alone.used[0]
        for v in range(4):
            one, many = alone.versions_at, batch.versions_at[4 * i :]
            assert alone.versions[one[v] : one[v + 1]] == batch.versions[many[v] : many[v + 1]]


@pytest.mark.parametrize("tempo", TEMPOS)
def test_the_backfill_gives_the_bits_of_the_stream_and_its_last_states(tempo: Tempo) -> None:
    stream = Stream()
    changes = world(5, 300, tempo)
    served = np.zeros((len(changes), N), np.int64)
    for i, change in enumerate(changes):
        if isinstance(change.what, Event):
            served[i] = stream.serve(change.what).features[0]
        stream.apply(change)

    out = np.zeros((len(changes), N), np.int64)
    judged = [i for i, c in enumerate(changes) if isinstance(c.what, Event)]
    events = event_rows([c.about.row() for c in changes])
    reported = np.array([c.row() for c in changes], np.int64)
    context_features(events, np.array(judged, np.int64), out)
    for v, view in enumerate(VIEWS):
        keys = sorted({getattr(c.about, view) for c in changes})
        rows = [[i for i, c in enumerate(changes) if getattr(c.about, view) == k] for k in keys]
        # In two pieces, the second from the states that the first left.
        final: list[bytes] = [b""] * len(keys)
        for part in (slice(0, len(changes) // 2), slice(len(changes) // 2, None)):
            here = set(range(len(changes))[part])
            some = [[i for i in mine if i in here] for mine in rows]
            final = backfill_entity(
                v,
                np.array([i for mine in some for i in mine], np.int64),
                np.cumsum([0, *map(len, some)]).astype(np.int64),
                events,
                reported,
                out,
                WORK,
                before=final,
                keep_states=True,
            ).states
        if view == "device":
            without = [i for i in judged if changes[i].about.device == 0]
            backfill_cold_starts(v, np.array(without, np.int64), events, out)
        for key, state in zip(keys, final, strict=True):
            if key:
                assert state == stream.states[view, key]
    judged_rows = served[judged]
    for entity in ENTITIES:
        mine = [f for f, feature in enumerate(FEATURES) if feature.entity == entity]
        np.testing.assert_array_equal(out[np.ix_(judged, mine)], judged_rows[:, mine])
