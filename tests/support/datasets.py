"""Manifests of training sets, for tests of who reads them."""

from __future__ import annotations

from typing import Any

from sluice.application.dataset_manifest import Inputs, Log, Manifest, SplitFigures
from sluice.domain.features import catalogue


def split_of(name: str, **given: Any) -> SplitFigures:
    """A split of one week with ten rows; what is given instead."""
    usual: dict[str, Any] = {
        "first": "2026-03-02T00:00:00Z",
        "until": "2026-03-09T00:00:00Z",
        "as_of": "2026-03-16T00:00:00Z",
        "rows": 10,
        "frauds": 1,
        "fraud_ppm": 100_000,
        "labelled": 1,
        "not_yet": 0,
        "left_out_compromised": 0,
        "left_out_sampling": 0,
        "files": {},
    }
    return SplitFigures(name=name, **(usual | given))


def manifest_of(**given: Any) -> Manifest:
    """A manifest of a set with one feature and one split; what is given instead."""
    usual: dict[str, Any] = {
        "service": "",
        "catalogue": catalogue.DIGEST,
        "features": {"hour_utc": "this authorization"},
        "seed": 1,
        "label_delay_s": 7 * 86_400,
        "known_after_s": None,
        "mature_after_s": 7 * 86_400,
        "look_back_s": 14 * 86_400,
        "genuine_kept_ppm": 1_000_000,
        "reference_currency": "EUR",
        "splits": [split_of("train")],
        "leak_checks": [],
        "log": Log(
            served=0,
            backfilled=10,
            degraded=0,
            holes=0,
            unused=0,
            labels_after_as_of=0,
            labels_astray=0,
            labels_until="2026-03-16T00:00:00Z",
        ),
        "inputs": Inputs(files={}, code="0" * 64, versions={}),
    }
    return Manifest(**(usual | given))
