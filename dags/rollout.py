"""Roll a release out: shadow, canary, champion, and back.

    shadow_time -> shadow_held -> canary -> canary_time -> canary_held -> widen -> wide_time
        -> wide_held -> approve -> promote -> champion_time -> champion_held -> kept
    back, if any of them fails

Runs when `sluice_retrain` put a release into shadow, or by hand with its id. Deciders return a bad
canary by themselves within seconds, whether Airflow runs or not; here is what needs time and a
person.

- **shadow_time**, **canary_time**, **wide_time**, **champion_time** wait, and hold no worker.
  Where Airflow's own parts were away meanwhile they are tried again, and wait anew.
- **shadow_held**, **canary_held**, **wide_held**, **champion_held** ask whether the release is
  still what it was made, or went back; the log has the reason. Both are answers, neither is tried
  again.
- **canary** lets it answer 1 % of the cards, **widen** a larger share.
- **approve** is for a person, under *Required Actions*: read the report of `sluice_retrain`, then
  approve or reject. Nobody's answer in time counts as a rejection.
- **promote** makes it the champion.
- **kept** does nothing: by it the run succeeds, or fails where the release went back.
- **back** runs if any of them failed or was rejected: the release goes back to what was before, and
  the run fails. Where it is back already, nothing is done.

To stop at any time mark a task as failed: **back** follows.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.standard.exceptions import HITLRejectException, HITLTimeoutError
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.providers.standard.sensors.date_time import DateTimeSensorAsync
from airflow.sdk import ExceptionRetryPolicy, Param, RetryAction, RetryRule, chain, dag
from assets import CANDIDATE
from steps import DAGS, MAY_BE_EMPTY, RETRIES, RETRY_AFTER, LocalStep, PodStep, place, step

NAME = (
    "{{ params.release or "
    "(triggering_asset_events.values() | first | last).extra.out.split('/') | last }}"
)
"""The release that the event is about; of several the newest, which took the others' place."""
AWAY = "Kafka, or the disk of the releases, may be away"
BODY = f"""\
It scored in shadow for {{{{ params.shadow_hours }}}} hours, and answered 1 % and
{{{{ params.share_ppm / 10000 }}}} % of the cards for {{{{ params.canary_hours }}}} and
{{{{ params.wide_hours }}}} hours. No decider returned it.

Read before you answer: `report.html` of the run of `sluice_retrain` that made it, its `card.md` in
`{place("registry")}/{NAME}`, and what `sluice release diff` says of it and the champion.
"""
PATIENT: dict[str, Any] = {
    "retries": RETRIES,
    "retry_delay": RETRY_AFTER,
    "retry_policy": ExceptionRetryPolicy(
        rules=[
            RetryRule(HITLRejectException, action=RetryAction.FAIL, reason="a person said no"),
            RetryRule(HITLTimeoutError, action=RetryAction.FAIL, reason="nobody answered in time"),
            RetryRule(Exception, action=RetryAction.RETRY, reason="Airflow's parts may be away"),
        ]
    ),
}
"""Of what only waits: Airflow fails a task that could not reach its API server, and days of shadow
and canary would be lost with it. It waits, or asks, anew."""
SHORT = timedelta(minutes=30)
LONGEST = timedelta(days=15)


def waiting(task_id: str) -> DateTimeSensorAsync:
    """Waits from its own start on, as many hours as the parameter of its name says."""
    length = f"macros.timedelta(hours=params.{task_id.replace('_time', '_hours')})"
    return DateTimeSensorAsync(
        task_id=task_id,
        target_time=f"{{{{ (ti.start_date + {length}).isoformat() }}}}",
        execution_timeout=LONGEST,
        **PATIENT,
    )


@dag(
    dag_id="sluice_rollout",
    schedule=[CANDIDATE],
    dagrun_timeout=timedelta(days=60),
    params={
        "release": Param(None, type=MAY_BE_EMPTY, description="Id; else the one of the event."),
        "shadow_hours": Param(24, type="number", minimum=0, maximum=336, description="In shadow."),
        "canary_hours": Param(24, type="number", minimum=0, maximum=336, description="At 1 %."),
        "wide_hours": Param(24, type="number", minimum=0, maximum=336, description="At `share`."),
        "champion_hours": Param(24, type="number", minimum=0, maximum=336, description="After."),
        "share_ppm": Param(100_000, type="integer", minimum=10_000, maximum=500_000,
                           description="Of the cards, once 1 % held."),
    },
    doc_md=__doc__,
    **DAGS,
)  # fmt: skip
def rollout() -> None:
    """A chain, and the way back from any of its links."""
    registry = place("registry")

    def ask(task_id: str, role: str) -> LocalStep | PodStep:
        more: dict[str, Any] = {"task_id": task_id, "within": SHORT, "again": AWAY}
        return step("release held", registry, NAME, "--as", role, **more)

    def act(task_id: str, verb: str, *words: str, **more: Any) -> LocalStep | PodStep:
        signed = ("--key", place("key"), "--who", "airflow", "--why", "sluice_rollout {{ run_id }}")
        more |= {"task_id": task_id, "within": SHORT, "again": AWAY}
        return step(f"release {verb}", registry, NAME, *words, *signed, **more)

    steps = [
        waiting("shadow_time"),
        ask("shadow_held", "shadow"),
        act("canary", "canary", "--once", "--share-ppm", "10000"),
        waiting("canary_time"),
        ask("canary_held", "canary"),
        act("widen", "canary", "--once", "--share-ppm", "{{ params.share_ppm }}"),
        waiting("wide_time"),
        ask("wide_held", "canary"),
        ApprovalOperator(
            task_id="approve",
            subject=f"Make {NAME} the champion?",
            body=BODY,
            response_timeout=timedelta(days=3),
            fail_on_reject=True,
            **PATIENT,
        ),
        # As long as this run gave it, not as the verb asks by itself: else fewer than ten minutes
        # would be refused here, after somebody had approved.
        act("promote", "promote", "--once", "--held-s", "{{ (params.wide_hours * 3600) | int }}"),
        waiting("champion_time"),
        ask("champion_held", "champion"),
    ]
    chain(*steps)
    back = act("back", "withdraw", trigger_rule="one_failed")
    steps >> back
    # The last tasks decide what a run was. Of `back` alone a release taken back would be a success.
    steps[-1] >> EmptyOperator(task_id="kept", execution_timeout=SHORT, **PATIENT)


rollout()
