"""A step of the learning loop: an image and a verb. Where it runs is decided here alone.

Section ``sluice`` of Airflow's own configuration (``AIRFLOW__SLUICE__PODS`` and so on) says it:

  pods      JSON, the pod of each image as the chart writes it; empty: no cluster is configured
  services, features, training
            without a cluster: the program ``sluice`` of each image's environment on this machine
  work, archive, inbox, registry, key, trust
            what steps share: URIs, see ``PLACES``

With a cluster a step is a KubernetesPodOperator, without one the same verb is a local process. What
a step wrote is its XCom: a URI, never the thing itself.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.sdk import (
    Asset,
    AssetAlias,
    BaseOperator,
    ExceptionRetryPolicy,
    RetryAction,
    RetryRule,
    conf,
)
from airflow.sdk.exceptions import AirflowException

Image = Literal["services", "features", "training"]
"""What a verb needs: the library and its services; Feast too; PyTorch and LightGBM."""
ROOT = Path(__file__).resolve().parents[1]
"""Of the checkout: where local processes run."""
SECTION = "sluice"
PLACES = {
    "work": "loop",
    "archive": "archive",
    "inbox": "labels",
    "registry": "registry",
    "key": "keys/release",
    "trust": "keys",
}
"""What steps share, and where it is below ROOT/var unless the configuration says otherwise. work: a
folder for each run of a DAG. archive: the archiver's. inbox: files of reports. registry: releases,
and what each of them is. key: signs releases, certificates and steps. trust: whose signature
counts."""
PROGRAMS: dict[Image, str] = {
    "services": ".venv/bin/sluice",
    "features": ".venv/bin/sluice",
    "training": "models/.venv/bin/sluice",
}
PODS: dict[Image, str] = {"services": "services", "features": "training", "training": "training"}
"""Which of the chart's two pods has it: on a cluster one image trains and builds training sets."""
UNMENDABLE = {
    64: "wrong usage of the verb",
    78: "wrong configuration, or input that no second try changes",
}
"""Exit statuses of every verb of ours after which a second try would say the same."""
RETRY_AFTER = timedelta(minutes=2)
RETRY_AFTER_MAX = timedelta(minutes=30)
RETRIES = 2
"""Of a step that says why another try may help."""
DAGS: dict[str, Any] = {
    "start_date": datetime(2026, 11, 1, tzinfo=UTC),
    "catchup": False,
    "max_active_runs": 1,
    "tags": ["sluice"],
    "default_args": {"owner": "sluice"},
}
"""Of every DAG: one run at a time, none for the time before it was switched on."""
MAY_BE_EMPTY = ["null", "string"]
"""Type of a text parameter that Airflow's form lets stay empty: of a `string` it asks for one."""
LEFT_OUT = ("AIRFLOW", "_AIRFLOW", "__AIRFLOW")
"""Variables of Airflow, which may hold its secrets, stay out of a verb's environment."""


class StepFailedError(AirflowException):
    """A verb ended with a status that another try may change."""


class StepWrongError(AirflowException):
    """A verb ended with a status that stays the same however often it is tried."""


def place(name: str) -> str:
    """URI of what steps share. Raises KeyError for a name that PLACES does not have.

    >>> place("archive").startswith("file:///")
    True
    """
    return str(conf.get(SECTION, name, fallback=(ROOT / "var" / PLACES[name]).as_uri()))


def own_folder(dag: str) -> str:
    """URI of a run's folder, a template: the same run, cleared and run again, writes there."""
    return f"{place('work')}/{dag}/{{{{ dag_run.run_after.strftime('%Y%m%dT%H%M%S') }}}}"


def plain(argument: str | None) -> str:
    """A verb's argument: a path where a file's URI is given, anything else as it is.
    Raises StepWrongError for what a step before should have written and did not.

    >>> plain("file:///var/loop/a%20b"), plain("--out"), plain("s3://releases/r42")
    ('/var/loop/a b', '--out', 's3://releases/r42')
    """
    if argument is None:
        raise StepWrongError("a step before this one wrote nothing: look there")
    if not argument.startswith("file://"):
        return argument
    return unquote(urlsplit(argument).path)


def settle(step: LocalStep | PodStep, status: int | None, context: Mapping[str, Any]) -> str | None:
    """What a verb's exit status means. Returns the step's XCom.

    A status of its ``verdicts`` is an answer, not a failure: it adds an event to that asset, and
    the step has done its work. A run tells an asset once, however often its step is cleared and
    run again. status: None where a pod ended without one (killed, evicted).
    Raises StepWrongError, StepFailedError.
    """
    out, verdicts = step.out, step.verdicts
    if status is not None and status in verdicts:
        asset = verdicts[status]
        if asset is not None and not _told(asset, context):
            extra = {"out": out} if out else {}
            context["outlet_events"][AssetAlias(asset.name)].add(asset, extra=extra)
        return out
    if status == 0:
        return out
    if status in step.wrong:
        why = step.wrong[status]
        raise StepWrongError(f"exit status {status}: {why}; see the last lines above")
    raise StepFailedError(f"exit status {status}; see the last lines above")


def _told(asset: Asset, context: Mapping[str, Any]) -> bool:
    """Whether this step of this run told an asset before."""
    run, task = context["dag_run"], context["ti"].task_id
    since = context["inlet_events"][asset].after(run.run_after.isoformat())
    me = (run.dag_id, run.run_id, task)
    told = [(e.source_dag_id, e.source_run_id, e.source_task_id) for e in since]
    if me in told:
        logging.getLogger(__name__).info("%s was told by this run before", asset.uri)
    return me in told


