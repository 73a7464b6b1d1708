"""One decision in words: what was asked, answered and why; features, states and their versions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import msgspec

from sluice.domain.clock import to_datetime
from sluice.domain.features import catalogue
from sluice.domain.features.catalogue import NEVER_S, Feature
from sluice.domain.features.states import BACKFILL, DECISIONS, LABELS, PARTITIONS_MAX
from sluice.domain.policy.reasons import BY_CODE
from sluice.domain.records.decision import Decision
from sluice.domain.records.label import Label
from sluice.domain.records.money import Money
from sluice.domain.records.standing import in_force

_SOURCES = {DECISIONS: "decisions.v1", LABELS: "labels.v1", BACKFILL: "backfill"}
_ORDER = ("context", *catalogue.VIEWS)
_UNITS = {"milli": (1000, ""), "ppm": (10_000, " %")}
"""Divisor and sign of the units that read better as a fraction."""


class ArchivedDecision(Protocol):
    """A decision and where it lay in ``decisions.v1``."""

    @property
    def partition(self) -> int:
        """Number of its partition."""
        ...

    @property
    def offset(self) -> int:
        """Its place there."""
        ...

    @property
    def record(self) -> bytes:
        """Its own bytes."""
        ...

    @property
    def superseded(self) -> bool:
        """An earlier record of its id counts."""
        ...

    @property
    def decision(self) -> Decision:
        """The record."""
        ...


class Row(NamedTuple):
    """A name and what there is to say."""

    name: str
    value: str


class FeatureRow(NamedTuple):
    """A feature as it was served, in words."""

    name: str
    value: str
    description: str


class Explanation(NamedTuple):
    """One decision, part by part."""

    asked: list[Row]
    answered: list[Row]
    records: list[Row]
    """Of its id, if there is more than one: whether each counts, and where and what it is."""
    labels: list[Row]
    """What became of it, in the order in which it was known; the one that counts is marked."""
    reasons: list[Row]
    """Codes, strongest first, and their sentences."""
    states: list[Row]
    """By view: the last record applied."""
    pending: list[str]
    """Authorizations of the card not yet in its state."""
    catalogue: str
    features: dict[str, list[FeatureRow]] | None
    """By entity; None if another catalogue than this library's named them."""


def explain(
    found: ArchivedDecision,
    *,
    everything: bool = False,
    of: Sequence[ArchivedDecision] = (),
    labels: Sequence[Label] = (),
) -> Explanation:
    """Put a decision into words. everything: features that are 0 or never, too. of: all records of
    its id. labels: what was reported of it, as it came."""
    d = found.decision
    return Explanation(
        asked=[*_asked(d), *_others(found.record)],
        answered=_answered(found),
        records=[_record(one) for one in of] if len(of) > 1 else [],
        labels=[_label(label, counts=counts) for label, counts in in_force(labels)],
        reasons=[Row(c, BY_CODE[c].sentence if c in BY_CODE else "") for c in d.reasons],
        states=[Row(view, _versions(getattr(d.states, view))) for view in catalogue.VIEWS],
        pending=[p.authorization_id for p in d.pending],
        catalogue=d.catalogue,
        features=feature_rows(
            d.features, device=d.authorization.device_id is not None, everything=everything
        )
        if d.catalogue == catalogue.DIGEST
        else None,
    )


def _asked(d: Decision) -> list[Row]:
    auth = d.authorization
    amount = f"{Money(auth.amount_minor, auth.currency)}"
    if auth.currency != d.reference_currency:
        amount += f" = {Money(d.reference_amount_minor, d.reference_currency)}"
    return [
        Row("authorization", auth.authorization_id),
        Row("at", to_datetime(auth.event_at).isoformat(timespec="milliseconds")),
        Row("amount", amount),
        Row("card", f"{auth.card_token} of {auth.card_country}"),
        Row("merchant", f"{auth.merchant_id} in {auth.merchant_country}, mcc {auth.mcc}"),
        Row("terminal", auth.terminal_id),
        Row(
            "channel",
            " ".join(filter(None, [auth.channel, auth.three_ds and f"3DS {auth.three_ds}"])),
        ),
        Row("device", auth.device_id or "none"),
    ]


_IN_WORDS = {
    "v", "authorization_id", "event_at", "amount_minor", "currency", "card_token", "card_country",
    "merchant_id", "merchant_country", "mcc", "terminal_id", "channel", "three_ds", "device_id",
}  # fmt: skip
"""Of an authorization, in the first rows; every other field gets a row of its own."""


