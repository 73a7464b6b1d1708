"""The nets: a student that reads the features alone, and teachers that also read what the card did
before. All preprocessing is inside the graph.
"""

from __future__ import annotations

import copy
import itertools
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from sluice_models.material import STEP

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
TeacherKind = Literal["gru", "transformer"]
TEACHERS: tuple[TeacherKind, ...] = ("gru", "transformer")

CLIP = 10.0
"""Standard deviations beyond which an input says no more, or far outliers would rule the score.
At 5, a fifth of what the logarithms say of fraud on the Handbook's table is cut off."""
HEADS = 4
TOGETHER = 8
"""Bins of one column that a served net computes side by side. Fewer waste less on columns of few
bins, more make a call of many rows faster."""


def signed_log(x: torch.Tensor) -> torch.Tensor:
    """sign(x) log(1 + |x|): amounts and ages of any size, zero stays zero."""
    return torch.sign(x) * torch.log(torch.abs(x) + 1)


class Bins(nn.Module):
    """(n, f) raw features to (n, b k): how far each of k of them is through each of its b bins,
    from 0 to 1 (piecewise linear encoding: Gorishniy, Rubachev, Babenko 2022).

    Bins tell apart what lies close together beside a large default, as days since a fraud do beside
    "never". All that a net sees of the features, and all of its preprocessing in a graph.
    """

    def __init__(self, columns: torch.Tensor, low: torch.Tensor, per_width: torch.Tensor) -> None:
        """columns: (k,) indices of those that are read, each as often as it has bins in several
        places. low, per_width: (b, k) where a bin begins, and 1 over its width; 0 for a bin that
        holds one value."""
        super().__init__()
        self.columns: torch.Tensor
        self.low: torch.Tensor
        self.per_width: torch.Tensor
        self.register_buffer("columns", columns)
        self.register_buffer("low", low)
        self.register_buffer("per_width", per_width)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(n, f) to (n, b k)."""
        chosen = torch.index_select(features, 1, self.columns)[:, None]
        return torch.clamp((chosen - self.low) * self.per_width, 0, 1).flatten(1)

    def packed(self) -> tuple[Bins, torch.Tensor]:
        """Without the bins that hold one value, which give 0 whatever comes: half of them where
        features are counts and flags. A column comes TOGETHER bins at a time.

        Returns them, and where each of their outputs lies among ours. Filling is wherever
        per_width is 0.
        """
        live = self.per_width > 0
        parts = [
            (column, part)
            for column in range(live.shape[1])
            for part in torch.nonzero(live[:, column])[:, 0].split(TOGETHER)
            if len(part)
        ]
        columns = torch.tensor([column for column, _ in parts] or [0])
        place = columns.repeat(TOGETHER, 1)
        per_width = torch.zeros(place.shape)
        for at, (column, part) in enumerate(parts):
            place[: len(part), at] += part * live.shape[1]
            per_width[: len(part), at] = self.per_width[part, column]
        low = self.low.flatten()[place]
        return Bins(self.columns[columns], low, per_width), place.flatten()


class Inputs(nn.Module):
    """(n, f) raw features to (n, k (2 + b)): beside the bins of k of them, each as it is and its
    logarithm, standardised and clipped, as straight lines from one bin's edge to the next.

    The logarithm tells orders of size apart, the raw value amounts of one order: a net that is
    given both learns sooner than one of bins alone. Being sums over bins, they are taken into the
    first layer when a net is served, and cost nothing there. See docs/decisions/0059.
    """

    def __init__(self, bins: Bins, start: torch.Tensor, rise: torch.Tensor) -> None:
        """start: (2, k) sizes at the first edge. rise: (2, b, k) what a bin adds to them."""
        super().__init__()
        self.bins = bins
        self.start: torch.Tensor
        self.rise: torch.Tensor
        self.register_buffer("start", start)
        self.register_buffer("rise", rise)

    @staticmethod
    def of(features: Floats, fraud: Bools, columns: Ints, bins: int) -> Inputs:
        """Fitted to a sample (n, f). columns: those that are read.

        Bins hold the same share of a sample that is half fraud: where frauds lie, they are narrow.
        A column that never varied is muted.
        """
        chosen = features[:, columns]
        every = max(int((~fraud).sum()) // max(int(fraud.sum()), 1), 1)
        halves = np.concatenate([chosen[fraud], chosen[~fraud][::every]])
        edges = np.quantile(halves, np.linspace(0, 1, bins + 1), axis=0).astype(np.float32)
        width = np.diff(edges, axis=0)
        per_width = np.divide(1, width, out=np.zeros_like(width), where=width > 0)
        sizes = [_standardised(chosen, edges), _standardised(_log(chosen), _log(edges))]
        at_edges = torch.from_numpy(np.stack(sizes))
        made = Bins(
            torch.from_numpy(columns), torch.from_numpy(edges[:-1]), torch.from_numpy(per_width)
        )
        return Inputs(made, at_edges[:, 0], at_edges.diff(dim=1))

    @property
    def width(self) -> int:
        """Of what comes out."""
        return self.start.numel() + self.bins.low.numel()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(n, f) to (n, k (2 + b)), the bins last."""
        bins = self.bins(features)
        shape = self.bins.low.shape
        sizes = self.start + (bins.unflatten(1, shape)[:, None] * self.rise).sum(2)
        return torch.cat([sizes.flatten(1), bins], dim=1)

    def folded(self, layer: nn.Linear) -> tuple[Bins, nn.Linear]:
        """Bins, and what follows them as ``layer`` follows this. Columns of the layer behind the
        inputs' stay."""
        start, rise = self.start.double(), self.rise.double()
        weight = layer.weight.detach().double()
        of_sizes = weight[:, : start.numel()].unflatten(1, start.shape)
        rest = weight[:, start.numel() :].clone()
        width = self.bins.low.numel()
        rest[:, :width] += torch.einsum("osk,sbk->obk", of_sizes, rise).flatten(1)
        bins, place = self.bins.packed()
        chosen = rest[:, place] * (bins.per_width.flatten() > 0)
        rest = torch.cat([chosen, rest[:, width:]], dim=1)
        made = nn.Linear(rest.shape[1], len(rest))
        with torch.no_grad():
            made.weight.copy_(rest)
            made.bias.copy_(layer.bias.double() + (of_sizes * start).sum((1, 2)))
        return bins, made


