"""The chart as the tests install it: small, Kafka and store outside, its namespace restricted."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec
import psutil

from sluice.adapters.kafka.topics import Topics
from sluice.domain.clock import SystemClock
from sluice.domain.records.authorization import Authorization, encode
from sluice.domain.records.decision import Decision
from tests.cluster.helm import Helm, HelmError, Values
from tests.cluster.kube import Kube, KubeError, Object, is_ready
from tests.cluster.node import HOST, ROOT
from tests.cluster.outside import Outside
from tests.support.kafka import wait_until
from tests.support.messages import authorization
from tests.support.recount import Ledger, read_ledger

CHART = ROOT / "charts/sluice"
NAME = "sluice"
READY_MAX_S = 180
"""From `helm install` to all Ready: what the chart promises."""
PARTITIONS = 6
SOURCE = "internal.serving.kserve.io/storage-initializer-sourceuri"
"""KServe's annotation of the pods of a release."""


def values(beside: Outside) -> Values:
    """What a small installation gives. Two cores carry the cluster, so little is requested."""
    small = {"requests": {"cpu": "50m", "memory": "200Mi"}, "limits": {"memory": "1Gi"}}
    # The autoscaler's yardstick: 60 % of it is an eighth of a core.
    sync = small | {"requests": {"cpu": "200m", "memory": "200Mi"}}
    callers = [{"ipBlock": {"cidr": f"{HOST}/32"}}]
    return {
        "image": {"repository": "localhost/sluice", "tag": "1"},
        "model": {"storageUri": "pvc://models/v1"},
        "trust": {"keys": beside.trust},
        "access": {"mode": "none"},
        "kafka": {
            "mode": "external",
            "external": {"bootstrap": beside.for_pods, "securityProtocol": "PLAINTEXT"},
        },
        "store": {"mode": "external", "external": {"url": beside.store_for_pods}},
        "topics": {"partitions": PARTITIONS, "replication": 1, "resources": small},
        "sync": {
            # Two and no more. The test of the autoscaler changes these, and no pod with them.
            "autoscaling": {"minReplicas": 2, "maxReplicas": 2},
            "resources": sync,
        },
        "stream": {"resources": small, "replicas": 1, "autoscaling": {"mode": "none"}},
        "featurizer": {"replicas": 1, "resources": small},
        "archiver": {"persistence": {"enabled": False, "size": "1Gi"}, "resources": small},
        "consistency": {"resources": small},
        # It would write what no test here reads.
        "auditor": {
            "enabled": False,
            "resources": small,
            "persistence": {"size": "1Gi"},
            "keystore": {"persistence": {"size": "1Gi"}},
        },
        "witness": {"resources": small},
        "networkPolicy": {"callers": {"from": callers}, "scrapers": {"from": callers}},
        # Time enough for a machine that does much else; the check looks at what a test has made.
        "settings": {
            "decider": {"deadline_ms": 1000},
            "store": {"budget_ms": 1000},
            "archiver": {"roll_s": 5},
            "consistency": {"every_s": 5, "settle_s": 15, "sample_ppm": 50_000},
        },
    }


