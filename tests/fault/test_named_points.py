"""Killed at each named point, a process goes on where it was: same decisions, same states.

The worlds of all points run side by side, because each waits for the broker to notice the death.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from local.kafka.broker import Node
from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.domain.records.authorization import encode
from sluice.domain.records.decision import Decision, States
from sluice.domain.records.outcome import Outcome
from sluice.testing.factories import make_label
from tests.support.deployment import Deployment, make_deployment
from tests.support.kafka import wait_until
from tests.support.recount import Ledger, wait_applied, wait_balanced
from tests.support.traffic import authorizations

pytestmark = [pytest.mark.fault, pytest.mark.slow]

COUNT = 400
FEATURIZER = ("after_states", "after_observations", "before_commit", "after_mark", "after_commit")
STREAM = ("before_offsets", "before_commit", "after_commit")
TIMES = (1, 4)
"""Of the featurizer: at the first batch, and in the middle."""
STREAM_TIME = 3


@dataclass(frozen=True)
class Outcomes:
    """What a world came to after its process died at a point and another took over."""

    ledger: Ledger
    wrong_states: list[Any]


def decisions_and_labels(deployment: Deployment) -> None:
    """Some decisions as a decider would have left them, a tenth of them labelled, one repeated."""
    rng = random.Random(7)
    producer = EventProducer(deployment.bootstrap, client_id="test")
    for n, auth in zip(range(COUNT), authorizations("d", seed=3), strict=False):
        decision = Decision(
            authorization=auth,
            entrypoint="sync",
            origin=None,
            emitter="test",
            sequence=n,
            received_at=auth.event_at,
            decided_at=auth.event_at,
            reference_amount_minor=auth.amount_minor,
            reference_currency="EUR",
            catalogue="",
            features=[],
            states=States(),
            pending=[],
            release=None,
            score_ppm=None,
            policy="test",
            outcome=rng.choice([Outcome.APPROVE, Outcome.DECLINE]),
            reasons=[],
            degradation_level="D2",
            degraded=[],
        )
        producer.produce(deployment.topics.decisions, encode(decision), key=auth.card_token)
        if n % 10 == 0:
            label = make_label(auth, known_at=auth.event_at + 1, is_fraud=n % 20 == 0)
            producer.produce(deployment.topics.labels, encode(label), key=auth.authorization_id)
    producer.flush(60)


def waiting_authorizations(deployment: Deployment) -> None:
    """Authorizations for a stream processor, some sent twice."""
    producer = EventProducer(deployment.bootstrap, client_id="test")
    for n, auth in zip(range(COUNT), authorizations("a", seed=4), strict=False):
        for _ in range(2 if n % 20 == 0 else 1):
            producer.produce(deployment.topics.authorizations, encode(auth), key=auth.card_token)
    producer.flush(60)


def die_and_come_back(
    deployment: Deployment, name: Literal["featurizer", "decider-stream"], at: str
) -> None:
    """Start it with the point set, see it die there, start it again."""
    process = deployment.stack.start(name, kill_at=at)
    wait_until(lambda: not process.alive(), f"it dies at {at}")
    assert process.popen.returncode == -9, process.log.read_text()
    deployment.start(name)


def featurized(deployment: Deployment, store: EmbeddedStore, at: str) -> Outcomes:
    decisions_and_labels(deployment)
    die_and_come_back(deployment, "featurizer", at)
    wait_applied(deployment.bootstrap, deployment.topics, deployment.featurizer_group)
    ledger = deployment.ledger()
    return Outcomes(ledger, ledger.wrong_states(store.url))


def streamed(deployment: Deployment, store: EmbeddedStore, at: str) -> Outcomes:
    waiting_authorizations(deployment)
    die_and_come_back(deployment, "decider-stream", at)
    return Outcomes(wait_balanced(deployment.bootstrap, deployment.topics), [])


ByPoint = dict[str, Outcomes]


@pytest.fixture(scope="module")
def outcomes(kafka: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ByPoint]:
    work: dict[str, Callable[[Deployment, EmbeddedStore, str], Outcomes]] = {}
    for times in TIMES:
        work |= {f"featurizer.{point}:{times}": featurized for point in FEATURIZER}
    work |= {f"stream.{point}:{STREAM_TIME}": streamed for point in STREAM}
    small = {"SLUICE_FEATURIZER_BATCH_MAX": "40", "SLUICE_DECIDER_BATCH_MAX": "40"}

    def run(at: str) -> Outcomes:
        folder: Path = tmp_path_factory.mktemp("point")
        with (
            EmbeddedStore() as store,
            make_deployment(kafka.bootstrap, store.url, folder, environment=small) as deployment,
        ):
            return work[at](deployment, store, at)

    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(len(work)))
        yield dict(zip(work, pool.map(run, work), strict=True))


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("point", FEATURIZER)
def test_a_featurizer_killed_at_a_point_ends_with_the_states_of_a_clean_run(
    outcomes: ByPoint, point: str, times: int
) -> None:
    outcome = outcomes[f"featurizer.{point}:{times}"]
    assert len(outcome.ledger.decided) == COUNT
    assert len(outcome.ledger.labels) == COUNT // 10
    assert outcome.wrong_states == []


@pytest.mark.parametrize("point", STREAM)
def test_a_stream_processor_killed_at_a_point_decides_each_authorization_once(
    outcomes: ByPoint, point: str
) -> None:
    ledger = outcomes[f"stream.{point}:{STREAM_TIME}"].ledger
    assert ledger.unbalanced() == {}
    assert ledger.decided_twice() == []
    assert ledger.holes() == {}
    assert len(ledger.decided) == COUNT
    assert [dead_letter.code for dead_letter in ledger.dead_letters] == ["duplicate"] * (
        COUNT // 20
    )
