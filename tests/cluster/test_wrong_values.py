"""A wrong value is refused, or leaves the old pods serving; and either way says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sluice.adapters.kafka.topics import Topics
from tests.cluster.chart import NAME, Installed, merged, state
from tests.cluster.helm import HelmError
from tests.cluster.kube import is_ready
from tests.cluster.test_rollout import traffic
from tests.support.recount import wait_balanced
from tests.support.traffic import StreamTraffic

pytestmark = pytest.mark.cluster

WAIT_S = 20
"""For what cannot become ready."""
RATE = 100.0
ENOUGH = 300
"""Authorizations of 200 cards, over all partitions."""
SENT_MAX_S = 30.0
TIMED_OUT = r"(?i)timed out|exceeded"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"modle": {"storageUri": "pvc://models/v2"}}, "modle"),
        ({"sync": {"autoscaling": {"minReplicas": 0}}}, "minReplicas"),
        ({"model": {"storageUri": ""}}, "model.storageUri is empty"),
        (
            {"kafka": {"external": {"securityProtocol": "SASL_SSL"}}},
            "kafka.external.existingSecret",
        ),
    ],
    ids=["unknown key", "out of bounds", "no release", "no secret"],
)
def test_values_that_cannot_be_meant_are_refused_by_name(
    sluice: Installed, values: dict[str, Any], said: str
) -> None:
    before = len(sluice.helm.history())
    with pytest.raises(HelmError, match=said):
        sluice.helm.upgrade(merged(sluice.given, values), timeout=WAIT_S)
    assert len(sluice.helm.history()) == before


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model": {"storageUri": "pvc://models/empty"}}, "no release is there"),
        ({"model": {"storageUri": "pvc://models/unsigned"}}, "manifest.sig"),
        ({"store": {"external": {"existingSecret": "missing"}}}, 'secret "missing" not found'),
    ],
    ids=["no release there", "unsigned release", "missing secret"],
)
def test_what_never_comes_up_leaves_the_old_pods_serving_and_is_rolled_back(
    sluice: Installed, tmp_path: Path, values: dict[str, Any], said: str
) -> None:
    sluice.at()
    name = "wrong-" + "".join(c for c in said if c.isalpha())
    with traffic(sluice, name, tmp_path, rate=RATE) as made:
        try:
            with pytest.raises(HelmError, match=TIMED_OUT):
                sluice.helm.upgrade(merged(sluice.given, values), timeout=WAIT_S)
            assert said in state(sluice.kube, sluice.namespace)
        finally:
            sluice.helm.rollback()
            sluice.settled()
    assert made.failed == {}


def test_a_bad_release_stops_at_the_first_stream_processor_which_decides_by_rules(
    sluice: Installed,
) -> None:
    """Helm sees that one, as it does not see the sync API's pods: KServe makes those."""
    two = {"stream": {"replicas": 2}}
    sluice.at(**two)
    try:
        with pytest.raises(HelmError, match=TIMED_OUT):
            sluice.helm.upgrade(
                merged(sluice.given, two | {"model": {"storageUri": "pvc://models/unsigned"}}),
                timeout=WAIT_S,
            )
        first, last = (
            sluice.kube.get(sluice.namespace, "pod", f"{NAME}-decider-stream-{n}") for n in (0, 1)
        )
        assert (is_ready(first), is_ready(last)) == (True, False)
        assert "no release decides" in sluice.readiness(f"{NAME}-decider-stream-1", 9090)
        bootstrap = sluice.beside.bootstrap
        sender = StreamTraffic(bootstrap, Topics().authorizations, "by-rules")
        with sender:
            sluice.kube.until(lambda: sender.sent > ENOUGH, "both have their share", SENT_MAX_S)
        assert wait_balanced(bootstrap, Topics()).decided_twice() == []
        levels = {d.degradation_level for d in sluice.decisions_of("by-rules-")}
        assert levels >= {"D0", "D2"}
    finally:
        sluice.helm.rollback()
        sluice.settled()
        sluice.at()
