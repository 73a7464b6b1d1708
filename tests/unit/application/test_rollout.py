"""When a rollout is over, and when it is given up."""

from __future__ import annotations

from dataclasses import dataclass, field

from sluice.application.rollout import (
    PATIENCE_S,
    SETTLE_S,
    Failed,
    Pod,
    Trouble,
    Workload,
    wait,
)

DONE = Workload("Deployment", "predictor", wanted=2, ready=2)
SLOW = Trouble("server", "runs, but is not ready")
CRASHED = Trouble("server", "Error", "exit status 1", endless=True, restarted=True)


def rolling(trouble: Trouble) -> Workload:
    return Workload("Deployment", "predictor", 2, others=2, pods=(Pod("new-1", (trouble,)),))


@dataclass
class Scripted:
    """Shows one picture a second, the last one for ever; its clock is the tests'."""

    pictures: list[list[Workload]]
    now_s: float = 0.0
    told: list[str] = field(default_factory=list)

    def workloads(self, release: str) -> list[Workload]:
        assert release == "sluice"
        return self.pictures[min(int(self.now_s), len(self.pictures) - 1)]

    def pause(self, seconds: float) -> None:
        self.now_s += seconds

    def wait(self, timeout_s: float = 300) -> int | Failed:
        return wait(
            self,
            "sluice",
            timeout_s,
            steady_s=lambda: self.now_s,
            pause=self.pause,
            news=self.told.append,
        )


def test_it_is_over_when_everything_has_looked_done_for_a_while() -> None:
    cluster = Scripted([[rolling(SLOW)]] * 10 + [[DONE]])
    assert cluster.wait() == 1
    assert cluster.now_s == 10 + SETTLE_S


def test_a_change_that_the_controller_sees_a_moment_later_is_waited_for() -> None:
    cluster = Scripted([[DONE]] * (SETTLE_S - 1) + [[rolling(SLOW)]] * 20 + [[DONE]])
    assert cluster.wait() == 1
    assert cluster.now_s == SETTLE_S - 1 + 20 + SETTLE_S


def test_a_change_not_yet_observed_is_not_done() -> None:
    assert not DONE._replace(observed=False).done
    assert not DONE._replace(others=1).done
    assert not DONE._replace(ready=1).done


def test_a_pod_that_crashes_again_and_again_ends_it_before_the_timeout() -> None:
    cluster = Scripted([[rolling(SLOW)]] * 5 + [[rolling(CRASHED)]])
    failed = cluster.wait()
    assert isinstance(failed, Failed)
    assert cluster.now_s == 5 + PATIENCE_S
    assert (failed.pod, failed.trouble) == (Pod("new-1", (CRASHED,)), CRASHED)
    assert "exit status 1" in failed.why


def test_its_trouble_counts_as_the_same_though_its_words_change() -> None:
    again = [
        [rolling(CRASHED._replace(message=f"exit status 1, {n} restarts"))] for n in range(100)
    ]
    cluster = Scripted(again)
    assert isinstance(cluster.wait(), Failed)
    assert cluster.now_s == PATIENCE_S


def test_a_pull_that_succeeds_at_the_second_try_is_no_failure() -> None:
    pulling = Trouble("server", "ErrImagePull", endless=True)
    cluster = Scripted([[rolling(pulling)]] * (PATIENCE_S - 1) + [[rolling(SLOW)]] * 5 + [[DONE]])
    assert cluster.wait() == 1


def test_what_is_slow_has_until_the_timeout_and_then_is_named() -> None:
    cluster = Scripted([[DONE._replace(name="other"), rolling(SLOW)]])
    failed = cluster.wait(120)
    assert isinstance(failed, Failed)
    assert cluster.now_s == 120
    assert failed.workload.name == "predictor"
    assert failed.why.startswith("not ready after 120 s")
    assert "runs, but is not ready" in failed.why


def test_pods_that_cannot_be_made_are_a_failure_without_a_pod() -> None:
    cluster = Scripted([[Workload("Deployment", "predictor", 2, failure="FailedCreate: no quota")]])
    failed = cluster.wait()
    assert isinstance(failed, Failed)
    assert (failed.why, failed.pod) == ("FailedCreate: no quota", None)


def test_a_release_of_which_nothing_is_there_is_not_done() -> None:
    cluster = Scripted([[]])
    failed = cluster.wait(60)
    assert isinstance(failed, Failed)
    assert "nothing of it was found" in failed.why


def test_each_change_is_told_once() -> None:
    cluster = Scripted([[rolling(SLOW)]] * 10 + [[DONE]])
    cluster.wait()
    assert cluster.told == [
        "Deployment predictor: 0 of 2 new pods ready, 2 old",
        "Deployment predictor: 2 of 2 new pods ready",
    ]
