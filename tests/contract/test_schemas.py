"""The golden schemas say what the records are, and old records stay readable."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from sluice.audit.entries import parse_header
from sluice.cli.contracts import CLOSED, SCHEMAS, schema
from sluice.domain.records.authorization import encode
from sluice.domain.records.log_record import TYPES, read

CONTRACTS = Path(__file__).parents[2] / "contracts"


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_what_the_record_makes_of_itself(name):
    assert (CONTRACTS / f"{name}.schema.json").read_text() == schema(name)


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_an_entrypoint_takes_is_closed_and_what_we_write_says_that_it_may_grow(name):
    made = msgspec.json.decode(schema(name))
    objects = [part for part in made["$defs"].values() if part.get("type") == "object"]
    assert objects
    assert all(part["additionalProperties"] is (name not in CLOSED) for part in objects)
    assert made["description"].startswith("Closed" if name in CLOSED else "May gain")


def test_only_what_an_entrypoint_takes_and_the_compliance_log_are_closed():
    assert list(CLOSED) == ["authorizations.v1", "reports.v1", "log-records.v1"]


def test_what_an_entrypoint_takes_has_the_fields_of_what_the_record_holds():
    taken = msgspec.json.decode(schema("authorizations.v1"))["$defs"]["Authorization"]
    held = msgspec.json.decode(schema("decisions.v1"))["$defs"]["Authorization"]
    assert taken | {"additionalProperties": True} == held


def test_each_type_of_the_compliance_logs_records_has_an_example_in_its_one_form():
    lines = (CONTRACTS / "examples/log-records.v1.jsonl").read_bytes().splitlines()
    assert {read(line).type for line in lines} == set(TYPES)
    assert all(parse_header(line) for line in lines)


def test_no_schema_knows_a_float():
    def kinds(part: Any) -> set[str]:
        if isinstance(part, dict):
            own = {part["type"]} if isinstance(part.get("type"), str) else set()
            return own.union(*map(kinds, part.values()))
        return set().union(*map(kinds, part)) if isinstance(part, list) else set()

    assert all("number" not in kinds(msgspec.json.decode(schema(name))) for name in SCHEMAS)


@pytest.mark.parametrize("name", SCHEMAS)
def test_records_written_by_earlier_releases_decode_to_what_they_said(name):
    lines = (CONTRACTS / "examples" / f"{name}.jsonl").read_bytes().splitlines()
    assert lines
    kind = SCHEMAS[name]
    for line in lines:
        said = msgspec.json.decode(line)
        record = msgspec.json.decode(line, type=kind)
        again = encode(record)
        assert msgspec.json.decode(again, type=kind) == record
        read = msgspec.json.decode(again)
        assert {key: as_said(read.get(key), said[key]) for key in said} == said


def as_said(read: Any, said: Any) -> Any:
    """What was written again, with null where null was said: absent and null mean the same."""
    if not isinstance(said, dict):
        return read
    assert all(said[key] is None for key in said.keys() - read.keys())
    return dict.fromkeys(said) | read
