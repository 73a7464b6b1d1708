"""A step, run: as a process here, and as the pod that the chart wrote."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import steps
from airflow.sdk import Asset, AssetAlias
from airflow.sdk.exceptions import AirflowException
from kubernetes import client as k8s
from told import told

FOUND = Asset("found", uri="x-sluice://test/found")
HOUR = timedelta(hours=1)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for `sluice`: it writes down its words and environment, and ends as it is told."""
    written = tmp_path / "sluice"
    written.write_text(
        "#!/bin/sh\n"
        'dir=$(dirname "$0")\n'
        'printf "%s\\n" "$@" > "$dir/words"; env > "$dir/environment"\n'
        'if [ "$1" = wait ]; then touch "$dir/waits"; sleep 600; fi\n'
        'exit "${2:-0}"\n'
    )
    written.chmod(0o755)
    monkeypatch.setenv("AIRFLOW__SLUICE__SERVICES", str(written))
    return written


class Run:
    """What Airflow gives a task of one run: events come in and go out here alone."""

    def __init__(self) -> None:
        self.events: dict[str, list[Any]] = {}
        self.context = {
            "outlet_events": self,
            "inlet_events": self,
            "dag_run": SimpleNamespace(dag_id="d", run_id="r", run_after=datetime.now(UTC)),
            "ti": SimpleNamespace(task_id="t"),
        }

    def __getitem__(self, named: Asset | AssetAlias) -> Any:
        told = self.events.setdefault(named.name, [])

        def add(asset: Asset, extra: dict[str, str]) -> None:
            told.append((asset.uri, extra))

        me = SimpleNamespace(source_dag_id="d", source_run_id="r", source_task_id="t")
        return SimpleNamespace(add=add, after=lambda moment: [me] * len(told))


def run(task: steps.LocalStep) -> tuple[str | None, dict[str, list[Any]]]:
    """The XCom of a local step, and the events that it added, by alias."""
    made = Run()
    return task.execute(made.context), {name: told for name, told in made.events.items() if told}


def test_without_a_cluster_it_is_the_verb_as_a_process(program: Path) -> None:
    task = steps.step(
        "dataset build", "--out", "file:///var/lib/a%20b", within=HOUR, again=None, out="file:///x"
    )
    assert isinstance(task, steps.LocalStep)
    assert (task.task_id, task.execution_timeout, task.retries) == ("dataset_build", HOUR, 0)
    program.write_text(program.read_text().replace('exit "${2:-0}"', "exit 0"))
    assert run(task) == ("file:///x", {})
    words = (program.parent / "words").read_text().splitlines()
    assert words == ["dataset", "build", "--out", "/var/lib/a b"]


