"""``feast ui`` starts, and its registry endpoints tell what everything is."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from sluice.domain.features import catalogue
from sluice.domain.features.catalogue import Feature
from tests.integration.feast.conftest import Applied

pytestmark = [pytest.mark.integration, pytest.mark.slow]

CAMEL = {
    "entities": "entities",
    "feature_views": "featureViews",
    "feature_services": "featureServices",
}


@pytest.fixture(scope="module")
def ui(applied: Applied) -> Iterator[str]:
    with applied.serving("ui", "/") as url:
        yield url


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.load(answer)


def reported(feature: Feature) -> dict[str, str]:
    return {
        "description": feature.description,
        "unit": feature.unit,
        "window": feature.window or "none",
        "default": str(feature.default),
    }


def test_the_front_page_is_served(ui: str):
    with urllib.request.urlopen(f"{ui}/", timeout=60) as answer:
        assert "<title>Feast" in answer.read().decode()


def test_every_feature_is_listed_with_description_unit_window_and_default(ui: str):
    view = get(f"{ui}/api/v1/feature_views/decision_features?project=sluice")
    fields = {
        field["name"]: {"description": field["description"]}
        | {key: field["tags"][key] for key in ("unit", "window", "default")}
        for field in view["spec"]["features"]
    }
    assert fields == {f.name: reported(f) for f in catalogue.FEATURES}


def test_the_on_demand_view_tells_the_same_in_its_tags(ui: str):
    view = get(f"{ui}/api/v1/feature_views/authorization_features?project=sluice")
    for feature in catalogue.FEATURES:
        said = view["spec"]["tags"][feature.name]
        assert said.startswith(feature.unit)
        assert said.endswith(feature.description)


@pytest.mark.parametrize("what", CAMEL)
def test_whatever_is_listed_has_a_description_and_an_owner(ui: str, what: str):
    listed = get(f"{ui}/api/v1/{what}?project=sluice")
    specs = [thing.get("spec", thing) for thing in listed[CAMEL[what]]]
    ours = [spec for spec in specs if not spec["name"].startswith("__")]  # Feast's own dummy
    assert ours
    for spec in ours:
        assert spec["description"], spec
        assert spec["owner"], spec
