"""Feast's own cluster client and ours find the same states on a real cluster, both ways."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Bytes

from sluice.adapters.layout import COMPILED, FEATURES, JOIN_KEYS, PROJECT, VIEW_NAMES
from sluice.adapters.redis.slots import slot
from sluice.adapters.redis.states import RedisStateStore
from sluice.application.ports import StateUpdate
from tests.support.arrivals import state

pytestmark = pytest.mark.integration
CARDS = [f"c{i}" for i in range(40)]
ENTITY, VIEW, FEATURE = JOIN_KEYS["card"], VIEW_NAMES["card"], FEATURES["card"]


def test_feast_reads_and_writes_the_states_of_a_cluster(store_cluster, tmp_path):
    card = Entity(name=ENTITY, join_keys=[ENTITY], value_type=ValueType.STRING)
    view = FeatureView(
        name=VIEW,
        entities=[card],
        schema=[Field(name=FEATURE, dtype=Bytes)],
        source=FileSource(path=str(tmp_path / "none.parquet"), timestamp_field="at"),
        ttl=timedelta(0),
    )
    feast = FeatureStore(
        config=RepoConfig(
            project=PROJECT,
            provider="local",
            registry=str(tmp_path / "registry.db"),
            online_store={
                "type": "redis",
                "redis_type": "redis_cluster",
                "connection_string": store_cluster.url.partition("://")[2],
            },
            entity_key_serialization_version=3,
        )
    )
    feast.apply([card, view])
    ours = RedisStateStore(store_cluster.url)
    asked = store_cluster.masters[0]
    owners = {store_cluster.owner(slot(COMPILED["card"].key(c)), asked).port for c in CARDS}
    assert len(owners) == 3

    assert all(ours.write([StateUpdate("card", c, b"", state(1, c.encode()), 5) for c in CARDS]))
    read = feast.get_online_features(
        features=[f"{VIEW}:{FEATURE}"], entity_rows=[{ENTITY: c} for c in CARDS]
    ).to_dict()
    assert read[FEATURE] == [state(1, c.encode()) for c in CARDS]

    theirs = pd.DataFrame(
        {
            ENTITY: CARDS,
            FEATURE: [state(2, c.encode()) for c in CARDS],
            "at": datetime(2026, 11, 26, tzinfo=UTC),
        }
    )
    feast.write_to_online_store(VIEW, df=theirs)
    assert ours.read([("card", c) for c in CARDS]) == [state(2, c.encode()) for c in CARDS]
    assert ours.clear() == len(CARDS)
    ours.close()
