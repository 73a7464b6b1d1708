"""From the objects of a Helm release, as ``kubectl get --output json`` prints them, to workloads.

Of each object only what is asked here is read; Kubernetes may add fields.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

import msgspec

from sluice.application.rollout import Pod, Trouble, Workload

ENDLESS: Final = frozenset(
    {
        "CreateContainerConfigError",
        "CreateContainerError",
        "ErrImageNeverPull",
        "ErrImagePull",
        "ImageInspectError",
        "ImagePullBackOff",
        "InvalidImageName",
        "RunContainerError",
    }
)
"""Reasons of a waiting container that somebody has to mend."""
INFERENCE_SERVICE: Final = "serving.kserve.io/inferenceservice"
"""KServe's label of everything that it makes of an InferenceService."""
REVISION: Final = "deployment.kubernetes.io/revision"


class _Tolerant(msgspec.Struct, rename="camel", kw_only=True):
    """Kubernetes's spelling, and fields we do not know are fine."""


class _Owner(_Tolerant):
    kind: str
    name: str


class _Metadata(_Tolerant):
    name: str
    generation: int = 0
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: list[_Owner] = []
    deletion_timestamp: str = ""


class _Condition(_Tolerant):
    type: str
    status: str
    reason: str = ""
    message: str = ""


class _Terminated(_Tolerant):
    exit_code: int = 0
    reason: str = ""
    message: str = ""


class _Waiting(_Tolerant):
    reason: str = ""
    message: str = ""


class _State(_Tolerant):
    waiting: _Waiting | None = None
    terminated: _Terminated | None = None


class _Container(_Tolerant):
    name: str
    ready: bool = False
    started: bool | None = None
    restart_count: int = 0
    state: _State = msgspec.field(default_factory=_State)
    last_state: _State = msgspec.field(default_factory=_State)


class _Failure(_Tolerant):
    reason: str = ""
    message: str = ""


class _ModelStatus(_Tolerant):
    transition_status: str = ""
    last_failure_info: _Failure | None = None


class _Status(_Tolerant):
    observed_generation: int = 0
    replicas: int = 0
    updated_replicas: int = 0
    update_revision: str = ""
    phase: str = ""
    reason: str = ""
    message: str = ""
    conditions: list[_Condition] = []
    init_container_statuses: list[_Container] = []
    container_statuses: list[_Container] = []
    model_status: _ModelStatus | None = None

    def condition(self, kind: str) -> _Condition:
        return next(
            (c for c in self.conditions if c.type == kind), _Condition(type=kind, status="")
        )


class _Spec(_Tolerant):
    replicas: int = 1


class _Object(_Tolerant):
    kind: str
    metadata: _Metadata
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)


class _List(msgspec.Struct):
    items: list[_Object]


_decoder = msgspec.json.Decoder(_List)


def workloads(*printed: bytes) -> list[Workload]:
    """printed: lists as JSON, of Deployments, StatefulSets, ReplicaSets, Pods and
    InferenceServices. Raises msgspec.DecodeError. By kind and name."""
    objects: dict[str, list[_Object]] = defaultdict(list)
    for text in printed:
        for one in _decoder.decode(text).items:
            objects[one.kind].append(one)
    pods: dict[str, list[_Object]] = defaultdict(list)
    for pod in objects["Pod"]:
        for owner in pod.metadata.owner_references:
            pods[f"{owner.kind}/{owner.name}"].append(pod)
    found = [_deployment(one, objects["ReplicaSet"], pods) for one in objects["Deployment"]] + [
        _stateful_set(one, pods) for one in objects["StatefulSet"]
    ]
    made = {one.metadata.labels.get(INFERENCE_SERVICE) for one in objects["Deployment"]}
    for one in objects["InferenceService"]:
        why = _refused(one)
        if why or one.metadata.name not in made:
            found.append(Workload(one.kind, one.metadata.name, 1, failure=why))
    return sorted(found, key=lambda workload: (workload.kind, workload.name))


