"""The families of models, each one class, registered in one table.

What trains, measures, exports, packs and writes the card goes through the table: another family is
its class here, or in a file of its own, and its entry. docs/how-to/train-a-release.md.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from sluice.errors import Misconfigured

from sluice_models.export import to_onnx
from sluice_models.models import Bools, Ints, Model, train_net, train_trees


class Family(ABC):
    """How one kind of model is trained, and how it becomes a graph that a decider runs."""

    name: ClassVar[str]
    """In the id of its releases."""
    short: ClassVar[str]
    """Over its column of a card."""
    kind: ClassVar[str]
    """In the manifest, and the first words of a card."""
    negatives: ClassVar[int]
    """Genuine rows that it learns from, for each fraud."""
    seeds: tuple[int, ...]
    """Measured with each; the first is the one that ships."""
    limits: ClassVar[tuple[str, ...]] = ()
    """Sentences of the card's known limits that are this family's own."""

    @abstractmethod
    def fit(
        self, names: Sequence[str], features: Ints, label: Bools, shift: float, *, seed: int
    ) -> Model:
        """Train on a sample of named columns (n, f). Same arguments, same bits.

        shift: what undersampling added to the logit, which the model takes off again.
        """

    def export(self, model: Any) -> bytes:
        """What ``fit`` gave, as ONNX, finished by :func:`sluice_models.export.finish`.

        One input, (n, f) floats, and one output, n probabilities, for any n. Raises Misconfigured
        for a family that is only measured beside the released one.
        """
        raise Misconfigured(
            f"{self.short} has no export to ONNX: it is a yardstick and cannot be released",
            where=f"{type(model).__name__}",
            fix=f"give {type(self).__name__} an export method, or release another family",
        )


@dataclass(frozen=True)
class Mlp(Family):
    """A small net in PyTorch, all its preprocessing inside the graph."""

    name = "mlp"
    short = "net"
    kind = "MLP 64-32 (PyTorch) over standardised signed logarithms"
    negatives = 30
    limits = ("A net this small ties LightGBM and does not beat it.",)

    seeds: tuple[int, ...] = (1, 2, 3)
    epochs: int = 12

    def fit(
        self, names: Sequence[str], features: Ints, label: Bools, shift: float, *, seed: int
    ) -> Model:
        """See Family."""
        return train_net(names, features, label, shift, seed=seed, epochs=self.epochs)

    def export(self, model: Any) -> bytes:
        """See Family."""
        return to_onnx(model, ())


@dataclass(frozen=True)
class LightGbm(Family):
    """Boosted trees: the yardstick."""

    name = "lightgbm"
    short = "LightGBM"
    kind = "LightGBM, 300 trees of 31 leaves"
    negatives = 10

    seeds: tuple[int, ...] = (1,)

    def fit(
        self, names: Sequence[str], features: Ints, label: Bools, shift: float, *, seed: int
    ) -> Model:
        """See Family."""
        return train_trees(names, features, label, shift, seed=seed)


FAMILIES: tuple[Family, ...] = (Mlp(), LightGbm())
"""All that are trained and reported, in the order in which they draw their samples: a new one goes
last, or the samples of the others change."""