@dataclass
class Installed:
    """seconds: what `helm install` took, until all was ready. given: the first values. changed:
    what the newest upgrade gave over them."""

    kube: Kube
    helm: Helm
    beside: Outside
    given: Values
    seconds: float = 0.0
    changed: Values = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        return self.helm.namespace

    @property
    def url(self) -> str:
        """Of the chart's own Service."""
        return f"http://{self.service(f'{NAME}-decider')}"

    def service(self, name: str) -> str:
        """HOST:PORT of a Service, good on this machine."""
        spec = self.kube.get(self.namespace, "service", name)["spec"]
        return f"{spec['clusterIP']}:{spec['ports'][0]['port']}"

    def at(self, **changes: Any) -> None:
        """Be at the first values with these over them, by an upgrade where it is not."""
        if changes != self.changed:
            self.upgrade(**changes)

    def upgrade(self, **changes: Any) -> None:
        """To the first values with these over them; returns when the pods are new. Raises
        HelmError, KubeError."""
        self.changed = {"unknown": "until it is done"}
        self.helm.upgrade(merged(self.given, changes), timeout=READY_MAX_S)
        self.settled()
        self.changed = changes

    def settled(self, at_most_s: float = READY_MAX_S) -> None:
        """Wait for the rollout of the sync API. Neither Helm nor the InferenceService's Ready tells
        of it: that is the old pods', until KServe has written the Deployment and while it rolls."""
        self.kube.until(self._written, "KServe has written the Deployments", at_most_s)
        for name in self._wanted():
            self.kube.rolled_out(self.namespace, f"deployment/{name}", at_most_s)
        spec = self.kube.get(self.namespace, "inferenceservice", NAME)["spec"]
        least = spec["predictor"]["minReplicas"]
        self.kube.until(lambda: self.ready_sync_pods() >= least, f"{least} are ready", at_most_s)

    def _wanted(self) -> dict[str, tuple[dict[str, str], str]]:
        """What the pods of each Deployment must say, and their image, by its name: stable, and a
        canary."""
        spec = self.kube.get(self.namespace, "inferenceservice", NAME)["spec"]
        wanted = {}
        for one in (spec["predictor"], *(c["predictor"] for c in spec.get("canary", []))):
            name = f"{NAME}-{one['name']}-predictor" if "name" in one else f"{NAME}-predictor"
            says, made_by = one["annotations"], one
            if "model" in one:  # else they follow a registry
                says = says | {SOURCE: one["model"]["storageUri"]}
                made_by = self.kube.get(self.namespace, "servingruntime", NAME)["spec"]
            wanted[name] = says, made_by["containers"][0]["image"]
        return wanted

    def _written(self) -> bool:
        wanted = self._wanted()
        found = self.kube.get(self.namespace, "deployments")["items"]
        templates = {d["metadata"]["name"]: d["spec"]["template"] for d in found}
        return set(templates) == set(wanted) and all(
            says.items() <= templates[name]["metadata"]["annotations"].items()
            and templates[name]["spec"]["containers"][0]["image"] == image
            for name, (says, image) in wanted.items()
        )

    def sync_pods(self) -> list[Object]:
        """Of the sync API, ready or not."""
        chosen = f"serving.kserve.io/inferenceservice={NAME},component=predictor"
        return self.kube.pods(self.namespace, chosen)

    def ready_sync_pods(self) -> int:
        return sum(map(is_ready, self.sync_pods()))

    def decide(self, authorization_id: str, **fields: Any) -> dict[str, Any]:
        """An answer of the sync API, asked again after a 503 as callers do. fields: of the
        authorization, instead of the usual ones."""
        body = authorization(authorization_id, **{"event_at": SystemClock().now_us()} | fields)
        auth = msgspec.convert(body, Authorization)
        request = urllib.request.Request(
            f"{self.url}/v1/authorizations", encode(auth), {"content-type": "application/json"}
        )

        def answered() -> dict[str, Any] | None:
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    decided: dict[str, Any] = msgspec.json.decode(answer.read())
                    return decided
            except urllib.error.HTTPError as refused:
                if refused.code != HTTPStatus.SERVICE_UNAVAILABLE:
                    raise
                return None

        found: dict[str, Any] = wait_until(answered, f"an answer to {authorization_id}")
        return found

    def readiness(self, pod: str, port: int) -> str:
        """What a pod answers to that question, ready or not."""
        address = self.kube.get(self.namespace, "pod", pod)["status"]["podIP"]
        try:
            with urllib.request.urlopen(
                f"http://{address}:{port}/v2/health/ready", timeout=10
            ) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as refused:
            return str(refused.read().decode())

    def metrics(self, pod: str, port: int) -> dict[str, float]:
        """What a pod shows, by name and labels."""
        address = self.kube.get(self.namespace, "pod", pod)["status"]["podIP"]
        with urllib.request.urlopen(f"http://{address}:{port}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def ledger(self) -> Ledger:
        """The topics as they are."""
        return read_ledger(self.beside.bootstrap, Topics())

    def decisions_of(self, prefix: str) -> list[Decision]:
        """Those whose ids begin so."""
        found = self.ledger().decisions
        return [d for d in found if d.authorization.authorization_id.startswith(prefix)]


@contextmanager
def installed(
    kube: Kube, beside: Outside, namespace: str, given: Values, *more: Object
) -> Iterator[Installed]:
    """The namespace, the releases as a volume, and the chart; all gone afterwards. more: objects
    that it needs besides."""
    helm = Helm(kube.config, namespace, NAME, CHART)
    _remove(kube, helm)  # a session that was killed may have left it in a cluster that was not
    kube.apply(*surroundings(namespace, beside), *more)
    try:
        began = time.monotonic()
        try:
            helm.install(given, timeout=READY_MAX_S)
            made = Installed(kube, helm, beside, given)
            made.settled()
        except (HelmError, KubeError, AssertionError) as error:
            raise AssertionError(f"{error}\n{state(kube, namespace)}") from error
        made.seconds = time.monotonic() - began
        yield made
    finally:
        _remove(kube, helm)


def _remove(kube: Kube, helm: Helm) -> None:
    if kube("get", "namespace", helm.namespace, "--ignore-not-found"):
        helm.uninstall()
        kube("delete", "namespace", helm.namespace, "--wait=true")
    kube("delete", "persistentvolume", f"--selector=of={helm.namespace}", "--ignore-not-found")


def surroundings(namespace: str, beside: Outside) -> list[Object]:
    """A namespace that takes restricted pods only, and the releases as a claim `models`."""
    level = {"pod-security.kubernetes.io/enforce": "restricted"}
    return [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": namespace, "labels": level},
        },
        volume(namespace, "models", beside.releases, "ReadOnlyMany"),
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "models", "namespace": namespace},
            "spec": {
                "accessModes": ["ReadOnlyMany"],
                "storageClassName": "",
                "volumeName": f"models-{namespace}",
                "resources": {"requests": {"storage": "1Gi"}},
            },
        },
    ]


