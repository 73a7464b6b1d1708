"""DESIGN 4.5: from the versions served and the log, a vector comes out again bit for bit."""

from __future__ import annotations

import random

import pytest

from sluice.domain.features.catalogue import VIEWS
from tests.property.reference import Event
from tests.property.worlds import TEMPOS, Change, Stream, Tempo, apply_to, entities, world


@pytest.mark.parametrize("tempo", TEMPOS)
def test_versions_and_pending_served_recompute_the_vector(tempo: Tempo) -> None:
    stream = Stream()
    log: list[Change] = world(13, 250, tempo)
    rng = random.Random(5)
    queues = {c.source: [d for d in log if d.source == c.source] for c in log}
    flying: list[Event] = []
    while any(queues.values()):
        change = rng.choice([q for q in queues.values() if q]).pop(0)
        stream.apply(change)
        flying = [*flying, change.about][-4:]
        event = rng.choice(log).about
        pending = [e for e in flying if e.card == event.card]
        served = stream.serve(event, pending)

        again = Stream()
        at = served.versions_at
        for v, view in enumerate(VIEWS):
            versions = dict(served.versions[at[v] : at[v + 1]])
            key = getattr(event, view)
            applied = [
                c
                for c in log
                if (view, key) in entities(c.about) and c.offset <= versions.get(c.source, -1)
            ]
            rng.shuffle(applied)
            applied.sort(key=lambda c: c.offset)
            again.states[view, key] = apply_to(view, b"", applied)[0] if applied else b""  # type: ignore[index,arg-type]
        recomputed = again.serve(event, [pending[p] for p in served.used[0]])
        assert recomputed.features.tolist() == served.features.tolist()
        assert recomputed.versions == served.versions
