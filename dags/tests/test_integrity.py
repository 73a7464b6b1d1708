"""Every DAG: loaded as Airflow loads it, kept to the rules of the house, its verbs really there."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import assets
import pytest
import steps
from airflow.dag_processing.dagbag import DagBag
from airflow.providers.standard.exceptions import HITLRejectException, HITLTimeoutError
from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization
from told import told

FOLDER = Path(steps.__file__).parent
TRAINING = FOLDER.parent / "models/src/sluice_models/verbs"
VERBS = FOLDER.parent / "docs/reference/verbs.md"
NAMES = {
    "sluice_compact", "sluice_labels", "sluice_matured", "sluice_nightly",
    "sluice_retention", "sluice_retrain", "sluice_rollout",
}  # fmt: skip
SOURCES = ("visa-tc40", "analysts")
MAY_IMPORT = sys.stdlib_module_names | {"airflow", "assets", "pendulum", "steps"}


@pytest.fixture(scope="module", params=["processes", "pods"])
def bag(request: pytest.FixtureRequest) -> Iterator[DagBag]:
    """All DAGs, without a cluster and with the one of the chart's case `prod`."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "pods":
            for name, value in told().items():
                patch.setenv(name, value)
        patch.setenv("AIRFLOW__SLUICE__SOURCES", ", ".join(SOURCES))
        yield DagBag(FOLDER, bundle_path=FOLDER)


@pytest.fixture(scope="module")
def dags(bag: DagBag) -> dict[str, DAG]:
    return dict(bag.dags)


def each(dags: dict[str, DAG]) -> list[tuple[DAG, Any]]:
    return [(dag, task) for dag in dags.values() for task in dag.tasks]


def sources() -> list[Path]:
    return sorted(FOLDER.glob("*.py"))


def test_all_of_them_load_and_without_a_warning(bag: DagBag) -> None:
    assert bag.import_errors == {}
    assert bag.captured_warnings == {}
    assert set(bag.dags) == NAMES
    assert {Path(dag.fileloc).parent for dag in bag.dags.values()} == {FOLDER}


def test_they_survive_being_stored(dags: dict[str, DAG]) -> None:
    for dag in dags.values():
        stored = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))
        assert {task.task_id for task in stored.tasks} == set(dag.task_ids)


def test_each_says_what_it_is_and_what_to_do(dags: dict[str, DAG]) -> None:
    for dag in dags.values():
        assert dag.doc_md == ast.get_docstring(
            ast.parse(Path(dag.fileloc).read_text()), clean=False
        )
        assert len(dag.doc_md.split()) > 40, dag.dag_id
        drawn = dag.doc_md.replace("**", "")
        for task in dag.tasks:
            name = re.sub("|".join(SOURCES), "SOURCE", task.task_id)
            assert name in drawn, f"{dag.dag_id} does not explain {name}"
        assert dag.tags == {"sluice"}
        assert dag.owner == "sluice"


def test_one_run_at_a_time_and_none_of_the_past(dags: dict[str, DAG]) -> None:
    for dag in dags.values():
        assert dag.max_active_runs == 1, dag.dag_id
        assert dag.catchup is False, dag.dag_id
        assert dag.dagrun_timeout, dag.dag_id


def test_everything_ends_in_time(dags: dict[str, DAG]) -> None:
    for dag, task in each(dags):
        limit = task.response_timeout if isinstance(task, HITLOperator) else task.execution_timeout
        assert timedelta(0) < limit <= dag.dagrun_timeout, task


def test_airflows_form_can_be_sent_as_it_is_shown(dags: dict[str, DAG]) -> None:
    """It asks for a value of whatever may not be null, and an empty text is none."""
    for dag in dags.values():
        for name in dag.params:
            given = dag.params.get_param(name)
            kinds = given.schema.get("type", "")
            assert given.value not in ("", None) or "null" in kinds, f"{dag.dag_id}: {name}"


