"""What is trained on what, and what was found: said before, and written on the card after."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date

from sluice.domain.policy.economics import Worth
from sluice.domain.records.entity import EntityKind
from sluice.domain.release import Step
from sluice.errors import Misconfigured

from sluice_models import dataset
from sluice_models.families import FAMILIES, Family

Figures = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class TrainingPlan:
    """Days count from ``start``. Rows before ``train_until`` are learnt from, with the reports
    known on the day of training; ``tuned_on`` sets thresholds; the weeks after that judge."""

    start: date = date(2026, 3, 1)
    cards: int = 10_000
    fraud_bp: float = 20.0
    train_until: int = 105
    trained_on: int = 119
    tuned_on: int = 119
    weeks: tuple[int, ...] = (126, 133, 140)
    train_worlds: tuple[int, ...] = (11, 12, 13)
    new_worlds: tuple[int, ...] = (21, 22)
    families: tuple[Family, ...] = FAMILIES
    released: str = "mlp"

    @property
    def family(self) -> Family:
        """The one that ships. Raises Misconfigured for a name that is not among them."""
        for family in self.families:
            if family.name == self.released:
                return family
        known = ", ".join(family.name for family in self.families)
        raise Misconfigured(f"no family {self.released}", where="released", fix=f"one of {known}")

    @property
    def days(self) -> int:
        """How long each world lasts."""
        return max(self.weeks) + 7

    def at(self, number: int) -> int:
        """Microseconds at which a day begins."""
        return dataset.day(self.start, number)


@dataclass
class Findings:
    """What the card says. Figures are (mean, standard deviation) over windows (and seeds).

    figures: by family, then by windows (later, elsewhere, cold). missing: share of the average
    precision that is left without a view.
    """

    figures: dict[str, dict[str, Figures]]
    missing: dict[EntityKind, float]
    tolerates: list[EntityKind]
    thresholds: dict[Step, int] = field(default_factory=dict)
    policy: Worth | None = None
    policy_cold: Worth | None = None
    fallback: Worth | None = None
    rules: list[tuple[str, int, int]] = field(default_factory=list)
