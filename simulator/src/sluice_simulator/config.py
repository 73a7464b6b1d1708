"""The closed configuration of a world, read from YAML. Its digest travels with the output."""

from __future__ import annotations

import hashlib
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sluice.errors import Misconfigured
from sluice.yaml_files import decode
from sluice_simulator.geography import REGIONS

Kind = Literal[
    "card_testing",
    "account_takeover",
    "compromised_terminal",
    "lost_stolen",
    "stolen_card_data",
    "merchant_collusion",
    "new_account",
    "impossible_travel",
    "low_and_slow",
]
"""Of fraud. The order is their number in rows.KINDS."""
Region = Literal["eea", "uk", "us", "latam", "apac", "gulf"]
Share = Annotated[float, Meta(ge=0, le=1)]
Weight = Annotated[float, Meta(ge=0, le=1000)]


class Delay(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When fraud becomes known: shares of four ways, which sum to 1.

    hours: the cardholder answers an alert. days: the network or merchant disputes after 3-7 d.
    weeks: a chargeback, lognormal with median 30 d (sigma 0.6), at most 120 d. never: the rest.
    """

    hours: Share
    days: Share
    weeks: Share
    never: Share

    def __post_init__(self) -> None:
        total = self.hours + self.days + self.weeks + self.never
        if abs(total - 1) > 1e-9:
            raise ValueError(f"hours, days, weeks and never sum to {total:g}, not to 1")


class Drift(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """From a date on, a kind of campaign has another weight. Weights are not rescaled: a step
    from 15 to 30 doubles that kind's fraud and leaves the others alone."""

    since: date
    kind: Kind
    weight: Weight


_REGIONS: dict[Region, float] = {
    "eea": 45,
    "uk": 15,
    "us": 15,
    "latam": 10,
    "apac": 10,
    "gulf": 5,
}
_CAMPAIGNS: dict[Kind, float] = {
    "card_testing": 15,
    "account_takeover": 20,
    "compromised_terminal": 20,
    "lost_stolen": 10,
    "stolen_card_data": 25,
    "merchant_collusion": 3,
    "new_account": 4,
    "impossible_travel": 3,
}


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that makes a world, but its seed."""

    cards: Annotated[int, Meta(ge=100, le=20_000_000)] = 10_000
    per_card_day: Annotated[float, Meta(gt=0, le=20)] = 1.2
    """Mean genuine authorizations of a card a day; cards vary from 0.05 to 6 around it."""
    fraud_bp: Annotated[float, Meta(ge=0, le=2000)] = 20.0
    """Fraudulent authorizations in 10,000."""
    tenant: Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,32}$")] = "bank"
    regions: dict[Region, Weight] = msgspec.field(default_factory=_REGIONS.copy)
    """Shares of the cards by home; a region left out has none."""
    campaigns: dict[Kind, Weight] = msgspec.field(default_factory=_CAMPAIGNS.copy)
    """Shares of fraud by count before any drift; a kind left out does not happen."""
    drift: list[Drift] = []
    false_claims: Share = 0.05
    """Chargebacks of genuine authorizations, for each fraudulent authorization."""
    card_churn_month: Share = 0.015
    merchant_churn_month: Share = 0.01
    present_delay: Delay = Delay(hours=0.45, days=0.25, weeks=0.27, never=0.03)
    """For pos, contactless and atm."""
    remote_delay: Delay = Delay(hours=0.30, days=0.20, weeks=0.45, never=0.05)
    """For ecom and moto."""

    def __post_init__(self) -> None:
        if not sum(self.regions.values()):
            raise ValueError("regions: every weight is 0, so no card has a home")
        if self.fraud_bp and not sum(self.campaigns.values()):
            raise ValueError("campaigns: every weight is 0 but fraud_bp is not")

    def digest(self) -> str:
        """SHA-256 of the canonical JSON of every setting, defaults included."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()


assert set(REGIONS) == set(Region.__args__)  # type: ignore[attr-defined]


def load(path: Path | None, **overrides: object) -> Config:
    """Read a configuration; overrides that are not None go over the file.

    Raises Misconfigured that names the file and the key.
    """
    values: object = {}
    where = str(path) if path else "the command line"
    if path:
        try:
            raw = path.read_bytes()
        except OSError as exc:
            raise Misconfigured(f"cannot read it: {exc.strerror}", where=where) from exc
        values = decode(raw, where) or {}
    given = {name: value for name, value in overrides.items() if value is not None}
    if isinstance(values, dict):
        values = {**values, **given}
    try:
        return msgspec.convert(values, Config, strict=False)
    except msgspec.ValidationError as exc:
        raise Misconfigured(
            str(exc), where=where, fix="docs/reference/simulator.md lists every key"
        ) from exc
