"""The models, each scoring named columns: a small net, trees, and the net as it is served.

All three take ``predict(names, features)`` and refuse columns that are not theirs, in their order.
Probabilities are those of the world: the odds that undersampling added are taken off again.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Protocol

import lightgbm as lgb
import numpy as np
import numpy.typing as npt
import torch
from sluice.adapters.onnx import OnnxScorer
from sluice.domain.features import catalogue
from sluice.errors import Misconfigured
from torch import nn

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

CLIP = 5.0
"""Standard deviations beyond which an input says no more, or far outliers would rule the score."""
BATCH = 512
PREDICT_ROWS = 65_536


class Model(Protocol):
    """Scores rows of named columns."""

    names: tuple[str, ...]

    def predict(self, names: Sequence[str], features: Ints) -> Floats:
        """(n, f) to (n,) probabilities. Raises Misconfigured if the columns are other ones."""
        ...


def check_columns(expected: Sequence[str], given: Sequence[str]) -> None:
    """Raise Misconfigured naming what is missing, too many, or out of order."""
    if list(expected) == list(given):
        return
    if missing := sorted(set(expected) - set(given)):
        raise Misconfigured(f"no column {', '.join(missing)}")
    if unknown := sorted(set(given) - set(expected)):
        raise Misconfigured(f"unknown column {', '.join(unknown)}")
    at = next(i for i, pair in enumerate(zip(expected, given, strict=True)) if len({*pair}) > 1)
    raise Misconfigured(f"column {at} is {given[at]}, expected {expected[at]}")


class Net(nn.Module):
    """Signed log1p, standardise, clip, an MLP, the prior's offset, a sigmoid: all in one graph."""

    def __init__(
        self, mean: torch.Tensor, scale: torch.Tensor, hidden: Sequence[int], dropout: float
    ) -> None:
        """mean, scale: (f,) of signed log1p; a scale of 0 mutes a column that never varied."""
        super().__init__()
        self.mean: torch.Tensor
        self.scale: torch.Tensor
        self.shift: torch.Tensor
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.register_buffer("shift", torch.zeros(()))
        widths = [len(mean), *hidden]
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(widths):
            layers += [nn.Linear(a, b), nn.ReLU(), nn.Dropout(dropout)]
        self.body = nn.Sequential(*layers, nn.Linear(widths[-1], 1))

    def logit(self, features: torch.Tensor) -> torch.Tensor:
        """(n, f) raw features to (n, 1), before the prior's offset."""
        size = torch.sign(features) * torch.log1p(torch.abs(features))
        z = torch.clamp((size - self.mean) * self.scale, -CLIP, CLIP)
        out: torch.Tensor = self.body(z)
        return out

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(n, f) raw features to (n, 1) probabilities."""
        return torch.sigmoid(self.logit(features) - self.shift)


class TorchModel:
    """The net in PyTorch."""

    def __init__(self, names: Sequence[str], net: Net) -> None:
        self.names = tuple(names)
        self.net = net.eval()

    def predict(self, names: Sequence[str], features: Ints) -> Floats:
        """See Model."""
        check_columns(self.names, names)
        parts = [np.zeros(0, np.float32)]
        with torch.no_grad():
            for i in range(0, len(features), PREDICT_ROWS):
                rows = torch.from_numpy(features[i : i + PREDICT_ROWS].astype(np.float32))
                parts.append(self.net(rows)[:, 0].numpy())
        return np.concatenate(parts).astype(np.float64)


def train_net(
    names: Sequence[str],
    features: Ints,
    label: Bools,
    shift: float,
    *,
    seed: int,
    hidden: Sequence[int] = (64, 32),
    epochs: int = 20,
    dropout: float = 0.2,
) -> TorchModel:
    """Train on a sample. shift: what undersampling added to the logit, taken off in the graph.

    One thread and deterministic kernels: the same seed gives the same bits on the same machine.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    raw = torch.from_numpy(features.astype(np.float32))
    size = torch.sign(raw) * torch.log1p(torch.abs(raw))
    deviation = size.std(0)
    varies = torch.from_numpy(features.min(0) != features.max(0))
    scale = torch.where(varies, 1 / torch.clamp(deviation, min=1e-6), 0.0)
    net = Net(size.mean(0), scale, hidden, dropout)
    target = torch.from_numpy(label.astype(np.float32))[:, None]
    batches = len(raw) // BATCH
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=epochs * batches)
    loss_of = nn.BCEWithLogitsLoss()
    net.train()
    for _ in range(epochs):
        order = torch.randperm(len(raw))
        for b in range(batches):
            rows = order[b * BATCH : (b + 1) * BATCH]
            optimizer.zero_grad()
            loss_of(net.logit(raw[rows]), target[rows]).backward()
            optimizer.step()
            schedule.step()
    net.shift.fill_(shift)
    return TorchModel(names, net)


class Trees:
    """LightGBM: the yardstick."""

    def __init__(self, names: Sequence[str], booster: lgb.Booster, shift: float) -> None:
        self.names = tuple(names)
        self._booster = booster
        self._shift = shift

    def predict(self, names: Sequence[str], features: Ints) -> Floats:
        """See Model."""
        check_columns(self.names, names)
        logit = self._booster.predict(features, raw_score=True, num_threads=1)
        return np.asarray(1 / (1 + np.exp(self._shift - np.asarray(logit))), np.float64)


def train_trees(
    names: Sequence[str], features: Ints, label: Bools, shift: float, *, seed: int
) -> Trees:
    """Train on a sample. shift: as of :func:`train_net`."""
    parameters = {
        "objective": "binary",
        "learning_rate": 0.05,
        "num_leaves": 31,
        "min_data_in_leaf": 40,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "feature_fraction": 0.8,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "verbose": -1,
    }
    table = lgb.Dataset(features, label.astype(np.int8), feature_name=list(names))
    return Trees(names, lgb.train(parameters, table, num_boost_round=300), shift)


class OnnxModel:
    """A release's scorer, as the decider runs it."""

    def __init__(self, names: Sequence[str], scorer: OnnxScorer) -> None:
        self.names = tuple(names)
        self._columns = [catalogue.INDEX[name] for name in names]
        self._scorer = scorer

    def predict(self, names: Sequence[str], features: Ints) -> Floats:
        """See Model. Whole parts per million."""
        check_columns(self.names, names)
        served = np.zeros((len(features), catalogue.N), np.int64)
        served[:, self._columns] = features
        return self._scorer.score(served).ppm / 1e6
