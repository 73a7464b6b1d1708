"""The chart as one tries it (`ci/kind.yaml`): its own broker and store, in pods; then all of it
started cold, and its policy changed.

The images of the two are stand-ins (standins.py); their configuration and start are the chart's.
"""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sluice.domain.clock import SystemClock
from tests.cluster import standins
from tests.cluster.chart import CHART, NAME, Installed, installed, merged, values, volume
from tests.cluster.kube import Kube, Object, is_ready
from tests.cluster.node import ROOT, Node
from tests.cluster.outside import Outside

pytestmark = pytest.mark.cluster

PACK = ROOT / "policies/default"
READY_MAX_S = 180.0
RELOAD_MAX_S = 120.0
"""The kubelet's way of a ConfigMap (10 s here, a minute by default), then decider.reload_s."""
SEEN_S = 5.0
BLOCKED = "lists/blocked-cards.txt"


def policy() -> dict[str, str]:
    """The default pack, as values of the chart."""
    files = sorted(path for path in PACK.rglob("*") if path.is_file())
    return {str(path.relative_to(PACK)): path.read_text() for path in files}


def trial_values(beside: Outside) -> dict[str, Any]:
    """Those of `ci/kind.yaml`, but for what this machine has otherwise: images, releases, callers,
    no KEDA, no class of storage for the archive."""
    small = values(beside)
    image = {"repository": f"localhost/{standins.KAFKA}", "tag": "1"}
    given = yaml.safe_load((CHART / "ci/kind.yaml").read_text())
    ours = {
        "image": small["image"],
        "model": small["model"],
        "trust": {"shipped": False} | small["trust"],
        "kafka": {"dev": {"image": image}},
        "store": {"dev": {"image": image | {"repository": f"localhost/{standins.STORE}"}}},
        "policy": {"name": "trial", "files": policy()},
        "sync": {"autoscaling": {"maxReplicas": 1}},
        "stream": {"autoscaling": {"mode": "none"}, "replicas": 1},
        "archiver": {"persistence": {"enabled": False, "size": "1Gi"}},
        "auditor": small["auditor"],
        "networkPolicy": small["networkPolicy"],
        "settings": {k: small["settings"][k] for k in ("decider", "store")},
    }
    return merged(given, ours)


@pytest.fixture(scope="module")
def trial(
    cluster: Node, kube: Kube, beside: Outside, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installed]:
    standins.load(cluster)
    disks = []
    for part in ("kafka", "store"):
        folder: Path = tmp_path_factory.mktemp(part)
        for path in (folder.parent, folder):
            path.chmod(0o777)  # the kubelet gives a folder of the node to no group
        disks.append(volume("trial", f"data-{NAME}-{part}-0", folder, "ReadWriteOnce"))
    with installed(kube, beside, "trial", trial_values(beside), *disks) as made:
        made.kube.until(lambda: all(map(is_ready, services(made))), "all are ready", READY_MAX_S)
        yield made


def services(trial: Installed) -> list[Object]:
    """Pods of Sluice itself, without broker, store and Jobs."""
    return trial.kube.pods(trial.namespace, "app.kubernetes.io/part-of=sluice")


def reached(trial: Installed) -> bool:
    """Whether the Service leads to the sync API."""
    try:
        with urllib.request.urlopen(f"{trial.url}/v2/health/live", timeout=SEEN_S):
            return True
    except OSError:
        return False


def test_broker_and_store_of_the_chart_decide_and_helm_test_is_green(trial: Installed) -> None:
    print(f"helm install to all ready: {trial.seconds:.1f} s")
    heard = trial.decide("trial-1")
    assert (heard["outcome"], heard["degradation_level"]) == ("approve", "D0")
    print(trial.helm.test())


def test_a_changed_policy_decides_without_a_restart(trial: Installed) -> None:
    before = {pod["metadata"]["uid"] for pod in services(trial)}
    card = "tok_stolen"
    assert trial.decide("policy-before", card_token=card)["outcome"] != "decline"
    files = policy()
    trial.upgrade(policy={"files": files | {BLOCKED: files[BLOCKED] + card + "\n"}})
    began = time.monotonic()

    def declined() -> bool:
        name = f"policy-{time.monotonic_ns():x}"
        return bool(trial.decide(name, card_token=card)["outcome"] == "decline")

    trial.kube.until(declined, "the new list decides", RELOAD_MAX_S)
    print(f"helm upgrade to the first decline: {time.monotonic() - began:.0f} s")
    assert {pod["metadata"]["uid"] for pod in services(trial)} == before
    # Of another card the model may think what it will after so many declines at its terminal.
    assert trial.decide("policy-after")["outcome"] != "decline"


def test_after_a_cold_start_without_a_broker_each_waits_and_none_is_restarted(
    trial: Installed,
) -> None:
    """As after a power cut: every pod new, the broker last."""
    at_us = SystemClock().now_us()
    before = trial.decide("cold-1", event_at=at_us)
    of = ["--namespace", trial.namespace]
    kafka = f"statefulset/{NAME}-kafka"
    trial.kube(*of, "scale", kafka, "--replicas=0")
    trial.kube(*of, "wait", "--for=delete", f"pod/{NAME}-kafka-0", "--timeout=90s")
    chosen = "--selector=app.kubernetes.io/part-of=sluice"
    old = {pod["metadata"]["uid"] for pod in services(trial)}
    trial.kube(*of, "delete", "pods", chosen, "--wait=true", "--timeout=120s")
    trial.kube(*of, "delete", "pod", f"{NAME}-store-0", "--wait=true")

    def wait() -> bool:
        pods = [pod for pod in services(trial) if "podIP" in pod["status"]]
        return len(pods) >= 4 and all("it waits for the broker" in why(pod) for pod in pods)

    def why(pod: Object) -> str:
        try:
            return trial.readiness(pod["metadata"]["name"], 9090)
        except OSError:  # it does not listen yet
            return ""

    trial.kube.until(wait, "all wait for the broker", READY_MAX_S)
    time.sleep(SEEN_S)  # that they go on so, and are not ended
    assert not any(map(is_ready, services(trial)))
    trial.kube(*of, "scale", kafka, "--replicas=1")
    seconds = trial.kube.until(
        lambda: len(services(trial)) >= 4 and all(map(is_ready, services(trial))),
        "all are ready",
        READY_MAX_S,
    )
    print(f"broker started to all ready: {seconds:.0f} s")
    pods = services(trial)
    assert {pod["metadata"]["uid"] for pod in pods} & old == set()
    restarts = [c["restartCount"] for pod in pods for c in pod["status"]["containerStatuses"]]
    assert set(restarts) == {0}
    # Log and store are as they were: the id is known, and its answer.
    trial.kube.until(lambda: reached(trial), "the Service knows the new pod", READY_MAX_S)
    assert trial.decide("cold-1", event_at=at_us) == before
    print(trial.helm.test())