def _log(x: Floats) -> Floats:
    found: Floats = signed_log(torch.from_numpy(x)).numpy()
    return found


def _standardised(sample: Floats, at: Floats) -> Floats:
    """Values at (b + 1, k) edges in standard deviations of a sample (n, k), clipped."""
    mean, deviation = sample.mean(0, dtype=np.float64), sample.std(0, dtype=np.float64)
    found: Floats = np.clip((at - mean) / np.maximum(deviation, 1e-6), -CLIP, CLIP)
    return found.astype(np.float32)


def mlp(widths: Sequence[int], dropout: float) -> nn.Sequential:
    """Linear layers with ReLU and dropout between, one number out. The last layer is its last."""
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 1))


class Net(nn.Module):
    """What both have: a logit in the sample, and from it a probability in the world."""

    def __init__(self) -> None:
        super().__init__()
        self.shift: torch.Tensor
        self.slope: torch.Tensor
        self.offset: torch.Tensor
        self.register_buffer("shift", torch.zeros(()))
        self.register_buffer("slope", torch.ones(()))
        self.register_buffer("offset", torch.zeros(()))

    @abstractmethod
    def logit(self, *given: torch.Tensor) -> torch.Tensor:
        """Raw inputs to (n, 1), as in the sample it learnt from."""

    def world(self, logit: torch.Tensor) -> torch.Tensor:
        """(n, 1) logits in the sample to calibrated ones in the world."""
        return (logit - self.shift) * self.slope + self.offset