def test_a_retry_has_its_reason(dags: dict[str, DAG]) -> None:
    for _, task in each(dags):
        if not isinstance(task, steps.LocalStep | steps.PodStep):
            refused = task.retry_policy.evaluate(HITLRejectException("x"), 1, 2)
            unheard = task.retry_policy.evaluate(HITLTimeoutError("x"), 1, 2)
            away = task.retry_policy.evaluate(OSError("x"), 1, 2)
            said = [one.action.value for one in (refused, unheard, away)]
            assert said == ["fail", "fail", "retry"], task
            assert all(one.reason for one in (refused, unheard, away)), task
            continue
        wrong = task.retry_policy.evaluate(steps.StepWrongError("x"), 1, 2)
        failed = task.retry_policy.evaluate(steps.StepFailedError("x"), 1, 2)
        assert (wrong.action.value, failed.action.value) == (
            "fail",
            "retry" if task.retries else "fail",
        )
        assert wrong.reason
        assert failed.reason
        assert task.max_retry_delay


def test_they_import_airflow_and_nothing_of_ours() -> None:
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                named = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                named = [node.module or ""]
            else:
                continue
            for name in named:
                assert name.partition(".")[0] in MAY_IMPORT, f"{path.name} imports {name}"
                if name.startswith("airflow."):
                    assert re.match(r"airflow\.(sdk|providers)\b", name), f"{path.name}: {name}"


def test_with_a_cluster_every_step_is_a_pod(bag: DagBag, request: pytest.FixtureRequest) -> None:
    kinds = {type(task) for _, task in each(dict(bag.dags))}
    expected = steps.PodStep if "pods" in request.node.name else steps.LocalStep
    assert kinds & {steps.PodStep, steps.LocalStep} == {expected}


def test_one_file_decides_where_a_step_runs() -> None:
    for path in sources():
        if path.name != "steps.py":
            text = path.read_text()
            assert not re.search(r"KubernetesPod|SubprocessHook|BashOperator|subprocess", text), (
                path
            )


def assets_in(condition: Any) -> list[Any]:
    if condition is None or hasattr(condition, "uri"):
        return [condition] if condition else []
    return [asset for part in condition.objects for asset in assets_in(part)]


def test_a_dag_that_waits_for_an_event_has_one_that_sends_it(dags: dict[str, DAG]) -> None:
    sent = {asset.uri for _, task in each(dags) for asset in task.outlets if hasattr(asset, "uri")}
    sent |= {
        asset.uri for _, task in each(dags) for asset in getattr(task, "verdicts", {}).values()
    }
    awaited = {
        asset.uri
        for dag in dags.values()
        for asset in assets_in(getattr(dag.timetable, "asset_condition", None))
    }
    assert awaited == sent
    assert all(asset.uri.startswith("x-sluice://") for asset in assets.ALL)


def image_of(task: Any) -> str:
    if isinstance(task, steps.PodStep):
        return str(task.pod_template_dict["metadata"]["name"]).rpartition("-")[2]
    return "training" if task.program.startswith("models/") else "services"


def options(verb: list[str], image: str) -> tuple[str, set[str]]:
    """The verb that some words name, and its options: from the reference, or, of the verbs of
    training, from their source."""
    source = TRAINING / f"{verb[0]}.py"
    if image == "training" and source.exists():
        shared = TRAINING / "options.py"
        return verb[0], set(re.findall(r'"(--[a-z-]+)"', source.read_text() + shared.read_text()))
    page = VERBS.read_text()
    for words in (verb[:2], verb[:1]):
        found = re.search(rf"(?ms)^`sluice {' '.join(words)}[ `].*?(?=^#|\Z)", page)
        if found:
            known = re.findall(r"^\| `(--[a-z0-9-]+)", found.group(), re.MULTILINE)
            return " ".join(words), set(known)
    raise AssertionError(f"docs/reference/verbs.md lists no `sluice {' '.join(verb[:2])}`")


def test_every_verb_and_option_is_in_the_reference(dags: dict[str, DAG]) -> None:
    """The environments never meet: the generated page is what both go by."""
    for _, task in each(dags):
        if isinstance(task, steps.LocalStep | steps.PodStep):
            verb, known = options(task.arguments, image_of(task))
            words = " ".join(map(str, task.arguments))
            given = set(re.findall(r"(?<!\S)'?(--[a-z][a-z-]*)", words))
            assert given <= known, f"sluice {verb} has no {given - known}"


def test_what_a_step_hands_on_is_a_uri(dags: dict[str, DAG]) -> None:
    for _, task in each(dags):
        if getattr(task, "out", None):
            assert task.out.startswith(("file:///", "{{ ti.xcom_pull(")), task
            if task.out.startswith("file:///"):
                assert "dag_run." in task.out, f"{task}: two runs would write there"
