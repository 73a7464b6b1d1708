"""DNS, KServe and metrics-server in the cluster: their own manifests, fit for one small node."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import images
from tests.cluster.kube import Kube
from tests.cluster.node import HERE, Node

ROLLOUT_MAX_S = 120
KSERVE = {
    "deploy": {"defaultDeploymentMode": "Standard"},
    "ingress": {"disableIngressCreation": True, "disableIstioVirtualHost": True},
}
"""Over its ConfigMap: plain Deployments, no Istio, no Knative."""
Object = dict[str, Any]


def install(node: Node, built: Path, kube: Kube) -> None:
    """Images in, all three up. built: of build.built()."""
    bin_, manifests = built / "bin", built / "manifests"
    links = _busybox_names()
    for tag, archive in (
        images.one_program("pause", images.BUSYBOX, arguments=["sleep", "2147483647"]),
        images.one_program("busybox", images.BUSYBOX, links=links),
        images.one_program("coredns", bin_ / "coredns"),
        images.one_program("kserve", bin_ / "manager"),
        images.one_program("metrics-server", bin_ / "metrics-server"),
    ):
        images.load(node, tag, archive)
    kube.apply_text((HERE / "manifests/dns.yaml").read_text())
    kube.apply_text((manifests / "kserve-crds.yaml").read_text())
    kube.apply(*_kserve(_documents(manifests / "kserve.yaml"), node.authority))
    kube.apply(*_metrics(_documents(manifests / "metrics-server.yaml")))
    kube.rolled_out("kube-system", "deployment/coredns", ROLLOUT_MAX_S)
    kube.rolled_out("kserve", "deployment/kserve-controller-manager", ROLLOUT_MAX_S)
    kube.rolled_out("kube-system", "deployment/metrics-server", ROLLOUT_MAX_S)


def _kserve(documents: list[Object], authority: Path) -> Iterator[Object]:
    """Without cert-manager: the webhooks' certificate is of the cluster's own authority."""
    pem, key = (authority / f"kserve-webhook{end}" for end in (".pem", ".key.pem"))
    yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kserve"}}
    yield {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {"name": "kserve-webhook-server-cert", "namespace": "kserve"},
        "data": {"tls.crt": _base64(pem), "tls.key": _base64(key)},
    }
    for document in documents:
        kind, name = document["kind"], document["metadata"]["name"]
        if kind in ("Certificate", "Issuer", "Namespace"):
            continue
        if kind == "ConfigMap" and name == "inferenceservice-config":
            for part, changes in KSERVE.items():
                whole = json.loads(document["data"].get(part, "{}")) | changes
                document["data"][part] = json.dumps(whole)
        if kind in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"):
            for hook in document["webhooks"]:
                hook["clientConfig"]["caBundle"] = _base64(authority / "cluster-ca.pem")
        if kind == "Deployment":
            spec = document["spec"]["template"]["spec"]
            spec["containers"] = [c for c in spec["containers"] if c["name"] == "manager"]
            manager = spec["containers"][0]
            manager |= {"image": "localhost/kserve:1", "imagePullPolicy": "Never"}
            manager.pop("command", None)
            manager["resources"] = _small("20m", "100Mi", "500Mi")
            _soon(manager, "livenessProbe", "readinessProbe")
        document["metadata"].pop("creationTimestamp", None)
        yield document


def _metrics(documents: list[Object]) -> Iterator[Object]:
    for document in documents:
        if document["kind"] == "Deployment":
            server = document["spec"]["template"]["spec"]["containers"][0]
            server |= {"image": "localhost/metrics-server:1", "imagePullPolicy": "Never"}
            # Its shortest interval; a request must be shorter, or it refuses to start.
            arguments = [a.replace("=15s", "=10s") for a in server["args"]]
            timing = ["--kubelet-insecure-tls", "--kubelet-request-timeout=5s"]
            server["args"] = arguments + timing
            server["resources"] = _small("10m", "50Mi", "200Mi")
            _soon(server, "readinessProbe")
        yield document


def _small(cpu: str, memory: str, most: str) -> Object:
    return {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": most}}


def _soon(container: Object, *probes: str) -> None:
    for probe in probes:
        container[probe] |= {"initialDelaySeconds": 1, "periodSeconds": 2}


def _documents(path: Path) -> list[Object]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _busybox_names() -> list[str]:

    listed = subprocess.run([images.BUSYBOX, "--list"], capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split() if name != "busybox"]
