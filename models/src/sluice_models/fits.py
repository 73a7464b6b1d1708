"""The four candidates' fits over one material: trees, a teacher, its student, and what each needs
of the others. Arrays in, models out; nothing is written but checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import lightgbm as lgb
import numpy as np
import numpy.typing as npt
from sluice.application.dataset_manifest import CALIBRATION, RECENT, TRAIN, VALIDATION

from sluice_models import trees
from sluice_models.figures import average_precision
from sluice_models.fitting import Batches, Epoch, Targets, fit, logits, prepare
from sluice_models.material import MAY_MISS, PAST, Material, Missing, Rows
from sluice_models.nets import Inputs, Student, Teacher, TeacherKind
from sluice_models.sampling import Sample, undersample
from sluice_models.search import NetParameters
from sluice_models.trees import TreeParameters, fit_trees, margins

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

DROPOUT_OF_VIEWS = 0.05
"""Share of training rows that see a view as missing, for each of the views that may be."""
TRANSFER = 0.5
"""Unlabelled rows that a student hears its teacher on, as a share of the labelled ones."""
FOLDS = 2
"""Of cards: a teacher's trees speak of a card that they did not learn from."""


@dataclass(frozen=True, slots=True)
class Learnt:
    """Trees, how many of them are used, and what the odds in their sample are above the world's.

    ranking: (f,) columns, those first that split off most.
    """

    booster: lgb.Booster
    trees: int
    shift: float
    ranking: Ints
    rows: int
    frauds: int

    def logits(self, features: Floats) -> Doubles:
        """(n,) in the world, not calibrated."""
        return margins(self.booster, self.trees, features) - self.shift


@dataclass(frozen=True, slots=True)
class Taught:
    """A net, and what it learnt from."""

    net: Student | Teacher
    rows: int
    frauds: int


