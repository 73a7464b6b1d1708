"""Ten thousand entities in every condition a store can leave them in: we read what Feast reads."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest
from feast import FeatureService, FeatureStore, RepoConfig
from feast.protos.feast.types.Value_pb2 import Null, Value
from google.protobuf.timestamp_pb2 import Timestamp
from redis import Redis

from sluice.adapters.feast.views import entity, source, state_view
from sluice.adapters.layout import COMPILED, FEATURES, JOIN_KEYS, PROJECT, VIEW_NAMES
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.adapters.redis.states import RedisStateStore
from sluice.application.ports import StateUpdate
from sluice.domain.records.entity import ENTITY_KINDS, EntityKind

EACH = 2_500
"""Of each of four kinds."""
NEWEST_US = 1_780_000_000_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CONDITIONS = (
    "ours",
    "theirs",
    "missing",
    "expired",
    "only a timestamp",
    "only a state",
    "another view's field alone",
    "null",
    "empty message",
    "no bytes",
    "long ago",
)
Entity = tuple[EntityKind, str]


pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture(scope="module")
def valkey() -> Iterator[EmbeddedStore]:
    with EmbeddedStore() as store:
        yield store


@pytest.fixture(scope="module")
def sdk(valkey: EmbeddedStore, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Feast over the same views as feature_repo/ has, and no more."""
    folder = tmp_path_factory.mktemp("feast")
    store = FeatureStore(
        config=RepoConfig(
            project=PROJECT,
            provider="local",
            registry=str(folder / "registry.db"),
            online_store={"type": "redis", "connection_string": valkey.host_port},
            offline_store={"type": "file"},
            entity_key_serialization_version=3,
        )
    )
    owners = [entity(kind, JOIN_KEYS[kind], kind, pii="none") for kind in ENTITY_KINDS]
    views = [
        state_view(owner, kind, source("file", str(folder), VIEW_NAMES[kind]))
        for owner, kind in zip(owners, ENTITY_KINDS, strict=True)
    ]
    store.apply([*owners, *views, FeatureService(name="states", features=views)])
    return store


def value(message: Value) -> Callable[[EntityKind], dict[bytes, bytes]]:
    return lambda kind: {COMPILED[kind].field: message.SerializeToString()}


def stamp(at_us: int) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(EPOCH + timedelta(microseconds=at_us))
    return made


def leave(raw: Redis[Any], at: Entity, condition: str, state: bytes) -> None:
    """Bring one entity into a condition that neither writer makes."""
    kind, key = at
    where, view = COMPILED[kind].key(key), COMPILED[kind]
    now = {view.ts_field: stamp(NEWEST_US).SerializeToString()}
    whole = {view.field: Value(bytes_val=state).SerializeToString()}
    hashes: dict[str, dict[bytes, bytes]] = {
        "expired": whole | now,
        "only a timestamp": now,
        "only a state": whole,
        "another view's field alone": {struct.pack("<I", 7): b"\x0a\x01x"},
        "null": {view.field: Value(null_val=Null.NULL).SerializeToString()} | now,
        "empty message": {view.field: b""} | now,
        "no bytes": {view.field: Value(bytes_val=b"").SerializeToString()} | now,
        "long ago": whole | {view.ts_field: stamp(1).SerializeToString()},
    }
    if condition in hashes:
        raw.hset(where, mapping=hashes[condition])  # type: ignore[arg-type]
    if condition == "expired":
        raw.pexpireat(where, 1)


def test_we_read_of_ten_thousand_entities_what_feast_reads(
    valkey: EmbeddedStore, sdk: FeatureStore
):
    rng = random.Random(3)
    entities: list[Entity] = [(k, f"{k}-{i}") for k in ENTITY_KINDS for i in range(EACH)]
    conditions = [rng.choice(CONDITIONS) for _ in entities]
    states = [rng.randbytes(rng.choice((9, 10, 127, 128, 600, 7_500))) for _ in entities]
    found = list(zip(entities, conditions, states, strict=True))

    ours = RedisStateStore(valkey.url)
    updates = [StateUpdate(*at, b"", s, NEWEST_US) for at, how, s in found if how == "ours"]
    assert all(ours.write(updates))
    for kind in ENTITY_KINDS:
        theirs = [(at[1], s) for at, how, s in found if how == "theirs" and at[0] == kind]
        frame = pd.DataFrame(theirs, columns=[JOIN_KEYS[kind], FEATURES[kind]])
        frame["event_timestamp"] = EPOCH + timedelta(microseconds=NEWEST_US)
        sdk.write_to_online_store(VIEW_NAMES[kind], df=frame)
    raw = Redis.from_url(valkey.url)
    with raw.pipeline(transaction=False) as pipe:
        for at, how, s in found:
            leave(pipe, at, how, s)
        pipe.execute()

    rows = [{JOIN_KEYS[kind]: f"{kind}-{i}" for kind in ENTITY_KINDS} for i in range(EACH)]
    answer = sdk.get_online_features(sdk.get_feature_service("states"), rows)
    values = answer.to_dict()
    read = dict(zip(entities, ours.read(entities), strict=True))
    ours.close()
    for kind in ENTITY_KINDS:
        for i, state in enumerate(values[FEATURES[kind]]):
            assert read[kind, f"{kind}-{i}"] == (state or b""), (kind, i)
    written = ("ours", "theirs", "only a state", "long ago")
    assert read == {at: s if how in written else b"" for at, how, s in found}

    names = list(answer.proto.metadata.feature_names.val)
    for (kind, key), how, _ in found:
        if how in ("ours", "theirs"):
            result = answer.proto.results[names.index(FEATURES[kind])]
            at = result.event_timestamps[int(key.rpartition("-")[2])]
            assert at == stamp(NEWEST_US)
