"""A wrong value is refused, or leaves the old pods serving; and either way says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cluster.chart import Installed, merged, state
from tests.cluster.helm import HelmError
from tests.cluster.kube import KubeError
from tests.cluster.test_rollout import traffic

pytestmark = pytest.mark.cluster

WAIT_S = 20
"""For what cannot become ready."""
RATE = 100.0
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
            with pytest.raises((HelmError, KubeError), match=TIMED_OUT):
                _roll(sluice, values)
            assert said in state(sluice.kube, sluice.namespace)
        finally:
            sluice.helm.rollback()
            sluice.settled()
    assert made.failed == {}


def _roll(sluice: Installed, values: dict[str, Any]) -> None:
    """Upgrade as a pipeline does: Helm knows nothing of the sync API's pods, the rollout does."""
    sluice.helm.upgrade(merged(sluice.given, values), timeout=WAIT_S)
    sluice.settled(WAIT_S)
