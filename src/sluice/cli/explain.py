"""Show one decision: what was asked, answered and why; features, score, policy, state versions.

sluice explain --archive var/demo/archive 01a19468-8b14-70ac-bb1a-65a1d2a60243
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from sluice.adapters.parquet.archive import Archive, Archived
from sluice.domain.clock import to_datetime
from sluice.domain.features import catalogue
from sluice.domain.features.catalogue import NEVER_S, Feature
from sluice.domain.features.states import BACKFILL, DECISIONS, LABELS, PARTITIONS_MAX
from sluice.domain.policy.reasons import BY_CODE
from sluice.domain.records.money import Money
from sluice.settings import load

_SOURCES = {DECISIONS: "decisions.v1", LABELS: "labels.v1", BACKFILL: "backfill"}
_ORDER = ("context", *catalogue.VIEWS)
_IN_WORDS = {
    "v", "authorization_id", "event_at", "amount_minor", "currency", "card_token", "card_country",
    "merchant_id", "merchant_country", "mcc", "terminal_id", "channel", "three_ds", "device_id",
}  # fmt: skip
"""Of an authorization, in the page's first rows; every other field gets a row of its own."""
_UNITS = {"milli": (1000, ""), "ppm": (10_000, " %")}
"""Divisor and sign of the units that read better as a fraction."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("authorization_id")
    parser.add_argument("--archive", type=Path, help="folder (default: setting archiver.root)")
    parser.add_argument("--all", action="store_true", help="features that are 0 or never, too")
    parser.add_argument("--json", action="store_true", help="the record as it was written")


def run(args: argparse.Namespace) -> int:
    """Returns 0, or 1 if the archive holds no such decision."""
    root = args.archive or Path(load()[0].archiver.root)
    found = Archive(root).find(args.authorization_id)
    if found is None:
        print(
            f"sluice explain: no decision of {args.authorization_id} in {root}; "
            "the archiver writes with a delay of up to archiver.roll_s",
            file=sys.stderr,
        )
        return 1
    if args.json:
        print(msgspec.json.format(found.record, indent=2).decode())
    else:
        print("\n".join(_page(found, everything=args.all)))
    return 0


def _page(found: Archived, *, everything: bool) -> list[str]:
    d = found.decision
    auth = d.authorization
    asked = [
        ("authorization", auth.authorization_id),
        ("at", to_datetime(auth.event_at).isoformat(timespec="milliseconds")),
        ("amount", f"{Money(auth.amount_minor, auth.currency)}{_in_reference(found)}"),
        ("card", f"{auth.card_token} of {auth.card_country}"),
        ("merchant", f"{auth.merchant_id} in {auth.merchant_country}, mcc {auth.mcc}"),
        ("terminal", auth.terminal_id),
        (
            "channel",
            " ".join(filter(None, [auth.channel, auth.three_ds and f"3DS {auth.three_ds}"])),
        ),
        ("device", auth.device_id or "none"),
        *_others(found.record),
    ]
    answered = [
        ("outcome", d.outcome.upper()),
        ("score", "none" if d.score_ppm is None else f"{d.score_ppm / 10_000:.4f} % fraud"),
        (
            "degradation_level",
            d.degradation_level + (f", without {', '.join(d.degraded)}" if d.degraded else ""),
        ),
        ("release", d.release or "none"),
        ("policy", d.policy),
        ("entrypoint", d.entrypoint + (f", from {d.origin}" if d.origin else "")),
        ("decided", f"{(d.decided_at - d.received_at) / 1000:.1f} ms after receipt"),
        ("recorded", f"decisions.v1/{found.partition}@{found.offset}"),
        ("emitter", f"{d.emitter}, number {d.sequence}"),
    ]
    page = [*_rows(asked), "", *_rows(answered), "", "reasons"]
    page += [
        f"  {code:<24} {BY_CODE[code].sentence if code in BY_CODE else ''}" for code in d.reasons
    ] or ["  none"]
    page += ["", "states served, by the last record applied"]
    for entity in catalogue.VIEWS:
        versions = getattr(d.states, entity)
        page.append(f"  {entity:<10} {_versions(versions)}")
    if d.pending:
        page.append(f"  and {len(d.pending)} authorizations of the card not yet in its state:")
        page += [f"    {p.authorization_id}" for p in d.pending]
    page += ["", f"features (catalogue {d.catalogue})"]
    if d.catalogue != catalogue.DIGEST:
        return [*page, "  named by another catalogue than this build's; see --json"]
    shown = [e for e in _ORDER if everything or e != "device" or auth.device_id is not None]
    return page + _features(d.features, shown, everything)


def _others(record: bytes) -> list[tuple[str, str]]:
    """Fields of the authorization that the page does not put into words: all that were sent.

    From the record, so that a field that only a newer release knows is shown too.
    """
    said = msgspec.json.decode(record)["authorization"]
    return [
        (name, str(value))
        for name, value in said.items()
        if name not in _IN_WORDS and value is not None
    ]


def _in_reference(found: Archived) -> str:
    d = found.decision
    if d.authorization.currency == d.reference_currency:
        return ""
    return f" = {Money(d.reference_amount_minor, d.reference_currency)}"


def _rows(pairs: Sequence[tuple[str, str]]) -> list[str]:
    return [f"{name:<14} {value}" for name, value in pairs]


def _versions(versions: Sequence[tuple[int, int]] | None) -> str:
    if versions is None:
        return "missing"
    if not versions:
        return "never written"
    return "  ".join(
        f"{_SOURCES.get(source // PARTITIONS_MAX, '?')}/{source % PARTITIONS_MAX}@{offset}"
        for source, offset in versions
    )


def _features(values: Sequence[int], entities: Sequence[str], everything: bool) -> list[str]:
    lines: list[str] = []
    group = ""
    rows = [
        row for row in zip(catalogue.FEATURES, values, strict=True) if row[0].entity in entities
    ]
    rows.sort(key=lambda row: entities.index(row[0].entity))
    for feature, value in rows:
        if not everything and (value == 0 or (feature.unit == "s" and value >= NEVER_S)):
            continue
        if feature.entity != group:
            group = feature.entity
            lines.append(f"  {group}")
        lines.append(f"    {feature.name:<34} {_value(feature, value):>16}   {feature.description}")
    return lines


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
