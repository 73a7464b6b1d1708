"""KEDA scales the stream processor on its lag, out and in, and nothing is decided twice."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import pytest

from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.kafka.topics import Topics
from sluice.domain.records.authorization import encode
from tests.cluster import keda
from tests.cluster.chart import NAME, Installed
from tests.cluster.conftest import MUST_RUN
from tests.cluster.kube import Kube, Object, is_ready
from tests.cluster.node import Node
from tests.support.recount import committed, wait_balanced
from tests.support.traffic import authorizations

pytestmark = pytest.mark.keda

RECORDS = 200_000
"""More than one processor decides between two looks of KEDA."""
SCALED_MAX_S = 180.0
BY_LAG = {
    "autoscaling": {
        "mode": "keda",
        "minReplicas": 1,
        "maxReplicas": 3,
        "scaleDownSeconds": 5,
        "keda": {"lagThreshold": 2000, "pollingIntervalSeconds": 5},
    }
}


@pytest.fixture(scope="module")
def scaled(
    cluster: Node, kube: Kube, sluice: Installed, request: pytest.FixtureRequest
) -> Iterator[Installed]:
    if reason := keda.why_not():
        (pytest.fail if request.config.getoption(MUST_RUN) else pytest.skip)(reason)
    keda.install(cluster, kube)
    sluice.at(stream=BY_LAG)
    yield sluice
    sluice.at()  # while its controller is there: the object waits for it to go


def test_the_scaled_object_is_ready(scaled: Installed) -> None:
    def ready() -> bool:
        found = scaled.kube.get(scaled.namespace, "scaledobject", f"{NAME}-decider-stream")
        conditions = {c["type"]: c["status"] for c in found.get("status", {}).get("conditions", [])}
        return conditions.get("Ready") == "True"

    print(f"ready after {scaled.kube.until(ready, 'KEDA reads the lag', SCALED_MAX_S):.0f} s")


def test_lag_brings_pods_and_their_going_loses_and_doubles_nothing(scaled: Installed) -> None:
    bootstrap, topics = scaled.beside.bootstrap, Topics()
    before = _decided(bootstrap)
    producer = EventProducer(bootstrap, client_id="lag")
    for auth in islice(authorizations("lag", cards=2000), RECORDS):
        producer.produce(topics.authorizations, encode(auth), key=auth.card_token)
    producer.flush(120)

    out = scaled.kube.until(lambda: _ready(scaled) == 3, "three pods are ready", SCALED_MAX_S)
    done = scaled.kube.until(
        lambda: _decided(bootstrap) >= before + RECORDS, "all are decided", SCALED_MAX_S
    )
    in_ = scaled.kube.until(lambda: len(_pods(scaled)) == 1, "one pod", SCALED_MAX_S)
    print(f"{RECORDS} sent; 3 ready {out:.0f} s later, decided {done:.0f} s, 1 again {in_:.0f} s")
    ledger = wait_balanced(bootstrap, topics)
    assert ledger.decided_twice() == []
    decided = {d.authorization.authorization_id for d in ledger.decisions}
    assert {f"lag-{n}" for n in range(RECORDS)} <= decided


def _decided(bootstrap: str) -> int:
    """Authorizations that the group is done with: nothing else takes a place in their topic."""
    places = committed(bootstrap, "sluice-decider")
    return sum(end for (topic, _), end in places.items() if topic == Topics().authorizations)


def _pods(sluice: Installed) -> list[Object]:
    return sluice.kube.pods(sluice.namespace, "app.kubernetes.io/component=decider-stream")


def _ready(sluice: Installed) -> int:
    return sum(map(is_ready, _pods(sluice)))
