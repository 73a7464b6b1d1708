"""What a training set says of itself: ``manifest.json``, version 2, and the columns of its files.

The contract between who builds a set and who trains on it or judges by it. It says not when it was
built, so that a rebuild has the same bytes. See docs/reference/dataset.md.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from sluice.errors import Rejected
from sluice.shown import shown

MANIFEST = "manifest.json"
VERSION = 2
FIX = "sluice dataset build: docs/how-to/build-a-training-set.md"

TRAIN, VALIDATION, CALIBRATION, RECENT = "train", "validation", "calibration", "recent"
TEST = "test-"
"""Before the number of a test, from 1."""

MATURITIES = ("known", "not_yet", "never")
"""What is known of a row at its split's ``as_of``: a label; nothing, and it is too young to tell;
nothing, though it is old enough."""

WHO = ("authorization_id", "event_at", "card_token", "customer_id", "merchant_id", "terminal_id",
       "channel", "region", "mcc", "amount_minor")  # fmt: skip
"""First columns: the authorization, by names of its fields; amount_minor in the reference
currency. Then the features in order; one that is a column already is not written twice."""
TOLD = ("is_fraud", "known_at", "maturity", "weight", "reported_share", "label_kind",
        "label_source", "degradation_level")  # fmt: skip
"""Last columns: what is known of it at its split's ``as_of``, and how it was served."""


class SplitFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Rows with first <= event_at < until, what is told of them as known at as_of (ISO, UTC).

    labelled, not_yet: rows of that maturity; the others are ``never``. left_out_compromised,
    left_out_sampling: rows of the time that are in no file. files: SHA-256 by path in the folder.
    """

    name: str
    first: str
    until: str
    as_of: str
    rows: int
    frauds: int
    fraud_ppm: int
    labelled: int
    not_yet: int
    left_out_compromised: int
    left_out_sampling: int
    files: dict[str, str]


class LeakCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One question, and what was found; the set is not written if an answer is wrong."""

    check: str
    found: str


class Log(msgspec.Struct, frozen=True, kw_only=True):
    """What the feature log was like for the time of the set.

    served: rows that were decided live; backfilled: the rest. degraded: rows served with features
    missing (degradation levels D1 to D3). holes: decisions missing from their emitters' sequences,
    in the whole archive. unused: rows of the time that are in no split. labels_until: newest label
    of the archive (ISO), "" without one.
    """

    served: int
    backfilled: int
    degraded: int
    holes: int
    unused: int
    labels_after_as_of: int
    labels_astray: int
    labels_until: str


class Inputs(msgspec.Struct, frozen=True, kw_only=True):
    """What it was made from.

    files: SHA-256 of each file of the archive that holds a row or label of the time. code: of the
    library's sources. versions: of what writes the bytes.
    """

    files: dict[str, str]
    code: str
    versions: dict[str, str]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """``manifest.json`` of a training set.

    service: the feature service, "" for every feature of the catalogue that something bounds.
    features: in order, with what bounds the look-back of each. meanings: the catalogue's digest of
    each, {} in sets of before. known_after_s: labels were held back
    until their authorization was so old, None where each counts from its own known_at.
    mature_after_s: age from which a row without a label counts as ``never``. genuine_kept_ppm:
    share of the train split's rows without a fraud that is in the files.
    """

    v: Literal[2] = 2
    service: str
    catalogue: str
    features: dict[str, str]
    meanings: dict[str, str] = {}
    seed: int
    label_delay_s: int
    known_after_s: int | None
    mature_after_s: int
    look_back_s: int
    genuine_kept_ppm: int
    reference_currency: str
    splits: list[SplitFigures]
    leak_checks: list[LeakCheck]
    log: Log
    inputs: Inputs

    @property
    def tests(self) -> list[SplitFigures]:
        """The test splits, in order of time."""
        return [split for split in self.splits if split.name.startswith(TEST)]

    def split(self, name: str) -> SplitFigures:
        """A split by name. Raises Rejected for one that the set does not have."""
        for one in self.splits:
            if one.name == name:
                return one
        has = ", ".join(split.name for split in self.splits)
        raise Rejected(
            f"the training set has no split {shown(name)}",
            fix=f"it has {has}; {FIX}",
            code="no_split",
        )

    def columns(self) -> list[str]:
        """Names of the files' columns, in order."""
        return list(dict.fromkeys((*WHO, *self.features, *TOLD)))


def decode_manifest(raw: bytes, where: str) -> Manifest:
    """Read ``manifest.json``. Raises Rejected for what is none, or another version."""
    try:
        version = msgspec.json.decode(raw, type=_Versioned).v
        if version != VERSION:
            raise Rejected(
                f"a training set of version {version}, this library reads {VERSION}",
                where=where,
                fix=f"build it again; {FIX}",
                code="other_version",
            )
        return msgspec.json.decode(raw, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise Rejected(
            f"no manifest of a training set: {exc}", where=where, fix=FIX, code="bad_manifest"
        ) from None


class _Versioned(msgspec.Struct, frozen=True):
    v: int
