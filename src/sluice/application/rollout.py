"""Whether what a Helm release asked for runs: the new pods of every workload, not the old ones.

An InferenceService stays Ready while its old pods answer, so that neither it nor ``helm --wait``
says that a bad release of the model never comes up. The pods of the newest revision do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

PATIENCE_S: Final = 30
"""How long a pod may be in a state that seldom ends by itself: one more pull of an image and one
more start come within it."""
LOOK_S: Final = 1.0
SETTLE_S: Final = 5
"""How long everything must look done. KServe's controller turns a changed InferenceService into a
Deployment a moment later, and nothing in its status says that it has not yet."""


class Trouble(NamedTuple):
    """Why a pod is not ready. container: "" where it is the pod's own. message: Kubernetes's.
    endless: somebody has to mend it. restarted: what it said last is in the log of the run before.
    """

    container: str
    reason: str
    message: str = ""
    endless: bool = False
    restarted: bool = False

    def __str__(self) -> str:
        where = f"container {self.container}: " if self.container else ""
        return where + self.reason + (f" ({self.message})" if self.message else "")


class Pod(NamedTuple):
    """A pod of a workload's newest revision."""

    name: str
    troubles: tuple[Trouble, ...] = ()


class Workload(NamedTuple):
    """A Deployment or StatefulSet, or an InferenceService that has none yet.

    wanted, ready: pods asked for, and those of the newest revision that are ready. others: pods of
    older revisions that are still there. observed: whether its controller has seen the last change.
    failure: why no pod can be made, or that Kubernetes itself gave up.
    """

    kind: str
    name: str
    wanted: int
    ready: int = 0
    others: int = 0
    observed: bool = True
    failure: str = ""
    pods: tuple[Pod, ...] = ()

    @property
    def done(self) -> bool:
        """Only new pods are there, and as many as wanted are ready."""
        return self.observed and self.ready >= self.wanted and not self.others

    def __str__(self) -> str:
        return (
            f"{self.kind} {self.name}: {self.ready} of {self.wanted} new pods ready"
            + (f", {self.others} old" if self.others else "")
            + ("" if self.observed else ", the change is not seen yet")
        )


@dataclass(frozen=True)
class Failed:
    """What does not come up, and which pod shows it. trouble: None where no pod could be made."""

    workload: Workload
    why: str
    pod: Pod | None = None
    trouble: Trouble | None = None


class Cluster(Protocol):
    """Where the workloads of a release are asked for."""

    def workloads(self, release: str) -> list[Workload]:
        """As they are now. Raises Unavailable."""
        ...


def wait(
    cluster: Cluster,
    release: str,
    timeout_s: float,
    *,
    steady_s: Callable[[], float],
    pause: Callable[[float], object],
    news: Callable[[str], object],
) -> int | Failed:
    """How many workloads there are, once all of them run what was asked for; or what does not.

    steady_s: a clock that never jumps. news: told each workload's state when it changes.
    """
    rollout = Rollout(timeout_s, steady_s())
    told: set[str] = set()
    while True:
        workloads = cluster.workloads(release)
        lines = [str(workload) for workload in workloads]
        for line in lines:
            if line not in told:
                news(line)
        told = set(lines)
        found = rollout.look(workloads, steady_s())
        if isinstance(found, Failed):
            return found
        if found:
            return len(workloads)
        pause(LOOK_S)


class Rollout:
    """Looks again and again. Times are seconds of one steady clock."""

    def __init__(self, timeout_s: float, began_s: float) -> None:
        self._ends_s = began_s + timeout_s
        self._timeout_s = timeout_s
        self._settled_s: float | None = None
        self._troubled: dict[str, float] = {}

    def look(self, workloads: list[Workload], now_s: float) -> bool | Failed:
        """True: all of it runs. False: not yet. Failed: it will not, or the time is over."""
        open_ = [workload for workload in workloads if not workload.done]
        if workloads and not open_:
            self._settled_s = now_s if self._settled_s is None else self._settled_s
            return now_s - self._settled_s >= SETTLE_S
        self._settled_s = None
        if failed := self._endless(open_, now_s):
            return failed
        if now_s < self._ends_s:
            return False
        late = f"not ready after {self._timeout_s:.0f} s"
        for workload in open_:
            return _failed(workload, workload.failure or late)
        return Failed(Workload("release", "", 0), f"{late}: nothing of it was found")

    def _endless(self, workloads: list[Workload], now_s: float) -> Failed | None:
        seen: dict[str, Failed] = {}
        for workload in workloads:
            for pod in workload.pods:
                for trouble in pod.troubles:
                    if trouble.endless:
                        failed = Failed(workload, str(trouble), pod, trouble)
                        seen[f"{workload.name}/{trouble.container}"] = failed
            if workload.failure:
                seen[workload.name] = _failed(workload, workload.failure)
        self._troubled = {name: self._troubled.get(name, now_s) for name in seen}
        for name, failed in seen.items():
            if now_s - self._troubled[name] >= PATIENCE_S:
                return failed
        return None


def _failed(workload: Workload, why: str) -> Failed:
    """With the first of its pods that is in trouble, if there is one."""
    for pod in workload.pods:
        for trouble in pod.troubles:
            return Failed(workload, f"{why}: {trouble}", pod, trouble)
    return Failed(workload, why)