def _deployment(one: _Object, sets: list[_Object], pods: dict[str, list[_Object]]) -> Workload:
    mine = [
        s
        for s in sets
        if _Owner(kind="Deployment", name=one.metadata.name) in s.metadata.owner_references
    ]
    newest = max(mine, key=lambda s: int(s.metadata.annotations.get(REVISION, 0)), default=None)
    status = one.status
    failure = status.condition("ReplicaFailure")
    progressing = status.condition("Progressing")
    why = ""
    if failure.status == "True":
        why = _said(failure)
    elif progressing.status == "False":
        why = _said(progressing)
    return Workload(
        "Deployment",
        one.metadata.name,
        one.spec.replicas,
        ready=_ready(pods[f"ReplicaSet/{newest.metadata.name}"]) if newest else 0,
        others=max(0, status.replicas - status.updated_replicas),
        observed=status.observed_generation >= one.metadata.generation,
        failure=why,
        pods=_pods(pods[f"ReplicaSet/{newest.metadata.name}"]) if newest else (),
    )


def _stateful_set(one: _Object, pods: dict[str, list[_Object]]) -> Workload:
    mine = pods[f"StatefulSet/{one.metadata.name}"]
    newest = [
        pod
        for pod in mine
        if pod.metadata.labels.get("controller-revision-hash") == one.status.update_revision
    ]
    return Workload(
        "StatefulSet",
        one.metadata.name,
        one.spec.replicas,
        ready=_ready(newest),
        others=len(mine) - len(newest),
        observed=one.status.observed_generation >= one.metadata.generation,
        pods=_pods(newest),
    )


def _refused(one: _Object) -> str:
    """Why KServe makes no Deployment of what an InferenceService says now; "" if it does, or has
    not seen it yet."""
    model = one.status.model_status
    if model is not None and model.transition_status == "InvalidSpec":
        failure = model.last_failure_info or _Failure()
        return _said(failure) or model.transition_status
    ready = one.status.condition("PredictorReady")
    return _said(ready) if ready.status == "False" and ready.reason == "ReconcileFailed" else ""


def _said(what: _Condition | _Failure) -> str:
    return ": ".join(filter(None, (what.reason, what.message)))


def _ready(pods: list[_Object]) -> int:
    return sum(
        pod.status.condition("Ready").status == "True" and not pod.metadata.deletion_timestamp
        for pod in pods
    )


def _pods(pods: list[_Object]) -> tuple[Pod, ...]:
    return tuple(
        Pod(pod.metadata.name, tuple(_troubles(pod.status)))
        for pod in sorted(pods, key=lambda pod: pod.metadata.name)
        if not pod.metadata.deletion_timestamp
    )


def _troubles(status: _Status) -> Iterator[Trouble]:
    if status.condition("Ready").status == "True":
        return
    scheduled = status.condition("PodScheduled")
    if scheduled.status == "False":
        yield Trouble("", scheduled.reason, scheduled.message)
    elif status.phase == "Failed":
        yield Trouble("", status.reason or "Failed", status.message, endless=True)
    init = status.init_container_statuses
    for one in init + status.container_statuses:
        if not one.ready and not _is_in_turn(one, init):
            yield _trouble(one)


def _is_in_turn(one: _Container, init: list[_Container]) -> bool:
    """A container that waits for an init container is in no trouble of its own."""
    waiting = one.state.waiting
    return waiting is not None and waiting.reason == "PodInitializing" and bool(init)


def _trouble(one: _Container) -> Trouble:
    waiting, ended = one.state.waiting, one.state.terminated or one.last_state.terminated
    restarted = one.restart_count > 0
    if waiting is not None and waiting.reason in ENDLESS:
        return Trouble(one.name, waiting.reason, waiting.message, endless=True)
    if ended is not None:
        # CrashLoopBackOff comes and goes between starts; how it ended stays.
        said = f"exit status {ended.exit_code}, {one.restart_count} restarts"
        return Trouble(
            one.name, ended.reason or "Terminated", said, endless=True, restarted=restarted
        )
    if waiting is not None:
        return Trouble(one.name, waiting.reason or "Waiting", waiting.message)
    return Trouble(one.name, "runs, but is not ready" if one.started else "has not started yet")
