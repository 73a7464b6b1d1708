"""The search for parameters: Optuna, on the validation split alone, pruned, resumable, timed.

The first trial of each kind is the defaults, so that a search of no time trains with them; a
teacher's first two are its two kinds. A trial's draws follow from the seed and its number, whether
or not the search was ended in between.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.trial import TrialState

from sluice_models.nets import TeacherKind
from sluice_models.trees import TreeParameters

EPOCHS = 4
"""Of a net's trial: enough to tell rates and widths apart."""
SHARES = {"lightgbm": 0.25, "teacher": 0.4, "student": 0.35}
"""Of the time box. What a kind does not use falls to those after it."""
RANDOM_TRIALS = 5
"""Before a trial is drawn by what others found."""

Report = Callable[[int, float], None]
"""Called with a step and the figure at it; raises TrialPruned if the trial is not worth more."""


@dataclass(frozen=True, slots=True)
class NetParameters:
    """What a search may set of a net. rate: the highest learning rate. width: of a teacher's
    encoder. keep: columns that it reads, those that split off most in trees first. bins: of
    each column."""

    hidden: tuple[int, ...] = (128, 64)
    rate: float = 4e-3
    decay: float = 1e-2
    dropout: float = 0.0
    epochs: int = 12
    negatives: int = 30
    width: int = 64
    keep: int = 32
    bins: int = 16


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the fits take."""

    trees: TreeParameters = field(default_factory=TreeParameters)
    kind: TeacherKind = "gru"
    teacher: NetParameters = field(default_factory=lambda: NetParameters(epochs=6))
    student: NetParameters = field(default_factory=lambda: NetParameters(hidden=(64, 32)))


@dataclass
class Tally:
    """Of all kinds together."""

    finished: int = 0
    pruned: int = 0
    seconds: float = 0.0
    cut: bool = False

    @property
    def ended_by(self) -> Literal["trials", "time_box"]:
        """See sluice_models.run.Search."""
        return "time_box" if self.cut else "trials"


@dataclass(frozen=True)
class Box:
    """Where trials are kept, and how many there may be, in what time. say: where it is, of how many
    trials, and seconds left of the time box."""

    store: Path
    seed: int
    trials: int
    seconds: float
    say: Callable[[str, int, int, float], None]
    tally: Tally = field(default_factory=Tally)

    def best(
        self,
        kind: str,
        first: list[dict[str, Any]],
        ask: Callable[[optuna.Trial], dict[str, Any]],
        worth: Callable[[dict[str, Any], Report], float],
        *,
        safe_steps: int = 1,
    ) -> dict[str, Any]:
        """The parameters of the best trial. first: those tried in any case. worth: the figure of
        some; the larger the better. safe_steps: in which no trial is pruned."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            study_name=kind,
            storage=f"sqlite:///{self.store}",
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=safe_steps),
            load_if_exists=True,
        )
        for given in first:
            study.enqueue_trial(given, skip_if_exists=True)
        spent = self.tally.seconds
        shares = list(SHARES)
        until = self.seconds * sum(SHARES[one] for one in shares[: shares.index(kind) + 1])
        number = len(_over(study))
        spent += sum(_seconds(trial) for trial in _over(study))
        began = time.monotonic()

        def left() -> float:
            return until - spent - (time.monotonic() - began)

        while number < max(self.trials, len(first)):
            if number >= len(first) and left() <= 0:
                self.tally.cut = True
                break
            self.say(kind, number, self.trials, max(0.0, left() + self.seconds - until))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.sampler = optuna.samplers.TPESampler(
                    seed=self.seed * 1_000 + number, n_startup_trials=RANDOM_TRIALS
                )
                study.optimize(
                    _objective(ask, worth, left if number >= len(first) else None), n_trials=1
                )
            number = len(_over(study))
        done = _over(study)
        self.tally.finished += sum(t.state == TrialState.COMPLETE for t in done)
        self.tally.pruned += sum(t.state == TrialState.PRUNED for t in done)
        self.tally.seconds = spent + time.monotonic() - began
        return dict(study.best_trial.user_attrs["parameters"])


def _over(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def _seconds(trial: optuna.trial.FrozenTrial) -> float:
    return trial.duration.total_seconds() if trial.duration else 0.0


def _objective(
    ask: Callable[[optuna.Trial], dict[str, Any]],
    worth: Callable[[dict[str, Any], Report], float],
    left: Callable[[], float] | None,
) -> Callable[[optuna.Trial], float]:
    def objective(trial: optuna.Trial) -> float:
        given = ask(trial)
        trial.set_user_attr("parameters", given)

        def report(step: int, figure: float) -> None:
            trial.report(figure, step)
            if left is not None and (trial.should_prune() or left() <= 0):
                raise optuna.TrialPruned

        return worth(given, report)

    return objective


def ask_trees(trial: optuna.Trial) -> dict[str, Any]:
    """Parameters of LightGBM."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 0.02, 0.12, log=True),
        "num_leaves": trial.suggest_int("num_leaves", 15, 63, log=True),
        "min_data_in_leaf": trial.suggest_int("min_data_in_leaf", 10, 200, log=True),
        "feature_fraction": trial.suggest_float("feature_fraction", 0.2, 0.9),
        "lambda_l2": trial.suggest_float("lambda_l2", 0.1, 30.0, log=True),
        "negatives": trial.suggest_categorical("negatives", [10, 20]),
    }


def ask_teacher(trial: optuna.Trial) -> dict[str, Any]:
    """Kind and parameters of a teacher."""
    return {
        "kind": trial.suggest_categorical("kind", ["gru", "transformer"]),
        **_of_net(trial),
        "width": trial.suggest_categorical("width", [48, 64]),
    }


def ask_student(trial: optuna.Trial) -> dict[str, Any]:
    """Parameters of a student. Not narrower than 64-32: int8 gains too little there (ADR 68)."""
    hidden = trial.suggest_categorical("hidden", ["64-32", "128-64", "256-128"])
    keep = trial.suggest_categorical("keep", [24, 32, 48, 96])
    return {"hidden": [int(one) for one in hidden.split("-")], "keep": keep, **_of_net(trial)}


def _of_net(trial: optuna.Trial) -> dict[str, Any]:
    return {
        "rate": trial.suggest_float("rate", 1e-3, 8e-3, log=True),
        "decay": trial.suggest_float("decay", 1e-3, 0.3, log=True),
        "dropout": trial.suggest_float("dropout", 0.0, 0.3),
    }