class Served(nn.Module):
    """A net as it is exported: what takes its logit to the world is in its last layer.

    At one row a graph's time is that of its steps, whatever their size: three of 25 were a tenth.
    """

    def __init__(self, net: Student | Teacher) -> None:
        """net: stays as it is."""
        super().__init__()
        self.net = copy.deepcopy(net)
        inputs, first, last = self.net.inputs, self.net.body[0], self.net.body[-1]
        if not isinstance(inputs, Inputs):
            raise AssertionError("a net is served once")  # noqa: TRY004
        if not (isinstance(first, nn.Linear) and isinstance(last, nn.Linear)):
            raise AssertionError("a net begins and ends in other layers than linear ones")  # noqa: TRY004
        self.net.inputs, self.net.body[0] = inputs.folded(first)
        with torch.no_grad():
            last.weight.copy_(last.weight * net.slope)
            last.bias.copy_(net.world(last.bias))

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        """Raw inputs to (n, 1) probabilities."""
        return torch.sigmoid(self.net.logit(*given))


class Student(Net):
    """An MLP on the features: what decides."""

    def __init__(self, inputs: Inputs, hidden: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.inputs: Inputs | Bins = inputs
        self.body = mlp([inputs.width, *hidden], dropout)

    def logit(self, *given: torch.Tensor) -> torch.Tensor:
        """(n, f) raw features."""
        out: torch.Tensor = self.body(self.inputs(given[0]))
        return out


class Steps(nn.Module):
    """(n, t, k) of a card's past, raw, to (n, t, k + 1): sizes as logarithms, and what each amount
    is beside that of the row itself, which is the last step."""

    def forward(self, past: torch.Tensor) -> torch.Tensor:
        """See the class."""
        present = past[..., :1]
        sizes = signed_log(past[..., 1:3])
        ratio = (sizes[..., :1] - sizes[:, -1:, :1]) * present
        return torch.cat([present, sizes * 0.1, past[..., 3:], ratio], dim=-1)


class Gru(nn.Module):
    """A gated recurrent unit over the steps; its last state."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.steps = Steps()
        self.unit = nn.GRU(len(STEP) + 1, width, batch_first=True)

    def forward(self, past: torch.Tensor) -> torch.Tensor:
        """(n, t, k) to (n, width)."""
        out, _ = self.unit(self.steps(past))
        last: torch.Tensor = out[:, -1]
        return last


class Transformer(nn.Module):
    """One block of attention over the steps, as the row itself sees them."""

    def __init__(self, width: int, length: int) -> None:
        """width: a multiple of HEADS."""
        super().__init__()
        self.steps = Steps()
        self.width = width
        self.embed = nn.Linear(len(STEP) + 1, width)
        self.position = nn.Parameter(torch.randn(length, width) * 0.02)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.mixed = nn.Linear(width, width)
        self.before = nn.LayerNorm(width)
        self.after = nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, past: torch.Tensor) -> torch.Tensor:
        """(n, t, k) to (n, width). Only the last step asks: nobody reads what others would see."""
        x = self.embed(self.steps(past)) + self.position
        seen = self.before(x)
        size = self.width // HEADS
        query = self.query(seen[:, -1]).unflatten(1, (HEADS, 1, size))
        key = self.key(seen).unflatten(2, (HEADS, size)).permute(0, 2, 3, 1)
        value = self.value(seen).unflatten(2, (HEADS, size)).permute(0, 2, 1, 3)
        weight = query @ key / math.sqrt(size)
        absent = past[..., 0] < 0.5
        weight = torch.softmax(weight - absent[:, None, None, :] * 1e4, dim=-1)
        found = x[:, -1] + self.mixed((weight @ value).flatten(1))
        out: torch.Tensor = found + self.feed(self.after(found))
        return out


class Teacher(Net):
    """An MLP on the features and on what an encoder makes of the card's past."""

    def __init__(
        self,
        inputs: Inputs,
        kind: TeacherKind,
        *,
        width: int,
        hidden: Sequence[int],
        dropout: float,
        length: int,
    ) -> None:
        super().__init__()
        self.inputs: Inputs | Bins = inputs
        self.encoder: nn.Module = Gru(width) if kind == "gru" else Transformer(width, length)
        self.body = mlp([inputs.width + width, *hidden], dropout)

    def logit(self, *given: torch.Tensor) -> torch.Tensor:
        """(n, f) and (n, t, k) raw."""
        features, past = given
        both = torch.cat([self.inputs(features), self.encoder(past)], dim=1)
        out: torch.Tensor = self.body(both)
        return out
