"""The golden schemas say what the records are, and old records stay readable."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from sluice.cli.contracts import RECORDS, schema
from sluice.domain.records.authorization import encode

CONTRACTS = Path(__file__).parents[2] / "contracts"


@pytest.mark.parametrize("name", RECORDS)
def test_a_schema_is_what_the_record_makes_of_itself(name):
    assert (CONTRACTS / f"{name}.schema.json").read_text() == schema(name)


@pytest.mark.parametrize("name", RECORDS)
def test_every_object_of_a_schema_is_closed(name):
    definitions = msgspec.json.decode(schema(name))["$defs"]
    objects = [part for part in definitions.values() if part.get("type") == "object"]
    assert objects
    assert all(part["additionalProperties"] is False for part in objects)


def test_no_schema_knows_a_float():
    def kinds(part: Any) -> set[str]:
        if isinstance(part, dict):
            own = {part["type"]} if isinstance(part.get("type"), str) else set()
            return own.union(*map(kinds, part.values()))
        return set().union(*map(kinds, part)) if isinstance(part, list) else set()

    assert all("number" not in kinds(msgspec.json.decode(schema(name))) for name in RECORDS)


@pytest.mark.parametrize("name", RECORDS)
def test_records_written_by_earlier_releases_decode_to_what_they_said(name):
    lines = (CONTRACTS / "examples" / f"{name}.jsonl").read_bytes().splitlines()
    assert lines
    for line in lines:
        said = msgspec.json.decode(line)
        read = msgspec.json.decode(encode(msgspec.json.decode(line, type=RECORDS[name])))
        assert {key: read[key] for key in said} == said