def volume(namespace: str, claim: str, folder: Path, mode: str) -> Object:
    """A folder of the node, for the claim of this name alone."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{claim}-{namespace}", "labels": {"of": namespace}},
        "spec": {
            "capacity": {"storage": "8Gi"},
            "accessModes": [mode],
            "storageClassName": "",
            "claimRef": {"name": claim, "namespace": namespace},
            "hostPath": {"path": str(folder)},
        },
    }


def sync_process(uid: str) -> psutil.Process:
    """The sync API of the pod of this uid, as this machine counts processes."""
    for process in psutil.process_iter():
        groups = Path(f"/proc/{process.pid}/cgroup")
        try:
            if uid in groups.read_text() and "services.decider.main" in process.cmdline():
                return process
        except (OSError, psutil.Error):
            continue
    raise AssertionError(f"no sync API runs in pod {uid}")


def merged(under: Values, over: Values) -> Values:
    """Maps are merged, all else is replaced: as Helm does."""
    made = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(made.get(key), dict)
        made[key] = merged(made[key], value) if both else value
    return made


def state(kube: Kube, namespace: str) -> str:
    """What a reader needs when a rollout does not end: pods, events, the last lines of each log."""
    said = [kube("--namespace", namespace, "get", "pods", "--output=wide")]
    said.append(kube("--namespace", namespace, "get", "events", "--sort-by=.lastTimestamp")[-3000:])
    for pod in kube.pods(namespace):
        name = pod["metadata"]["name"]
        try:
            said.append(f"{name}:")
            said.append(
                kube("--namespace", namespace, "logs", name, "--all-containers", "--tail=10")
            )
        except KubeError as error:
            said.append(str(error))
    return "\n".join(said)