def _others(record: bytes) -> list[Row]:
    """Fields of the authorization that are not put into words: all that were sent.

    From the record, so that a field that only a newer release knows is shown too.
    """
    said = msgspec.json.decode(record)["authorization"]
    return [
        Row(name, str(value))
        for name, value in said.items()
        if name not in _IN_WORDS and value is not None
    ]


def _answered(found: ArchivedDecision) -> list[Row]:
    d = found.decision
    return [
        Row("outcome", d.outcome.upper()),
        *_let_through(d),
        Row("score", "none" if d.score_ppm is None else f"{d.score_ppm / 10_000:.4f} % fraud"),
        Row(
            "degradation_level",
            d.degradation_level + (f", without {', '.join(d.degraded)}" if d.degraded else ""),
        ),
        Row("release", d.release or "none"),
        Row("policy", d.policy),
        Row("entrypoint", d.entrypoint + (f", from {d.origin}" if d.origin else "")),
        Row("decided", f"{(d.decided_at - d.received_at) / 1000:.1f} ms after receipt"),
        Row("recorded", f"decisions.v1/{found.partition}@{found.offset}"),
        Row("emitter", f"{d.emitter}, number {d.sequence}"),
    ]


def _record(one: ArchivedDecision) -> Row:
    d = one.decision
    return Row(
        "superseded" if one.superseded else "counts",
        f"decisions.v1/{one.partition}@{one.offset}  {d.outcome}, {d.degradation_level}, "
        f"{d.entrypoint}, {to_datetime(d.decided_at).isoformat(timespec='milliseconds')}, "
        f"tenant {d.authorization.tenant}",
    )


def _let_through(d: Decision) -> list[Row]:
    if d.let_through_ppm is None:
        return []
    if not d.let_through_ppm:
        return [Row("let_through", "drawn, but the day's budget was spent")]
    return [Row("let_through", f"instead of a decline, with {d.let_through_ppm / 10_000:g} %")]


def _label(label: Label, *, counts: bool) -> Row:
    said = [
        "fraud" if label.is_fraud else "genuine",
        f"{label.kind} of {label.source}",
        *([f"report {label.report_id}"] if label.report_id else []),
        *([f"reason {label.reason}"] if label.reason else []),
        f"known {to_datetime(label.known_at).isoformat(timespec='seconds')}",
        *([f"states: {label.uncounted}"] if label.uncounted else []),
    ]
    return Row("counts" if counts else "", ", ".join(said))


def _versions(versions: Sequence[tuple[int, int]] | None) -> str:
    if versions is None:
        return "missing"
    if not versions:
        return "never written"
    return "  ".join(
        f"{_SOURCES.get(source // PARTITIONS_MAX, '?')}/{source % PARTITIONS_MAX}@{offset}"
        for source, offset in versions
    )


def feature_rows(
    values: Sequence[int], *, device: bool, everything: bool = False
) -> dict[str, list[FeatureRow]]:
    """A vector of this build's catalogue in words, by entity: what is not 0 or never, or all.
    device: whether one was named."""
    found: dict[str, list[FeatureRow]] = {
        entity: [] for entity in _ORDER if everything or device or entity != "device"
    }
    for feature, value in zip(catalogue.FEATURES, values, strict=True):
        empty = value == 0 or (feature.unit == "s" and value >= NEVER_S)
        if feature.entity in found and (everything or not empty):
            row = FeatureRow(feature.name, _value(feature, value), feature.description)
            found[feature.entity].append(row)
    return {entity: rows for entity, rows in found.items() if rows}


def _value(feature: Feature, value: int) -> str:
    if feature.unit == "s":
        return "never" if value >= NEVER_S else _span(value)
    if feature.unit == "minor":
        return f"{value / 100:,.2f}"
    if feature.unit in _UNITS:
        divisor, sign = _UNITS[feature.unit]
        return f"{value / divisor:,.3f}{sign}"
    return f"{value:,}"


def _span(seconds: int) -> str:
    """12345 s as "3 h 25 min"."""
    for size, unit, lower_size, lower in (
        (86_400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if seconds >= size:
            return f"{seconds // size} {unit} {seconds % size // lower_size} {lower}"
    return f"{seconds} s"
