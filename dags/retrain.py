"""Retrain: from the archive to a release that scores in shadow.

    dataset -> train -> gate -> judge -> pack -> sign -> shadow

Runs when a further week of labels has matured, and when drift was found; by hand for any stretch
of time. Each run writes below a folder of its own, and the XCom of a step is the URI of what it
wrote.

- **dataset**: features as they were served, labels as they were known, split by time.
- **train**: LightGBM, a teacher, its student, and that in int8; each as ONNX, with its scores. It
  goes on where an earlier try was ended.
- **gate**: the candidate (`better`: the student, unless LightGBM is worth more on the tests)
  against the release in force, on the same days, and what it learnt against the archive. Where it
  refuses, the run ends, and `verdict.json` says why. Its word is final: it is not tried again.
- **judge**: the figures, as a page for people (`report.html`) and as JSON; of a candidate that was
  refused too, with the reason at the head.
- **pack**, **sign**: a release with the gate's certificate, in the registry, signed.
- **shadow**: every decider scores with it and answers nothing by it. The event
  (`x-sluice://releases/candidate`) starts `sluice_rollout`.

When a step fails: read the end of its log, mend the cause, clear the task.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import AssetAny, Param, dag
from assets import CANDIDATE, DRIFT_FOUND, LABELS_MATURED
from steps import DAGS, MAY_BE_EMPTY, own_folder, place, plain, step

DAYS_AGO = "(%s - macros.timedelta(days=params.%s)).strftime('%%Y-%%m-%%d')"
UNTIL = f"(params.until or {DAYS_AGO % ('dag_run.run_after', 'wait')})"
FIRST = f"(params.first or {DAYS_AGO % (f'macros.datetime.fromisoformat({UNTIL})', 'days')})"
CHAMPION = f"'--champion={plain(place('registry'))}'"
RELEASE = "cards-{{ dag_run.run_after.strftime('%Y%m%d-%H%M%S') }}"
"""How the ids of the releases that a run makes begin; the try that made one is behind it."""
NAME = "{{ ti.xcom_pull('pack').split('/') | last }}"


@dag(
    dag_id="sluice_retrain",
    schedule=AssetAny(LABELS_MATURED, DRIFT_FOUND),
    dagrun_timeout=timedelta(hours=30),
    params={
        "first": Param(
            None, type=MAY_BE_EMPTY, description="First day; else `days` before `until`."
        ),
        "until": Param(None, type=MAY_BE_EMPTY, description="Day after the last; else `wait` ago."),
        "days": Param(120, type="integer", minimum=21, description="Days to learn from and judge."),
        "wait": Param(7, type="integer", minimum=0, description="Days for labels of the last."),
        "label_delay": Param("7d", type="string", description="Between training and its tests."),
        "tests": Param(2, type="integer", minimum=1, description="Weeks that judge."),
        "candidate": Param(
            "better", enum=["better", "student", "lightgbm"], description="Who is released."
        ),
        "time_box": Param("30m", type="string", description="Of the search for parameters."),
        "trials": Param(12, type="integer", minimum=1, description="Of it, at most, of a kind."),
        "seed": Param(1, type="integer", description="Of all that is random."),
        "first_champion": Param(False, type="boolean", description="Nothing is in force yet."),
    },
    doc_md=__doc__,
    **DAGS,
)
def retrain() -> None:
    """Each step gets what it reads as the URI that another wrote."""
    run = own_folder("retrain")
    dataset = step(
        "dataset build",
        *("--archive", place("archive")),
        *("--from", f"{{{{{FIRST}}}}}", "--to", f"{{{{{UNTIL}}}}}"),
        *("--label-delay", "{{ params.label_delay }}", "--recent", "--seed", "{{ params.seed }}"),
        *("--validation", "7d", "--calibration", "7d", "--tests", "{{ params.tests }}"),
        # A folder that is there is refused, so each try has its own.
        *("--out", f"{run}/dataset-{{{{ ti.try_number }}}}"),
        out=f"{run}/dataset-{{{{ ti.try_number }}}}",
        image="features",
        task_id="dataset",
        within=timedelta(hours=6),
        again="the archive's disk may be away, or a node have gone",
    )
    train = step(
        "train",
        *("--dataset", dataset.output, "--out", f"{run}/run"),
        *("--time-box", "{{ params.time_box }}", "--trials", "{{ params.trials }}"),
        *("--seed", "{{ params.seed }}"),
        *("--tracking", f"sqlite:///{plain(place('work'))}/mlflow.db"),
        image="training",
        out=f"{run}/run",
        within=timedelta(hours=12),
        again="it goes on where the try before was ended",
    )
    gate = step(
        "gate",
        *("--run", train.output, "--dataset", dataset.output, "--archive", place("archive")),
        *("--candidate", "{{ params.candidate }}"),
        f"{{{{ '--no-champion' if params.first_champion else {CHAMPION} }}}}",
        *("--key", place("key"), "--trust", place("trust"), "--out", f"{run}/gate"),
        image="training",
        out=f"{run}/gate",
        within=timedelta(hours=2),
        again=None,
    )
    judge = step(
        "judge",
        *("--run", train.output, "--dataset", dataset.output, "--out", f"{run}/judgement"),
        *("--verdict", f"{run}/gate/verdict.json", "--title", RELEASE),
        image="training",
        out=f"{run}/judgement",
        within=timedelta(hours=2),
        again="a node may have gone",
        trigger_rule="all_done",
    )
    # Below the registry each try has a folder of its own: `release pack` refuses one that is there.
    release = f"{place('registry')}/{RELEASE}-{{{{ ti.try_number }}}}"
    pack = step(
        *("release pack", release, "--run", train.output, "--dataset", dataset.output),
        *("--id", f"{RELEASE}-{{{{ ti.try_number }}}}"),
        *("--certificate", f"{run}/gate/certificate.json"),
        *("--judgement", f"{run}/judgement/judgement.json"),
        image="training",
        out=release,
        task_id="pack",
        within=timedelta(hours=1),
        again="the disk of the releases may be away",
    )
    sign = step(
        *("release sign", pack.output, "--key", place("key")),
        image="training",
        task_id="sign",
        within=timedelta(minutes=30),
        again="the disk of the releases may be away",
    )
    shadow = step(
        *("release shadow", place("registry"), NAME, "--once", "--key", place("key")),
        *("--who", "airflow", "--why", "sluice_retrain {{ run_id }}"),
        out="{{ ti.xcom_pull('pack') }}",
        task_id="shadow",
        verdicts={0: CANDIDATE},
        within=timedelta(minutes=30),
        again="the disk of the releases may be away",
    )
    gate >> judge >> pack
    gate >> pack >> sign >> shadow


retrain()
