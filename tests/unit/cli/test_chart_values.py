"""README and schema of the chart, from values.yaml and its comments."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from sluice.cli import chart_values
from sluice.cli.chart_values import CHART, OF_THE_CHART, entries, service_settings
from sluice.settings import Settings
from tests.support.helm import ROOT

TEXT = """\
# ## First

# A remark that is about no key.

# -- What it is,
# on two lines.
# @schema {enum: [a, b]}
mode: a
part:
  # -- How many.
  # @schema {minimum: 1, maximum: 3}
  number: 2
  # @schema {open: true}
  free:
    deep: {er: 1}
  flow: {x: 1}
"""


def test_a_comment_belongs_to_the_key_below_it() -> None:
    found = {entry.path: entry for entry in entries(TEXT)}
    assert list(found) == ["mode", "part", "part.number", "part.free", "part.flow"]
    mode = found["mode"]
    assert (mode.section, mode.says, mode.default) == ("First", "What it is, on two lines.", "a")
    assert mode.given == {"enum": ["a", "b"]}
    assert found["part.free"].default == {"deep": {"er": 1}}


def objects(schema: dict[str, Any], path: str = "") -> Any:
    if schema.get("type") == "object":
        yield path, schema
    for key, one in schema.get("properties", {}).items():
        yield from objects(one, f"{path}.{key}".lstrip("."))


@pytest.fixture
def schema(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(ROOT)
    made: dict[str, Any] = json.loads(chart_values.schema())
    return made


def test_the_schema_is_closed_but_where_a_value_says_that_it_is_open(
    schema: dict[str, Any],
) -> None:
    opened = {path for path, one in objects(schema) if one.get("additionalProperties") is not False}
    said = {
        e.path for e in entries((ROOT / CHART / "values.yaml").read_text()) if "open" in e.given
    }
    assert opened == said | {"global", "settings.decider.grammars"}


def test_every_default_has_the_type_that_the_schema_says(schema: dict[str, Any]) -> None:
    """And every key is in it: a value without a line of its own could not be given."""

    def compare(values: dict[str, Any], closed: dict[str, Any], path: str) -> None:
        for key, value in values.items():
            one = closed["properties"][key]
            kind = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer"}
            assert one["type"] == kind[type(value)], f"{path}.{key}"
            if isinstance(value, dict) and "properties" in one:
                compare(value, one, f"{path}.{key}")

    compare(yaml.safe_load((ROOT / CHART / "values.yaml").read_text()), schema, "")


def test_every_value_says_what_it_does() -> None:
    text = (ROOT / CHART / "values.yaml").read_text()
    assert [e.path for e in entries(text) if e.leaf and not e.says] == []


def test_every_setting_is_the_charts_or_can_be_given() -> None:
    given = service_settings()["properties"]
    for section in Settings.__struct_fields__:
        keys = set(getattr(Settings(), section).__struct_fields__)
        can_be = set(given.get(section, {"properties": {}})["properties"])
        of_the_chart = OF_THE_CHART.get(section, frozenset())
        assert of_the_chart <= keys, "a setting that is gone"
        assert can_be | of_the_chart == keys
        assert not can_be & of_the_chart
