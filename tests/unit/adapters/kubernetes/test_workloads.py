"""From what a real Kubernetes 1.34 with KServe 0.20 printed to what a rollout asks.

``recorded/``: ``kubectl get --output json`` of one release in each of these conditions, without
pod templates. The predictor's pods serve a folder; the good release has the file that they probe.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from sluice.adapters.kubernetes import workloads
from sluice.application.rollout import Workload

RECORDED = Path(__file__).parent / "recorded"


def recorded(name: str) -> dict[str, Workload]:
    found = workloads((RECORDED / f"{name}.json").read_bytes())
    return {f"{workload.kind}/{workload.name}": workload for workload in found}


def test_a_release_that_runs_is_done() -> None:
    found = recorded("ready")
    assert set(found) == {"Deployment/sluice-predictor", "StatefulSet/sluice-featurizer"}
    assert all(workload.done for workload in found.values())
    assert found["Deployment/sluice-predictor"].ready == 2


def test_a_bad_release_is_not_done_though_its_inference_service_is_ready() -> None:
    assert b'"type": "Ready"' in (RECORDED / "bad-release.json").read_bytes()
    predictor = recorded("bad-release")["Deployment/sluice-predictor"]
    assert not predictor.done
    assert (predictor.ready, predictor.others) == (0, 2)
    (pod,) = predictor.pods
    assert [str(trouble) for trouble in pod.troubles] == [
        "container kserve-container: runs, but is not ready"
    ]
    assert not pod.troubles[0].endless


@pytest.mark.parametrize(
    ("name", "reason", "says"),
    [
        ("no-image", "ErrImagePull", "localhost/nothing:1"),
        ("no-secret", "CreateContainerConfigError", 'secret "kafka-user" not found'),
        ("crash", "Error", "exit status 78"),
    ],
)
def test_what_somebody_has_to_mend_is_endless_and_says_what(
    name: str, reason: str, says: str
) -> None:
    featurizer = recorded(name)["StatefulSet/sluice-featurizer"]
    assert not featurizer.done
    ((trouble,),) = (pod.troubles for pod in featurizer.pods)
    assert (trouble.container, trouble.reason, trouble.endless) == ("featurizer", reason, True)
    assert says in trouble.message
    assert trouble.restarted == (name == "crash")


def test_a_pod_without_a_node_may_still_get_one() -> None:
    ((trouble,),) = (
        pod.troubles for pod in recorded("no-room")["StatefulSet/sluice-featurizer"].pods
    )
    assert (trouble.container, trouble.reason, trouble.endless) == ("", "Unschedulable", False)
    assert "Insufficient cpu" in trouble.message


def test_pods_that_kserves_webhook_does_not_let_in_are_a_failure() -> None:
    predictor = recorded("no-webhook")["Deployment/sluice-predictor"]
    assert not predictor.done
    assert predictor.failure.startswith("FailedCreate: ")
    assert "kserve-webhook-server-service" in predictor.failure


def test_an_inference_service_without_a_deployment_is_not_done_and_says_why() -> None:
    service = recorded("no-runtime")["InferenceService/sluice"]
    assert not service.done
    assert service.failure == "RuntimeNotRecognized: Waiting for runtime to become available"


def test_a_change_that_kserve_refuses_is_not_done_though_the_old_deployment_runs() -> None:
    found = recorded("wrong-runtime")
    assert found["Deployment/sluice-predictor"].done
    assert found["InferenceService/sluice"].failure.startswith("RuntimeNotRecognized")


def test_nothing_found_is_no_workload() -> None:
    assert workloads(b'{"items": []}') == []
