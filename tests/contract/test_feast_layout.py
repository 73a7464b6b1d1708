"""Our compiled plan and Feast's SDK read and write the same bytes."""

from datetime import UTC, datetime, timedelta

import pytest
from feast.infra.online_stores.helpers import _mmh3, _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Null, Value
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from sluice.adapters.layout import (
    COMPILED,
    FEATURES,
    JOIN_KEYS,
    PROJECT,
    VIEW_NAMES,
    decode_state,
    encode_state,
    encode_timestamp,
)
from sluice.domain.records.entity import ENTITY_KINDS

KEYS = ["c", "card-1", "naïve-卡-🂡", "k" * 5000, " ", "a:b|c\x00d"]


@pytest.mark.parametrize("kind", ENTITY_KINDS)
def test_hash_fields_are_those_of_feast(kind):
    assert COMPILED[kind].field == _mmh3(f"{VIEW_NAMES[kind]}:{FEATURES[kind]}")


@pytest.mark.parametrize("kind", ENTITY_KINDS)
@pytest.mark.parametrize("key", KEYS, ids=range(len(KEYS)))
def test_keys_are_those_of_feast(kind, key):
    proto = EntityKey(join_keys=[JOIN_KEYS[kind]], entity_values=[Value(string_val=key)])
    assert COMPILED[kind].key(key) == _redis_key(PROJECT, proto, 3)


@given(
    st.binary(max_size=300) | st.sampled_from([127, 128, 8191, 8192, 16384, 2_000_000]).map(bytes)
)
def test_a_state_is_a_bytes_value_both_ways(state):
    theirs = Value(bytes_val=state).SerializeToString()
    assert encode_state(state) == theirs
    assert decode_state(theirs) == state


def test_missing_and_null_are_a_state_never_written():
    assert decode_state(None) == b""
    assert decode_state(Value().SerializeToString()) == b""
    assert decode_state(Value(null_val=Null.NULL).SerializeToString()) == b""


@pytest.mark.parametrize(
    "value",
    [
        Value(string_val="x").SerializeToString(),
        Value(int64_val=7).SerializeToString(),
        b"\x0a",
        b"\x0a\x05abc",
        b"\x0a\x02abc",
        b"\x0a\x80\x80\x80\x80\x80\x80\x80\x01",
    ],
    ids=["string", "int64", "no length", "too short", "too long", "endless length"],
)
def test_anything_else_is_refused(value):
    with pytest.raises(ValueError, match="no ValueProto"):
        decode_state(value)


@given(st.integers(0, 4_102_444_800_000_000))
def test_timestamps_are_those_of_protobuf(event_us):
    theirs = Timestamp()
    theirs.FromDatetime(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=event_us))
    assert encode_timestamp(event_us) == theirs.SerializeToString()
