"""Traffic goes on, whatever is rolled, killed or scaled; and nothing is decided twice."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sluice.adapters.kafka.topics import Topics
from tests.cluster.chart import NAME, Installed, sync_process
from tests.cluster.kube import KubeError, is_ready
from tests.cluster.load import Load, load
from tests.support.kafka import wait_until
from tests.support.recount import wait_balanced
from tests.support.traffic import StreamTraffic

pytestmark = pytest.mark.cluster

RATE = float(os.environ.get("CLUSTER_RATE", "200"))
"""Requests a second: what two cores carry beside all else that runs on them. 500 on idle ones."""
BEFORE_S = AFTER_S = 2.0
SCALED_MAX_S = 120.0


@contextmanager
def traffic(sluice: Installed, name: str, folder: Path, *, rate: float = RATE) -> Iterator[Load]:
    """Requests from before what happens in the `with` until after it, then a recount: each one
    answered, recorded once, with the answer that its caller heard."""
    with load(sluice.url, name, rate, folder) as made:
        time.sleep(BEFORE_S)
        yield made
        time.sleep(AFTER_S)
    print(f"{name}: {made.summary}")
    assert made.summary["given_up"] == []
    assert made.summary["heard"] == made.summary["sent"] > 0
    recorded = sluice.decisions_of(f"{name}-")
    times = Counter(d.authorization.authorization_id for d in recorded)
    assert {key: count for key, count in times.items() if count > 1} == {}
    assert set(times) == set(made.heard)
    answers = sluice.ledger().answers()
    assert [key for key, heard in made.heard.items() if answers[key] != heard] == []


def releases(sluice: Installed, prefix: str) -> set[str]:
    """That scored the ids which begin so; on a busy machine some are decided without."""
    return {d.release for d in sluice.decisions_of(prefix) if d.release is not None}


def test_a_release_rolls_without_a_failed_request(sluice: Installed, tmp_path: Path) -> None:
    sluice.at()
    with traffic(sluice, "release", tmp_path) as made:
        sluice.upgrade(model={"storageUri": "pvc://models/v2"})
    assert made.failed == {}
    assert len(releases(sluice, "release-")) == 2


def test_the_image_rolls_without_a_failed_request(sluice: Installed, tmp_path: Path) -> None:
    with traffic(sluice, "image", tmp_path) as made:
        sluice.upgrade(image={"tag": "2"})
    assert made.failed == {}
    images = {pod["spec"]["containers"][0]["image"] for pod in sluice.sync_pods()}
    assert images == {"localhost/sluice:2"}


def test_a_killed_sync_api_loses_what_was_in_flight_and_each_of_these_is_answered_once(
    sluice: Installed, tmp_path: Path
) -> None:
    with traffic(sluice, "killed", tmp_path) as made:
        victim = sluice.sync_pods()[0]["metadata"]
        process = sync_process(victim["uid"])
        os.kill(process.pid, signal.SIGKILL)

        def again() -> bool:
            pods = {pod["metadata"]["uid"]: pod for pod in sluice.sync_pods()}
            status = pods[victim["uid"]]["status"]["containerStatuses"][0]
            return status["restartCount"] >= 1 and is_ready(pods[victim["uid"]])

        sluice.kube.until(again, "the kubelet has started it again", SCALED_MAX_S)
    # Its connections break and, until its Service knows, new ones are refused. What it had begun is
    # busy until PENDING_TTL_S has passed.
    assert {said for said in made.failed if said[0].isdigit()} <= {"503 busy"}


def test_a_canary_comes_takes_its_share_and_is_promoted_without_a_failed_request(
    sluice: Installed, tmp_path: Path
) -> None:
    sluice.at()
    with traffic(sluice, "canary", tmp_path) as made:
        sluice.upgrade(
            serving={"kserve": {"canary": {"name": "next", "storageUri": "pvc://models/v2"}}}
        )
        ready = [pod["metadata"]["labels"] for pod in sluice.sync_pods() if is_ready(pod)]
        assert {labels["app"] for labels in ready} == {
            f"isvc.{NAME}-predictor",
            f"isvc.{NAME}-next-predictor",
        }
        sluice.decide("while-a-canary")
        sluice.upgrade(
            serving={"kserve": {"predictorName": "next"}}, model={"storageUri": "pvc://models/v2"}
        )
    assert made.failed == {}
    assert len(releases(sluice, "canary-")) == 2


def test_the_autoscaler_follows_the_load_out_and_in_without_a_failed_request(
    sluice: Installed, tmp_path: Path
) -> None:
    scaled = {"autoscaling": {"minReplicas": 1, "maxReplicas": 3}}
    sluice.at(sync=scaled)
    sluice.kube.until(lambda: len(sluice.sync_pods()) == 1, "one pod", SCALED_MAX_S)
    with traffic(sluice, "little", tmp_path, rate=20) as little:
        with traffic(sluice, "much", tmp_path) as much:
            out = sluice.kube.until(
                lambda: sluice.ready_sync_pods() == 3, "three pods are ready", SCALED_MAX_S
            )
        in_ = sluice.kube.until(lambda: len(sluice.sync_pods()) == 1, "one pod", SCALED_MAX_S)
    print(f"1 to 3 ready: {out:.0f} s; 3 to 1: {in_:.0f} s")
    assert (little.failed, much.failed) == ({}, {})


def test_stream_processor_and_featurizer_are_rescheduled_and_nothing_is_decided_twice(
    sluice: Installed,
) -> None:
    bootstrap = sluice.beside.bootstrap
    with StreamTraffic(bootstrap, Topics().authorizations, "moved", rate=150, replays=7):
        for name in ("decider-stream", "featurizer"):
            pod = f"{NAME}-{name}-0"
            before = sluice.kube.get(sluice.namespace, "pod", pod)["metadata"]["uid"]
            sluice.kube("--namespace", sluice.namespace, "delete", "pod", pod, "--wait=true")
            made = sluice.kube.get(sluice.namespace, "pod", pod)["metadata"]["uid"]
            assert made != before
            ready = ["wait", "--for=condition=Ready", f"pod/{pod}", "--timeout=60s"]
            sluice.kube("--namespace", sluice.namespace, *ready)
    ledger = wait_balanced(bootstrap, Topics())
    assert ledger.decided_twice() == []


def test_every_pod_is_evicted_as_for_a_drain_and_no_request_fails(
    sluice: Installed, tmp_path: Path
) -> None:
    """By the API that `kubectl drain` uses, which keeps to the budgets. There is one node, so that
    the new pods come up beside the old."""
    sluice.at()
    bootstrap = sluice.beside.bootstrap
    with (
        StreamTraffic(bootstrap, Topics().authorizations, "drained", rate=100),
        traffic(sluice, "evicted", tmp_path, rate=RATE / 2) as made,
    ):
        old = sluice.kube.pods(sluice.namespace, "app.kubernetes.io/part-of=sluice")
        refused = sum(_evicted(sluice, pod["metadata"]["name"]) for pod in old)

        def moved() -> bool:
            pods = sluice.kube.pods(sluice.namespace, "app.kubernetes.io/part-of=sluice")
            gone = {pod["metadata"]["uid"] for pod in old}
            return len(pods) == len(old) and all(
                is_ready(pod) and pod["metadata"]["uid"] not in gone for pod in pods
            )

        sluice.kube.until(moved, "each pod has another in its place, ready", SCALED_MAX_S)
    print(f"evictions refused until a pod's neighbour was there: {refused}")
    assert refused > 0
    assert made.failed == {}
    assert wait_balanced(bootstrap, Topics()).decided_twice() == []


def _evicted(sluice: Installed, pod: str) -> int:
    """Ask until it is granted. Returns how often its budget refused."""
    path = f"/api/v1/namespaces/{sluice.namespace}/pods/{pod}/eviction"
    asked = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": sluice.namespace},
    }
    refused = 0

    def granted() -> bool:
        nonlocal refused
        try:
            sluice.kube("create", "--raw", path, "-f", "-", given=json.dumps(asked))
        except KubeError as error:
            if "disruption budget" not in str(error):
                raise
            refused += 1
            return False
        return True

    sluice.kube.until(granted, f"{pod} may go", SCALED_MAX_S)
    return refused


def test_what_was_served_recomputes_bit_for_bit(sluice: Installed) -> None:
    """The consistency check of the chart, over all that the tests before have decided."""

    def equal() -> float:
        found = sluice.metrics("sluice-archiver-0", 9091)
        counts = {k: v for k, v in found.items() if k.startswith("sluice_consistency_decisions")}
        assert counts.get('sluice_consistency_decisions_total{result="differing"}', 0) == 0
        return counts.get('sluice_consistency_decisions_total{result="equal"}', 0)

    print(f"equal: {wait_until(equal, 'the check has compared', at_most_s=120):.0f}")
