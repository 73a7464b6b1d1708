"""A fraud that was none after all: its count is taken back, and nothing else."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace

import pytest

from sluice.domain.features.catalogue import INDEX, NEVER_S
from sluice.domain.features.kernel import DONE
from sluice.domain.records.entity import ENTITY_KINDS, EntityKind
from tests.property.reference import DAY, HOUR, Event, Label
from tests.property.test_features import differences
from tests.property.worlds import START, TEMPOS, Change, Stream, Tempo, apply_to, world


def with_withdrawals(changes: list[Change], rng: random.Random) -> list[Change]:
    """Every second report of a fraud is taken back some changes later, out of its own source."""
    places: list[tuple[float, Change]] = [(float(i), change) for i, change in enumerate(changes)]
    for i, change in enumerate(changes):
        what = change.what
        if isinstance(what, Label) and what.is_fraud and rng.random() < 0.5:
            known = what.known_us + rng.randrange(20 * DAY)
            back = Label(is_fraud=False, known_us=known, withdraws=what.known_us)
            places.append((i + rng.random() * 60 + 0.5, replace(change, what=back)))
    offsets: defaultdict[int, int] = defaultdict(int)
    made = []
    for _, change in sorted(places, key=lambda one: one[0]):
        offsets[change.source] += 1
        made.append(replace(change, offset=offsets[change.source]))
    return made


def test_a_report_that_is_taken_back_counts_until_then_and_no_longer() -> None:
    stream, event, known = Stream(), Event(START, 1, 100, device=41), START + 2 * DAY
    stream.apply(Change(event, event, 0, 0))
    stream.apply(Change(Label(is_fraud=True, known_us=known), event, 4096, 0))

    def served(name: str) -> int:
        probe = replace(event, us=START + 3 * DAY + HOUR, id=2)
        return int(stream.serve(probe).features[0][INDEX[name]])

    counted = ("card_frauds_reported", "terminal_frauds_7d", "device_frauds_30d")
    assert [served(name) for name in counted] == [1, 1, 1]
    back = Label(is_fraud=False, known_us=known + DAY, withdraws=known)
    stream.apply(Change(back, event, 4096, 1))
    assert [served(name) for name in counted] == [0, 0, 0]
    assert served("card_since_fraud_s") == NEVER_S
    assert served("terminal_since_genuine_s") == HOUR // 1_000_000
    stream.apply(Change(Label(is_fraud=True, known_us=known), event, 4096, 2))
    assert [served(name) for name in counted] == [1, 1, 1]


@pytest.mark.parametrize("tempo", TEMPOS)
def test_every_feature_equals_brute_force_with_withdrawals(tempo: Tempo) -> None:
    stream = Stream()
    changes = with_withdrawals(world(21, 250, tempo), random.Random(21))
    assert any(isinstance(c.what, Label) and c.what.withdraws for c in changes)
    for change in changes:
        if isinstance(change.what, Event):
            served = stream.serve(change.what)
            assert differences(served.features[0].tolist(), stream.expect(change.what)) == {}
        stream.apply(change)


@pytest.mark.parametrize("tempo", TEMPOS)
def test_sources_may_mix_in_any_way_and_the_states_are_the_same(tempo: Tempo) -> None:
    """Within one source a withdrawal comes behind its report: they are of one authorization."""
    rng = random.Random(22)
    changes = with_withdrawals(world(22, 200, tempo), rng)
    one, other = Stream(), Stream()
    for change in changes:
        one.apply(change)
    queues: defaultdict[int, list[Change]] = defaultdict(list)
    for change in changes:
        queues[change.source].append(change)
    while queues:
        source = rng.choice(sorted(queues))
        other.apply(queues[source].pop(0))
        if not queues[source]:
            del queues[source]
    assert one.states == other.states


@pytest.mark.parametrize("kind", ENTITY_KINDS)
def test_where_the_report_is_gone_there_is_nothing_to_take_back(kind: EntityKind) -> None:
    event = Event(START, 1, 100)
    back = Label(is_fraud=False, known_us=START + DAY, withdraws=START)
    genuine = replace(back, withdraws=0)
    state, statuses = apply_to(kind, b"", [Change(back, event, 4096, 0)])
    assert statuses == [DONE]
    assert state == apply_to(kind, b"", [Change(genuine, event, 4096, 0)])[0]
