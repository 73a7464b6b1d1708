"""MLflow: parameters, curves, figures and files of each run; releases under aliases.

A SQLite file by default, a server by its URL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from sluice.application.judging.run import RUN
from sluice.errors import Unavailable
from sqlalchemy.exc import SQLAlchemyError

from sluice_models.run import Run

EXPERIMENT = "sluice"
MODEL = "sluice"
"""Name of the registered model, whose versions are releases."""
PARAM_MAX = 500
"""Characters of a parameter that MLflow takes."""

Curves = Mapping[str, Sequence[tuple[int, float]]]
"""By name, of what was seen at each step."""


class Tracking:
    """One store or server."""

    def __init__(self, url: str) -> None:
        """Reach it. Raises Unavailable: before hours of training, not after."""
        self._url = url
        artifacts = None  # a server has a place of its own
        try:
            if url.startswith("sqlite:///"):
                beside = Path(url.removeprefix("sqlite:///")).absolute().parent
                beside.mkdir(parents=True, exist_ok=True)
                # MLflow's default is a folder of the working directory, whatever that is.
                artifacts = (beside / "mlartifacts").as_uri()
            self._client = MlflowClient(tracking_uri=url, registry_uri=url)
            found = self._client.get_experiment_by_name(EXPERIMENT)
            self._experiment = (
                found.experiment_id
                if found
                else self._client.create_experiment(EXPERIMENT, artifact_location=artifacts)
            )
        except (MlflowException, SQLAlchemyError, OSError) as exc:
            raise self._unavailable(exc) from exc

    def _unavailable(self, exc: Exception) -> Unavailable:
        return Unavailable(
            f"MLflow does not answer: {str(exc).splitlines()[0]}",
            where=self._url,
            fix="start it, give another --tracking, or none",
        )

    def track(self, run: Run, folder: Path, curves: Curves, name: str) -> str:
        """Log a finished run, with its candidates below it; MLflow's id of it."""
        try:
            parent = self._started(name, run, {})
            for key, points in curves.items():
                self._log(parent, {}, [Metric(key, value, 0, step) for step, value in points])
            self._log(
                parent,
                {"dataset": run.dataset, "code": run.code, "seed": run.seed, "rows": run.rows,
                 "frauds": run.frauds, "features": len(run.features),
                 "search_ended_by": run.search.ended_by, "trials": run.search.finished},
                [],
            )  # fmt: skip
            self._client.log_artifact(parent, str(folder / RUN))
            for one in run.candidates:
                child = self._started(one.name, run, {"mlflow.parentRunId": parent})
                figures = {f"validation_{key}": value for key, value in one.validation.items()}
                figures |= {f"us_at_{t.batch}": t.median_us for t in one.timings}
                self._log(
                    child,
                    {"kind": one.kind, "sha256": one.sha256, **one.parameters},
                    [Metric(key, value, 0, 0) for key, value in figures.items()],
                )
                self._client.log_artifact(child, str(folder / one.model))
                self._client.set_terminated(child)
            self._client.set_terminated(parent)
        except (MlflowException, SQLAlchemyError, OSError) as exc:
            raise self._unavailable(exc) from exc
        return parent

    def _started(self, name: str, run: Run, tags: dict[str, str]) -> str:
        tags = {"dataset": run.dataset, **tags}
        made = self._client.create_run(self._experiment, run_name=name, tags=tags)
        return str(made.info.run_id)

    def _log(self, run_id: str, params: Mapping[str, object], metrics: Sequence[Metric]) -> None:
        given = [Param(key, str(value)[:PARAM_MAX]) for key, value in params.items()]
        self._client.log_batch(run_id, metrics=metrics, params=given)

    def register(self, release: str, folder: Path, alias: str) -> int:
        """Make a release a version of the registered model, under an alias (champion or
        challenger) that it takes from whichever had it; its number. A release that is there already
        only gets the alias."""
        try:
            if not self._client.search_registered_models(f"name='{MODEL}'"):
                self._client.create_registered_model(MODEL)
            known = self._client.search_model_versions(f"name='{MODEL}'")
            mine = [one for one in known if one.tags.get("release") == release]
            version = (
                mine[0]
                if mine
                else self._client.create_model_version(
                    MODEL, folder.absolute().as_uri(), tags={"release": release}
                )
            )
            self._client.set_registered_model_alias(MODEL, alias, version.version)
        except (MlflowException, SQLAlchemyError, OSError) as exc:
            raise self._unavailable(exc) from exc
        return int(version.version)

    def under(self, alias: str) -> str | None:
        """The release that an alias names; None if none does."""
        try:
            found = self._client.get_model_version_by_alias(MODEL, alias)
        except MlflowException as exc:
            if exc.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                return None
            raise self._unavailable(exc) from exc
        return str(found.tags["release"])
