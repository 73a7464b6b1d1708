"""The table of features holds together, and the kernel runs it as written."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from sluice.domain import compiled
from sluice.domain.features import catalogue
from sluice.domain.features.catalogue import (
    COPY,
    FEATURES,
    INDEX,
    NAMES,
    REGISTERS,
    WINDOWS,
    N,
    plan,
)
from sluice.domain.features.events import WIDTH
from sluice.domain.features.kernel import Kernel


def test_names_are_unique_lower_case_and_say_their_unit_last() -> None:
    suffix = {"minor": "_minor", "s": "_s", "milli": "_milli", "km/h": "_kmh"}
    assert len(set(NAMES)) == N == 143
    for feature in FEATURES:
        assert re.fullmatch(r"[a-z0-9_]+", feature.name)
        if feature.unit in suffix:
            assert feature.name.endswith(suffix[feature.unit])
        if feature.unit == "ppm":
            assert "_ppm" in feature.name


def test_the_registers_of_a_feature_belong_to_its_entity_or_to_the_authorization() -> None:
    for feature in FEATURES:
        allowed = {"now"} if feature.entity == "context" else {feature.entity, "now"}
        owners = {name.split(".")[0] for name in (feature.a, feature.b) if name}
        assert owners <= allowed
        assert {feature.a, feature.b} - {""} <= REGISTERS.keys()


def test_a_window_is_named_in_the_feature_and_known() -> None:
    for feature in FEATURES:
        if feature.window:
            assert feature.window in WINDOWS
            assert f"_{feature.window}" in feature.name


def test_the_plan_is_one_row_a_feature_in_the_same_order() -> None:
    rows = plan()
    assert rows.shape == (N, 4)
    for feature, (operation, a, b, _) in zip(FEATURES, rows.tolist(), strict=True):
        assert operation == feature.operation
        assert a == REGISTERS[feature.a]
        assert operation == COPY or b == REGISTERS[feature.b]


def test_the_default_is_what_is_served_of_an_entity_never_seen() -> None:
    event = np.zeros((1, WIDTH), np.int64)
    event[0, :3] = 1_700_000_000_000_000, 5, 4321
    served = Kernel().finalise(event, [[None] * 4], [[]]).features[0]
    for feature in FEATURES:
        if feature.entity != "context" and not feature.window:
            expected = 0 if feature.name == "card_first_device" else feature.default
            assert served[INDEX[feature.name]] == expected, feature.name


def test_the_digest_changes_with_the_meaning_of_a_name() -> None:
    assert re.fullmatch(r"[0-9a-f]{16}", catalogue.DIGEST)
    assert len({feature.definition for feature in FEATURES}) == N


def test_a_definition_holds_all_that_the_table_says_and_a_meaning_what_the_kernel_does() -> None:
    feature = FEATURES[INDEX["card_small_count_1h"]]
    assert feature.definition == "card_small_count_1h|card|copy card.small.1h|1h|count|0"
    assert feature.meaning == "card.small.1h version 1 window_s 3600 small_minor 300"
    ratio = FEATURES[INDEX["card_ecom_share_1d_milli"]]
    assert ratio.definition.split("|")[2] == "milli card.ecom.1d card.count.1d"
    assert ratio.meaning.count("version") == 2


def test_risk_classes_are_of_four_digit_codes() -> None:
    assert all(0 < mcc < 10_000 and 1 <= c <= 3 for mcc, c in catalogue.MCC_RISK.items())


def test_all_that_ends_up_in_machine_code_is_in_the_digest_of_its_cache() -> None:
    domain = Path(compiled.__file__).parent
    sources = {p.relative_to(domain).with_suffix("").as_posix(): p for p in domain.rglob("*.py")}
    using = {
        name
        for name, p in sources.items()
        if re.search(r"^@(part|entry)$", p.read_text(), re.MULTILINE)
    }
    using -= {"policy/rules"}  # calls nothing outside of its file, see test_compiled.py
    python_tables = {"features/events"}  # what it imports is looked up before machine code runs
    imported = {
        name.replace(".", "/")
        for source in using - python_tables
        for name in re.findall(r"from sluice\.domain\.([\w.]+) import", sources[source].read_text())
    }
    types_only = {"records/observation", "features"}
    assert (using | imported) - types_only == set(compiled.SOURCES)


@pytest.mark.parametrize("feature", FEATURES, ids=lambda f: f.name)
def test_a_description_is_a_phrase(feature: catalogue.Feature) -> None:
    assert feature.description[0].isupper() or feature.description[0].isdigit()
    assert not feature.description.endswith(".")
