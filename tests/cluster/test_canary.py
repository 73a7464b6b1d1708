"""A canary beside the stable release, promoted and taken back, behind the chart's own Service."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.chart import Installed
from tests.cluster.kube import is_ready
from tests.cluster.test_rollout import releases, traffic

pytestmark = pytest.mark.cluster

V2 = "pvc://models/v2"
RATE = 200.0


def test_a_canary_comes_takes_its_share_and_is_promoted_without_a_failed_request(
    sluice: Installed, tmp_path: Path
) -> None:
    sluice.at()
    with traffic(sluice, "canary", tmp_path, rate=RATE) as made:
        sluice.upgrade(serving={"kserve": {"canary": {"name": "next", "storageUri": V2}}})
        assert sum(map(is_ready, sluice.sync_pods())) == 2
        sluice.decide("canary-between")
        sluice.upgrade(serving={"kserve": {"predictorName": "next"}}, model={"storageUri": V2})
    assert made.failed == {}
    assert len(releases(sluice, "canary-")) == 2