def test_a_verb_does_not_see_airflows_own_variables(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql://secret")
    monkeypatch.setenv("AIRFLOW_CONN_KAFKA", "secret")
    monkeypatch.setenv("SLUICE_KAFKA_BOOTSTRAP", "broker:9092")
    run(steps.step("config", within=HOUR, again=None))
    seen = (program.parent / "environment").read_text()
    assert "secret" not in seen
    assert "AIRFLOW" not in seen
    assert "SLUICE_KAFKA_BOOTSTRAP=broker:9092" in seen


@pytest.mark.parametrize("status", [64, 78])
def test_what_no_second_try_changes_is_said_so(program: Path, status: int) -> None:
    with pytest.raises(steps.StepWrongError, match=f"exit status {status}"):
        run(steps.step("verb", str(status), within=HOUR, again="a disk may be away"))


def test_another_failure_is_tried_again_with_its_reason(program: Path) -> None:
    task = steps.step("verb", "1", within=HOUR, again="a disk may be away")
    with pytest.raises(steps.StepFailedError, match="exit status 1") as failed:
        run(task)
    decision = task.retry_policy.evaluate(failed.value, 1, task.retries)
    assert (decision.action.value, decision.reason) == ("retry", "a disk may be away")


def test_a_status_may_be_an_answer_and_is_the_event_of_an_asset(program: Path) -> None:
    given: dict[str, Any] = {"within": HOUR, "again": None, "out": "file:///report"}
    task = steps.step("drift", "3", verdicts={3: FOUND}, task_id="drift", **given)
    assert [outlet.name for outlet in task.outlets] == ["found"]
    assert run(task) == (
        "file:///report",
        {"found": [("x-sluice://test/found", {"out": "file:///report"})]},
    )
    assert [inlet.name for inlet in task.inlets] == ["found"]
    quiet = steps.step("drift", "0", verdicts={3: FOUND}, task_id="quiet", **given)
    assert run(quiet) == ("file:///report", {})
    known = steps.step("drift", "4", verdicts={3: FOUND, 4: None}, task_id="known", **given)
    assert run(known) == ("file:///report", {})


def test_a_run_tells_an_asset_once(program: Path) -> None:
    task = steps.step("drift", "3", verdicts={3: FOUND}, within=HOUR, again=None)
    made = Run()
    for _ in range(2):
        task.execute(made.context)
    assert made.events == {"found": [(FOUND.uri, {})]}
    made.context["dag_run"] = SimpleNamespace(dag_id="d", run_id="s", run_after=datetime.now(UTC))
    task.execute(made.context)
    assert len(made.events["found"]) == 2, "another run has its own word"


def test_what_a_step_before_did_not_write_is_no_reason_to_try_again(program: Path) -> None:
    task = steps.step("judge", None, within=HOUR, again="a node may have gone")
    with pytest.raises(steps.StepWrongError, match="a step before this one wrote nothing"):
        run(task)


def test_a_program_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__SLUICE__SERVICES", "/nowhere/sluice")
    with pytest.raises(steps.StepWrongError, match="/nowhere/sluice is not there"):
        run(steps.step("config", within=HOUR, again=None))


def test_a_step_that_is_ended_takes_its_process_with_it(program: Path) -> None:
    task = steps.step("wait", within=HOUR, again=None)
    failed: list[BaseException] = []

    def execute() -> None:
        try:
            run(task)
        except AirflowException as error:
            failed.append(error)

    running = threading.Thread(target=execute)
    running.start()
    while not (program.parent / "waits").exists():
        time.sleep(0.01)
    task.on_kill()
    running.join(60)
    assert not running.is_alive()
    assert str(failed[0]).startswith(f"exit status {-signal.SIGTERM}")


# With a cluster


@pytest.fixture
def pods(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    variables = told()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return dict(json.loads(variables["AIRFLOW__SLUICE__PODS"]))


def built(task: steps.PodStep) -> Any:
    task.arguments = list(map(steps.plain, task.arguments))
    return task.build_pod_request_obj(dry_run=True)


@pytest.mark.parametrize("image", ["services", "training"])
def test_with_a_cluster_it_is_the_charts_pod_with_the_verbs_arguments(
    pods: dict[str, Any], image: steps.Image
) -> None:
    task = steps.step(
        *("train", "--dataset", steps.place("work") + "/dataset"),
        image=image,
        within=HOUR,
        again=None,
        out="file:///x",
    )
    assert isinstance(task, steps.PodStep)
    pod, chart = built(task), pods[image]
    assert pod.metadata.namespace == chart["metadata"]["namespace"]
    assert pod.metadata.name.startswith(f"sluice-{image}-train-")
    assert pod.metadata.labels.items() >= chart["metadata"]["labels"].items()
    assert pod.spec.active_deadline_seconds == 3600
    made = k8s.ApiClient().sanitize_for_serialization(pod)["spec"]
    (container,) = made.pop("containers")
    (given,) = chart["spec"]["containers"]
    assert container["args"] == ["train", "--dataset", "/var/lib/loop/runs/dataset"]
    for key, value in given.items():
        assert container[key] == value, key
    for key, value in chart["spec"].items():
        if key != "containers":
            assert made[key] == value, key


def ended(status: int | None, phase: str) -> Any:
    terminated = None if status is None else k8s.V1ContainerStateTerminated(exit_code=status)
    return k8s.V1Pod(
        metadata=k8s.V1ObjectMeta(name="p", namespace="n"),
        status=k8s.V1PodStatus(
            phase=phase,
            container_statuses=[
                k8s.V1ContainerStatus(
                    name="base", image="i", image_id="i", ready=False, restart_count=0,
                    state=k8s.V1ContainerState(terminated=terminated),
                )
            ],
        ),
    )  # fmt: skip


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What a Kubernetes that says yes to everything was asked: `METHOD path`."""
    said: list[str] = []

    class Yes(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            said.append(f"{self.command} {self.path.partition('?')[0]}")
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.end_headers()
            named = {"name": "p", "namespace": "n"}
            pod = {"metadata": named, "spec": {"containers": []}, "status": {}, "items": []}
            self.wfile.write(json.dumps(pod).encode())

        do_GET = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Yes) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        at = f"http://127.0.0.1:{server.server_port}"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "clusters": [{"name": "here", "cluster": {"server": at}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
            "users": [{"name": "me", "user": {}}],
        }
        (tmp_path / "kubeconfig").write_text(json.dumps(config))
        yield said
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (0, None),
        (3, None),
        (78, steps.StepWrongError),
        (1, steps.StepFailedError),
        (137, steps.StepFailedError),
    ],
)
def test_a_pod_that_ended_is_judged_by_its_exit_status_and_deleted(
    pods: dict[str, Any],
    asked: list[str],
    tmp_path: Path,
    status: int,
    error: type[AirflowException] | None,
) -> None:
    task = steps.step(
        *("drift", "--report", "file:///x"),
        within=HOUR, again="a", out="file:///x", verdicts={3: FOUND}, task_id="drift",
    )  # fmt: skip
    task.config_file = str(tmp_path / "kubeconfig")
    task.kubernetes_conn_id = None
    pod = ended(status, "Succeeded" if status == 0 else "Failed")
    task.cleanup(pod, pod)
    assert "DELETE /api/v1/namespaces/n/pods/p" in asked
    made = Run()
    if error:
        with pytest.raises(error, match=f"exit status {status}"):
            steps.settle(task, task._status, made.context)
    else:
        assert steps.settle(task, task._status, made.context) == "file:///x"
    assert [uri for uri, _ in made.events.get("found", [])] == [FOUND.uri] * (status == 3)


def test_a_pod_without_an_exit_status_says_what_kubernetes_said(
    pods: dict[str, Any], asked: list[str], tmp_path: Path
) -> None:
    """Evicted, or never started."""
    task = steps.step("config", within=HOUR, again=None)
    task.config_file = str(tmp_path / "kubeconfig")
    task.kubernetes_conn_id = None
    with pytest.raises(AirflowException, match="returned a failure"):
        task.cleanup(ended(None, "Failed"), ended(None, "Failed"))


def test_a_pods_exit_status_is_found_where_its_container_ended(pods: dict[str, Any]) -> None:
    assert steps.exit_status(ended(3, "Failed"), "base") == 3
    assert steps.exit_status(ended(None, "Failed"), "base") is None
    assert steps.exit_status(ended(3, "Failed"), "istio-proxy") is None
    assert steps.exit_status(None, "base") is None
