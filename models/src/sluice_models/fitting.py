"""Fits a net to a sample: batches, schedule, checkpoints, several processes.

On the CPU, by one thread and deterministic kernels: the same seed gives the same bits on the same
machine, whether or not the fit was ended and resumed between two epochs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from sluice_models import together
from sluice_models.nets import Net

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

BATCH = 512
PREDICT_ROWS = 16_384
TEMPERATURE = 4.0
"""Of soft targets: how much a student hears of what a teacher thinks of rows that it is sure of."""
SOFT = 0.9
"""Share of the loss that is the teacher's word; the rest is the label's, where there is one."""


@dataclass(frozen=True, slots=True)
class Targets:
    """What m rows should be scored as.

    label: (m,) 1.0 for fraud. hard: (m,) weight of the label in the loss, 0 without one. soft: (m,)
    the teacher's logit in the sample; None where there is no teacher. weight: (m,) of the row.
    """

    label: Floats
    hard: Floats
    weight: Floats
    soft: Floats | None = None


@dataclass(frozen=True, slots=True)
class Batches:
    """m rows: what a net is given of some of them."""

    features: Floats
    past: Callable[[npt.NDArray[np.int64]], Floats] | None = None

    def take(self, rows: npt.NDArray[np.int64], device: torch.device) -> tuple[torch.Tensor, ...]:
        """Arguments of the net's ``logit`` for some rows."""
        features = torch.from_numpy(self.features[rows]).to(device)
        if self.past is None:
            return (features,)
        return features, torch.from_numpy(self.past(rows)).to(device)


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the sample is done: number of how many, mean loss, seconds since the start."""

    done: int
    of: int
    loss: float
    seconds: float


def loss_of(logit: torch.Tensor, chosen: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean weighted loss of a batch: log-loss, or with a teacher mostly what it says, softened."""
    hard = functional.binary_cross_entropy_with_logits(logit, chosen["label"], reduction="none")
    hard = hard * chosen["hard"]
    if "soft" in chosen:
        softened = torch.sigmoid(chosen["soft"] / TEMPERATURE)
        soft = functional.binary_cross_entropy_with_logits(
            logit / TEMPERATURE, softened, reduction="none"
        )
        # Softened gradients are smaller by the square (Hinton, Vinyals, Dean 2015).
        hard = (1 - SOFT) * hard + SOFT * TEMPERATURE**2 * soft
    return (hard * chosen["weight"]).sum() / chosen["weight"].sum()


def prepare(seed: int) -> None:
    """One thread, deterministic kernels, a seed: before a net is made."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(not torch.cuda.is_available())


def fit(
    net: Net,
    batches: Batches,
    targets: Targets,
    *,
    seed: int,
    epochs: int,
    rate: float,
    decay: float,
    checkpoint: Path | None = None,
    alone: bool = False,
    after: Callable[[Epoch], None] = lambda epoch: None,
) -> None:
    """Train a net in place, and leave it on the CPU.

    checkpoint: written after each epoch, and gone on from. alone: in this process, whoever else
    there is. after: called at the end of each epoch; what it raises ends the fit.
    """
    began = time.monotonic()
    device = together.device()
    count, mine = (1, 0) if alone else (together.many(), together.number())
    told = {name: torch.from_numpy(column) for name, column in _columns(targets).items()}
    n = len(targets.label)
    size = min(BATCH * count, n)
    steps = max(n // size, 1)
    net.to(device).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate / 2, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * steps)
    first = _resume(checkpoint, net, optimizer, schedule)
    if not alone:
        together.level(net)
    for epoch in range(first, epochs):
        # By seed and epoch, not by what came before, so that a resumed fit draws the same.
        torch.manual_seed(seed * 1_000_003 + epoch * 101 + mine)
        order = np.random.default_rng([seed, epoch]).permutation(n)
        total = 0.0
        for step in range(steps):
            rows = order[step * size : (step + 1) * size][mine::count]
            at = torch.from_numpy(rows)
            chosen = {name: column[at][:, None].to(device) for name, column in told.items()}
            optimizer.zero_grad()
            loss = loss_of(net.logit(*batches.take(rows, device)), chosen)
            loss.backward()
            if not alone:
                together.average(net)
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        if checkpoint is not None and mine == 0:
            _save(checkpoint, net, optimizer, schedule, epoch + 1)
        after(Epoch(epoch + 1, epochs, total / steps, time.monotonic() - began))
    net.to("cpu").eval()


def _columns(targets: Targets) -> dict[str, Floats]:
    columns = {"label": targets.label, "hard": targets.hard, "weight": targets.weight}
    return columns if targets.soft is None else columns | {"soft": targets.soft}


def _save(path: Path, net: Net, optimizer: Any, schedule: Any, done: int) -> None:
    aside = path.with_name(f".{path.name}")
    state = {
        "net": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "done": done,
    }
    torch.save(state, aside)
    aside.replace(path)


def _resume(path: Path | None, net: Net, optimizer: Any, schedule: Any) -> int:
    """Epochs that are done already."""
    if path is None or not path.exists():
        return 0
    state = torch.load(path, map_location=together.device(), weights_only=True)
    net.load_state_dict(state["net"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    return int(state["done"])


def logits(net: Net, batches: Batches) -> Doubles:
    """(n,) calibrated logits in the world of all rows."""
    device = together.device()
    home, learning = next(net.parameters()).device, net.training
    net.to(device).eval()
    parts = [np.zeros(0, np.float64)]
    n = len(batches.features)
    with torch.no_grad():
        for i in range(0, n, PREDICT_ROWS):
            given = batches.take(np.arange(i, min(i + PREDICT_ROWS, n)), device)
            logit = net.world(net.logit(*given))[:, 0]
            parts.append(logit.cpu().numpy().astype(np.float64))
    net.to(home).train(learning)
    return np.concatenate(parts)


def parameters_of(net: Net) -> int:
    """Numbers that were learnt."""
    return sum(p.numel() for p in net.parameters())