class Fits:
    """Of one material and seed."""

    def __init__(self, material: Material, seed: int) -> None:
        self.material = material
        self.seed = seed
        self.missing = Missing.of(material.names)
        self.train = material.rows(TRAIN)
        self.validation = material.rows(VALIDATION)
        self.ranking: Ints = np.arange(len(material.names))
        """Columns, those first that a net may least do without: of trees, when they are grown."""

    @property
    def calibration(self) -> Rows | None:
        """The split that logits are calibrated on; None if the dataset has none."""
        return self.material.rows(CALIBRATION) if self.material.has(CALIBRATION) else None

    def rng(self, what: int) -> np.random.Generator:
        """Draws of one purpose, whatever was drawn for another."""
        return np.random.default_rng([self.seed, what])

    def sample(self, negatives: int) -> Sample:
        """Of the train split."""
        rows = self.train
        return undersample(rows.fraud, rows.weight, rows.labelled, negatives, self.rng(negatives))

    def seen(self, features: Floats) -> Floats:
        """Rows as a decider sees them, which now and then has to do without a view; a copy."""
        out = features.copy()
        fate = self.rng(1).random(len(features))
        for i, view in enumerate(MAY_MISS):
            gone = (fate >= i * DROPOUT_OF_VIEWS) & (fate < (i + 1) * DROPOUT_OF_VIEWS)
            out[gone] = self.missing.without(out[gone], view)
        return out

    # LightGBM

    def grow(
        self,
        parameters: TreeParameters,
        after: Callable[[int, float], None] = lambda done, figure: None,
    ) -> Learnt:
        """Trees on a sample, as many as the validation split is best with."""
        sample = self.sample(parameters.negatives)
        features = self.seen(self.train.features[sample.rows])
        label = self.train.fraud[sample.rows].astype(np.float32)
        booster, used = fit_trees(
            self.material.names,
            features,
            label,
            sample.weight,
            parameters,
            seed=self.seed,
            rounds=trees.ROUNDS_MAX,
            check=(self.validation.features, lambda m: average_precision(m, self.validation)),
            after=after,
        )
        gain = booster.feature_importance("gain", iteration=used)
        ranking = np.argsort(-gain, kind="stable").astype(np.int64)
        return Learnt(booster, used, sample.shift, ranking, len(label), int(label.sum()))

    def out_of_fold(self, parameters: TreeParameters, rounds: int) -> Doubles:
        """(n,) world logits of the train split, each by trees that its card was kept from."""
        fold = self.material.timeline.card[self.train.place] % FOLDS
        out = np.empty(len(fold), np.float64)
        sample = self.sample(parameters.negatives)
        for one in range(FOLDS):
            rows = sample.rows[fold[sample.rows] != one]
            weight = sample.weight[fold[sample.rows] != one]
            booster, used = fit_trees(
                self.material.names,
                self.seen(self.train.features[rows]),
                self.train.fraud[rows].astype(np.float32),
                weight,
                parameters,
                seed=self.seed,
                rounds=rounds,
            )
            mine = fold == one
            out[mine] = margins(booster, used, self.train.features[mine]) - sample.shift
        return out

    # Nets

    def read(self, keep: int) -> Ints:
        """Indices of the columns that a net reads, rising."""
        return np.sort(self.ranking[:keep])

    def past(self, rows: Rows, at: Ints | None = None) -> Callable[[Ints], Floats]:
        """What the card did before some of the rows, or before some of those at ``at``."""
        place = rows.place if at is None else rows.place[at]
        return lambda some: self.material.timeline.past(place[some])

    def teach(
        self,
        kind: TeacherKind,
        parameters: NetParameters,
        *,
        checkpoint: Path | None = None,
        rows_max: int | None = None,
        alone: bool = False,
        after: Callable[[Epoch, Teacher], None] = lambda epoch, net: None,
    ) -> Taught:
        """A teacher on a sample's labels."""
        sample = self._cut(self.sample(parameters.negatives), rows_max)
        features = self.seen(self.train.features[sample.rows])
        label = self.train.fraud[sample.rows].astype(np.float32)
        prepare(self.seed)
        net = Teacher(
            Inputs.of(features, label > 0, self.read(parameters.keep), parameters.bins),
            kind,
            width=parameters.width,
            hidden=parameters.hidden,
            dropout=parameters.dropout,
            length=PAST + 1,
        )
        net.shift.fill_(sample.shift)
        fit(
            net,
            Batches(features, self.past(self.train, sample.rows)),
            Targets(label, np.ones_like(label), sample.weight.astype(np.float32)),
            seed=self.seed,
            epochs=parameters.epochs,
            rate=parameters.rate,
            decay=parameters.decay,
            checkpoint=checkpoint,
            alone=alone,
            after=lambda epoch: after(epoch, net),
        )
        return Taught(net, len(label), int(label.sum()))

    def study(
        self,
        parameters: NetParameters,
        teacher: Callable[[Rows, Ints], Doubles] | None,
        *,
        checkpoint: Path | None = None,
        rows_max: int | None = None,
        alone: bool = False,
        after: Callable[[Epoch, Student], None] = lambda epoch, net: None,
    ) -> Taught:
        """A student on a sample's labels, and on what a teacher says of it and of traffic without
        labels. teacher: world logits of some rows of a split; None for labels alone."""
        sample = self._cut(self.sample(parameters.negatives), rows_max)
        label = self.train.fraud[sample.rows].astype(np.float32)
        weight = sample.weight.astype(np.float32)
        features = self.train.features[sample.rows]
        hard = np.ones_like(label)
        soft = None
        learnt = len(label)
        if teacher is not None:
            soft = teacher(self.train, sample.rows)
            for rows, at in self._unlabelled(int(TRANSFER * learnt)):
                features = np.concatenate([features, rows.features[at]])
                soft = np.r_[soft, teacher(rows, at)]
            more = len(features) - learnt
            label, hard = (np.r_[one, np.zeros(more, np.float32)] for one in (label, hard))
            weight = np.r_[weight, np.ones(more, np.float32)]
        features = self.seen(features)
        prepare(self.seed)
        inputs = Inputs.of(
            features[:learnt], label[:learnt] > 0, self.read(parameters.keep), parameters.bins
        )
        net = Student(inputs, parameters.hidden, parameters.dropout)
        net.shift.fill_(sample.shift)
        fit(
            net,
            Batches(features),
            Targets(
                label,
                hard,
                weight,
                None if soft is None else (soft + sample.shift).astype(np.float32),
            ),
            seed=self.seed,
            epochs=parameters.epochs,
            rate=parameters.rate,
            decay=parameters.decay,
            checkpoint=checkpoint,
            alone=alone,
            after=lambda epoch: after(epoch, net),
        )
        return Taught(net, learnt, int(label.sum()))

    def _unlabelled(self, most: int) -> list[tuple[Rows, Ints]]:
        """Rows without a label to learn from, the newest traffic first, at most so many."""
        found = []
        for split in (RECENT, TRAIN):
            if not self.material.has(split):
                continue
            rows = self.material.rows(split)
            at = np.flatnonzero(~rows.labelled)
            drawn = np.sort(self.rng(2).permutation(at)[:most])
            most -= len(drawn)
            found.append((rows, drawn))
        return found

    @staticmethod
    def _cut(sample: Sample, most: int | None) -> Sample:
        """Every so many-th row of a sample that is larger; the odds in it stay."""
        if most is None or len(sample.rows) <= most:
            return sample
        every = -(-len(sample.rows) // most)
        return Sample(sample.rows[::every], sample.weight[::every], sample.shift)

    def worth(self, net: Student | Teacher) -> float:
        """Average precision of a net on the validation split."""
        past = self.past(self.validation) if isinstance(net, Teacher) else None
        return average_precision(
            logits(net, Batches(self.validation.features, past)), self.validation
        )

    @cached_property
    def reference_row(self) -> list[int]:
        """Medians of the train split's genuine rows."""
        genuine = self.train.features[~self.train.fraud]
        return [int(value) for value in np.median(genuine, axis=0)]
