"""The compiled plan as a document: the contract between a feature service and who reads the store.

Compiled from Feast's registry (``sluice features compile``) and from this build, it must be the
same. No release holds it: a model knows its features, not where a store keeps them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import msgspec

from sluice.adapters.layout import COMPILED, FEATURES, JOIN_KEYS, PROJECT
from sluice.domain.features import catalogue

KEY_SERIALIZATION = 3
"""Feast's entity_key_serialization_version."""


class ViewPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where one view's value lies in its entity's hash.

    field, ts_field: hash fields of value and event time, in hex. ttl_s: 0 is for ever.
    """

    view: str
    entity: str
    join_key: str
    join_type: str
    feature: str
    dtype: str
    field: str
    ts_field: str
    ttl_s: int


class FeaturePlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a column of the model is: its name and what it is where nothing is known."""

    name: str
    dtype: str
    default: int


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything a reader of a feature service needs. features: in the model's order."""

    v: Literal[1] = 1
    project: str
    key_serialization: int
    catalogue: str
    views: list[ViewPlan]
    features: list[FeaturePlan]

    @property
    def digest(self) -> str:
        """SHA-256 of the encoding: declared field order, no white space."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()

    def document(self) -> bytes:
        """JSON for people and other programs, digest included."""
        fields = {"digest": self.digest, **msgspec.to_builtins(self)}
        return msgspec.json.format(msgspec.json.encode(fields), indent=1) + b"\n"


def feature_plans(names: Sequence[str]) -> list[FeaturePlan]:
    """Catalogue features, in this order. Raises KeyError for one that the catalogue lacks."""
    chosen = [catalogue.FEATURES[catalogue.INDEX[name]] for name in names]
    return [FeaturePlan(name=f.name, dtype="INT64", default=f.default) for f in chosen]


def plan_of(names: Sequence[str]) -> Plan:
    """What this build reads to serve the named features."""
    return Plan(
        project=PROJECT,
        key_serialization=KEY_SERIALIZATION,
        catalogue=catalogue.DIGEST,
        views=[
            ViewPlan(
                view=view.name,
                entity=kind,
                join_key=JOIN_KEYS[kind],
                join_type="STRING",
                feature=FEATURES[kind],
                dtype="BYTES",
                field=view.field.hex(),
                ts_field=view.ts_field.hex(),
                ttl_s=0,
            )
            for kind, view in COMPILED.items()
        ],
        features=feature_plans(names),
    )