class LocalStep(BaseOperator):
    """A verb as a process of this machine. Its lines are the task's log."""

    template_fields = ("arguments", "out")

    def __init__(
        self,
        *,
        program: str,
        arguments: Sequence[Any],
        out: str | None,
        verdicts: Mapping[int, Asset | None],
        wrong: Mapping[int, str],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.program = program
        self.arguments = list(arguments)
        self.out = out
        self.verdicts = dict(verdicts)
        self.wrong = dict(wrong)
        self._process = SubprocessHook()

    def execute(self, context: Mapping[str, Any]) -> str | None:
        """Runs it to its end. Raises StepWrongError, StepFailedError."""
        if not Path(ROOT, self.program).exists():
            raise StepWrongError(
                f"{self.program} is not there: `make setup`, or models' environment"
            )
        ended = self._process.run_command(
            [str(ROOT / self.program), *map(plain, self.arguments)],
            env={k: v for k, v in os.environ.items() if not k.startswith(LEFT_OUT)},
            cwd=str(ROOT),
        )
        return settle(self, ended.exit_code, context)

    def on_kill(self) -> None:
        """At a timeout, or when someone ends the task: the process and its children end too."""
        if self._process.sub_process is not None:
            self._process.send_sigterm()


class PodStep(KubernetesPodOperator):
    """A verb in a pod. Everything about the pod but its arguments is the chart's."""

    template_fields = (*KubernetesPodOperator.template_fields, "out")
    arguments: list[Any]

    def __init__(
        self,
        *,
        arguments: Sequence[Any],
        out: str | None,
        verdicts: Mapping[int, Asset | None],
        wrong: Mapping[int, str],
        **kwargs: Any,
    ) -> None:
        super().__init__(
            arguments=list(arguments),
            # A restart of Airflow's worker finds the pod again instead of starting another.
            durable=True,
            log_events_on_failure=True,
            log_pod_spec_on_failure=False,
            termination_message_policy="FallbackToLogsOnError",
            **kwargs,
        )
        self.out = out
        self.verdicts = dict(verdicts)
        self.wrong = dict(wrong)
        self._status: int | None = None

    def execute(self, context: Mapping[str, Any]) -> str | None:
        """Runs it to its end. Raises StepWrongError, StepFailedError, or what Kubernetes said."""
        self.arguments = list(map(plain, self.arguments))
        super().execute(context)
        return settle(self, self._status, context)

    def cleanup(self, pod: Any, remote_pod: Any, *args: Any, **kwargs: Any) -> None:
        """As everywhere, but that a container's exit status is judged by `settle`."""
        self._status = exit_status(remote_pod, self.base_container_name)
        try:
            super().cleanup(pod, remote_pod, *args, **kwargs)
        except AirflowException:
            if self._status is None:
                raise


def exit_status(pod: Any, container: str) -> int | None:
    """Of a pod that ended; None where its container never came to an end of its own."""
    for state in (pod and pod.status and pod.status.container_statuses) or []:
        if state.name == container and state.state and state.state.terminated:
            return int(state.state.terminated.exit_code)
    return None


def step(
    verb: str,
    *arguments: Any,
    within: timedelta,
    again: str | None,
    image: Image = "services",
    out: str | None = None,
    task_id: str | None = None,
    verdicts: Mapping[int, Asset | None] | None = None,
    wrong: Mapping[int, str] = UNMENDABLE,
    outlets: Sequence[Asset] = (),
    **kwargs: Any,
) -> LocalStep | PodStep:
    """A task that runs ``sluice VERB ARGUMENTS...`` of an image.

    verb: its words, ``dataset build``. arguments: texts, templates, URIs, or what another step
    wrote (``other.output``), which makes it wait for that one. within: it is ended after that.
    again: why another try may help, kept with each retry; None is that none would. out: URI of
    what it writes, its XCom. verdicts: exit statuses that are answers, and whose event each is,
    None of those that start nothing.
    wrong: those that no other try changes, and why.

    A step may run twice: it writes to a place of its own run, or its verb says that it was done.
    """
    told = [asset for asset in (verdicts or {}).values() if asset is not None]
    common: dict[str, Any] = {
        "task_id": task_id or verb.replace(" ", "_").replace("-", "_"),
        "arguments": [*verb.split(), *arguments],
        "out": out,
        "verdicts": verdicts or {},
        "wrong": wrong,
        # As an inlet too: Airflow shows a step the events of its inlets alone.
        "inlets": told,
        "outlets": [*outlets, *(AssetAlias(asset.name) for asset in told)],
        "execution_timeout": within,
        "retries": RETRIES if again else 0,
        "retry_delay": RETRY_AFTER,
        "retry_exponential_backoff": 2,
        "max_retry_delay": RETRY_AFTER_MAX,
        "retry_policy": ExceptionRetryPolicy(
            rules=[
                RetryRule(StepWrongError, action=RetryAction.FAIL, reason="nobody mended it yet"),
                RetryRule(AirflowException, action=RetryAction.RETRY, reason=again),
            ]
            if again
            else [RetryRule(AirflowException, action=RetryAction.FAIL, reason="its word is final")]
        ),
        "doc_md": f"`sluice {verb}`, {f'tried again because {again}' if again else 'tried once'}.",
        **kwargs,
    }
    pods = json.loads(conf.get(SECTION, "pods", fallback="") or "{}")
    if not pods:
        return LocalStep(program=conf.get(SECTION, image, fallback=PROGRAMS[image]), **common)
    pod = pods[PODS[image]]
    return PodStep(
        pod_template_dict=pod,
        name=f"{pod['metadata']['name']}-{common['task_id'].replace('_', '-')}",
        namespace=pod["metadata"]["namespace"],
        active_deadline_seconds=int(within.total_seconds()),
        **common,
    )
