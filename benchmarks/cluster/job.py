"""The loader as Kubernetes objects: one Job, the name its pods find each other by, and who may."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.cluster.loader import MASTER_PORT

NAME = "sluice-load"
KEPT_S = 3600
"""How long the finished Job and its logs stay."""
LONGEST_S = 3600


@dataclass(frozen=True)
class Load:
    """What to run and against what. release: the Helm release. host: URL of the sync API.

    kafka_secret: a Secret whose keys are ``SLUICE_KAFKA_*``; "" for brokers that ask for nothing.
    arguments: of the loader.
    """

    run: str
    namespace: str
    release: str
    image: str
    host: str
    bootstrap: str
    topic_prefix: str
    kafka_secret: str
    workers: int
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of the Job."""
        return f"{NAME}-{self.run}"

    def labels(self) -> dict[str, str]:
        """The chart's network policies let its test pod ask the sync API and the brokers."""
        return {
            "app.kubernetes.io/name": "sluice",
            "app.kubernetes.io/instance": self.release,
            "app.kubernetes.io/component": "test",
            "sluice/load": self.run,
        }


def objects(load: Load) -> dict[str, Any]:
    """A List for ``kubectl apply``."""
    return {
        "apiVersion": "v1",
        "kind": "List",
        "items": [_service(load), _policy(load), _job(load)],
    }


def _meta(load: Load) -> dict[str, Any]:
    return {
        "name": load.name,
        "namespace": load.namespace,
        "labels": {"app.kubernetes.io/name": NAME, "sluice/load": load.run},
    }


def _service(load: Load) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _meta(load),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {"sluice/load": load.run},
            "ports": [{"name": "locust", "port": MASTER_PORT}],
        },
    }


def _policy(load: Load) -> dict[str, Any]:
    ours = {"podSelector": {"matchLabels": {"sluice/load": load.run}}}
    ports = [{"port": MASTER_PORT, "protocol": "TCP"}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _meta(load),
        "spec": {
            **ours,
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [ours], "ports": ports}],
            "egress": [{"to": [ours], "ports": ports}],
        },
    }


def _job(load: Load) -> dict[str, Any]:
    pods = load.workers + 1
    container: dict[str, Any] = {
        "name": "loader",
        "image": load.image,
        "imagePullPolicy": "IfNotPresent",
        "args": [
            f"--host={load.host}",
            f"--master={load.name}-0.{load.name}",
            f"--load-workers={load.workers}",
            *load.arguments,
        ],
        "env": [
            {"name": "SLUICE_KAFKA_BOOTSTRAP", "value": load.bootstrap},
            {"name": "SLUICE_KAFKA_TOPIC_PREFIX", "value": load.topic_prefix},
        ],
        "resources": {
            "requests": {"cpu": "100m", "memory": "256Mi"},
            "limits": {"memory": "1Gi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    if load.kafka_secret:
        container["envFrom"] = [{"secretRef": {"name": load.kafka_secret}}]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _meta(load),
        "spec": {
            "completionMode": "Indexed",
            "completions": pods,
            "parallelism": pods,
            "backoffLimit": 0,
            "activeDeadlineSeconds": LONGEST_S,
            "ttlSecondsAfterFinished": KEPT_S,
            "template": {
                "metadata": {"labels": load.labels()},
                "spec": {
                    "subdomain": load.name,
                    "restartPolicy": "Never",
                    "enableServiceLinks": False,
                    "automountServiceAccountToken": False,
                    "terminationGracePeriodSeconds": 5,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": 10001,
                        "runAsGroup": 10001,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [container],
                    "volumes": [{"name": "tmp", "emptyDir": {}}],
                },
            },
        },
    }
