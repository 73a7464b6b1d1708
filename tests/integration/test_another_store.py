"""Another online store touches two places: its own module, and an entry in bootstrap."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from services.featurizer.main import serve
from sluice.application.decide import Decided
from sluice.application.ports import LOST, READY
from sluice.bootstrap import services as bootstrap
from sluice.cli import main
from sluice.domain.clock import SystemClock
from sluice.domain.records.authorization import encode
from sluice.domain.records.decision import Decision
from sluice.errors import Misconfigured
from sluice.settings import Settings, load
from sluice.testing.factories import make_authorization
from sluice.testing.store import FakeStore, FakeStores
from tests.support.kafka import wait_until


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> FakeStore:
    """A new store in memory, under a scheme of its own."""
    made = FakeStore(SystemClock())
    made.empty()
    monkeypatch.setitem(bootstrap.STORES, "memory", lambda _given: FakeStores(made))
    return made


@pytest.fixture
def settings(kafka, topics, tmp_path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in {
        "SLUICE_KAFKA_BOOTSTRAP": kafka.bootstrap,
        "SLUICE_KAFKA_TOPIC_PREFIX": topics.decisions.removesuffix("decisions.v1"),
        "SLUICE_STORE_URL": "memory://here",
        "SLUICE_ARCHIVER_ROOT": str(tmp_path / "archive"),
        "SLUICE_DECIDER_RELEASE_DIR": str(tmp_path / "none"),
    }.items():
        monkeypatch.setenv(name, value)
    return load()[0]


@pytest.fixture
def featurizer(store: FakeStore, settings: Settings) -> Iterator[None]:
    """A featurizer, from here to the end of the test."""
    stop = threading.Event()
    thread = threading.Thread(target=serve, args=(settings, stop))
    thread.start()
    yield
    stop.set()
    thread.join(60)
    assert not thread.is_alive()


async def decide(settings: Settings, name: str) -> Decision:
    """As the sync API does, with parts from bootstrap alone."""
    online = bootstrap.online_store(settings, batches=False)
    await online.open()
    log = bootstrap.decision_producer(settings)
    await log.ready()
    active = bootstrap.active(settings)
    ids = bootstrap.once(settings, online)
    pipeline = bootstrap.decider(settings, "sync", ids, log, active)
    raw = encode(make_authorization(name, event_at=SystemClock().now_us()))
    (result,) = await pipeline.decide([pipeline.arrive(raw)])
    await log.close()
    await online.close()
    assert isinstance(result, Decided)
    return result.decision


@pytest.mark.integration
@pytest.mark.usefixtures("featurizer")
def test_featurizer_decision_pipeline_and_rebuild_run_on_it(store: FakeStore, settings: Settings):
    wait_until(lambda: store.mark.state == READY, "the featurizer declared it ready")
    first = asyncio.run(decide(settings, "a-1"))
    assert (first.states.card, first.degraded) == ([], ["model"])
    wait_until(lambda: len(store.states) == 3, "card, terminal and merchant have states")
    before = dict(store.states)
    assert asyncio.run(decide(settings, "a-2")).states.card != []
    wait_until(
        lambda: all(store.states[entity] != before[entity] for entity in before),
        "the second took effect on all three",
    )
    before = dict(store.states)

    store.empty()
    wait_until(lambda: store.mark.state == LOST, "the featurizer found it empty")
    assert "store" in asyncio.run(decide(settings, "a-3")).degraded
    assert main(["states", "rebuild", "--topic-alone"]) == 0
    assert store.mark.state == READY
    assert store.states.keys() == before.keys()
    assert store.states != before, "the third decision is in them too"
    assert asyncio.run(decide(settings, "a-4")).states.card != []


def test_a_scheme_that_nobody_keeps_is_refused_and_those_that_are_kept_are_named():
    with pytest.raises(Misconfigured, match=r"store\.url") as caught:
        bootstrap.store_at("cassandra://user:hunter2@host")
    assert "redis" in str(caught.value)
    assert "hunter2" not in str(caught.value)
