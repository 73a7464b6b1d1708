"""Records of the compliance log: closed, of one form, one word a type."""

import msgspec
import pytest

from sluice.audit.entries import parse_header
from sluice.audit.errors import Malformed
from sluice.domain.records.log_record import (
    TYPES,
    AnyRecord,
    GapBody,
    GapRecord,
    HeartbeatBody,
    HeartbeatRecord,
    LogRecord,
    encode,
    read,
)


def heartbeat(**changed) -> HeartbeatRecord:
    said = {
        "log": "test/eu/0",
        "recorded_at": 1_780_056_000_000_000,
        "emitter": "auditor-0/1",
        "sequence": 3,
        "body": HeartbeatBody(size=12, taking=True),
    }
    return HeartbeatRecord(**said | changed)


def test_a_record_is_read_as_it_was_written():
    record = heartbeat()
    header = encode(record)
    assert header.startswith(b'{"type":"heartbeat","v":1,"log":"test/eu/0",')
    assert read(header) == record
    assert read(header).type == parse_header(header)["type"] == "heartbeat"


def test_each_type_that_the_issue_names_has_its_record():
    assert set(TYPES) == {
        "decision", "label", "override", "model", "policy", "threshold", "rollout", "access",
        "admin", "heartbeat", "time_sync", "gap", "duplicate", "dead_letter", "erasure", "hold",
        "key_rotation", "log_start", "log_stop",
    }  # fmt: skip
    assert all(issubclass(record, LogRecord) for record in TYPES.values())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"v":1,', b'"v":2,'),
        (b'"heartbeat"', b'"heart"'),
        (b'"taking":true', b'"taking":true,"more":1'),
        (b'"sealed":null', b'"sealed":null,"more":1'),
        (b',"sealed":null', b""),
        (b'"sequence":3', b'"sequence":3,"sequence":3'),
        (b'"sequence":3', b'"sequence": 3'),
        (b'"sequence":3', b'"sequence":3.0'),
        (b'"sequence":3', b'"sequence":-3'),
        (b'"sequence":3', b'"sequence":9007199254740992'),
        (b'"test/eu/0"', b'"test/eu/0\\n"'),
        (b'"test/eu/0"', b'"test\\/eu/0"'),
        (b'"test/eu/0"', '"test/eu/\u202e0"'.encode()),
        (b'"auditor-0/1"', b'"a sentence, with a comma"'),
    ],
)
def test_another_way_to_write_it_is_malformed(before, after):
    header = encode(heartbeat())
    assert header.count(before) == 1
    with pytest.raises(Malformed):
        read(header.replace(before, after))


def test_every_record_and_every_part_of_one_is_closed_and_its_texts_have_shapes():
    schema = msgspec.json.schema(AnyRecord)

    def check(part, where):
        if isinstance(part, dict):
            if part.get("type") == "object":
                assert part["additionalProperties"] is False, where
            if part.get("type") == "string":
                assert "pattern" in part or "enum" in part, where
            if part.get("type") == "integer":
                assert {"maximum", "minimum"} <= part.keys(), where
            if part.get("type") == "array" and "prefixItems" not in part:
                assert "maxItems" in part, where
            for key, value in part.items():
                check(value, (*where, key))
        elif isinstance(part, list):
            for i, value in enumerate(part):
                check(value, (*where, i))

    check(schema, ())


def test_a_gap_is_of_offsets_or_of_sequences():
    gap = GapRecord(
        log="test/eu/0",
        recorded_at=1,
        emitter="auditor-0/1",
        sequence=0,
        body=GapBody(
            topic="decisions.v1",
            partition=3,
            emitter=None,
            first=7,
            until=9,
            reason="aborted",
            found=None,
        ),
    )
    assert read(encode(gap)) == gap
