"""The feature repository as it is in git, applied by Feast's own command to a real Valkey."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
import yaml
from feast.data_source import PushMode
from feast.types import Int64
from redis import Redis

from sluice.adapters.layout import COMPILED, FEATURES, JOIN_KEYS, PROJECT, VIEW_NAMES
from sluice.adapters.redis.states import RedisStateStore
from sluice.application.ports import StateUpdate
from sluice.domain.features import catalogue
from sluice.domain.records.entity import ENTITY_KINDS
from sluice.domain.release import decode_manifest
from tests.integration.feast.conftest import RELEASES, REPO, Applied

pytestmark = [pytest.mark.integration, pytest.mark.slow]

EVENT_US = 1_780_000_000_123_456
EVENT_AT = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=EVENT_US)
STATE = bytes(range(256)) * 2
ODD_KEYS = ["plain-1", "naïve-卡-🂡", "k" * 3000, "a b|c:d"]


@pytest.fixture
def ours(applied: Applied) -> Iterator[RedisStateStore]:
    Redis.from_url(applied.store.url).flushall()
    states = RedisStateStore(applied.store.url)
    yield states
    states.close()


def row(kind: str, key: str, state: bytes | None) -> pd.DataFrame:
    return pd.DataFrame(
        {
            JOIN_KEYS[kind]: [key],
            FEATURES[kind]: [state],
            "event_timestamp": [pd.Timestamp(EVENT_AT)],
        }
    )


@pytest.mark.parametrize("configuration", ["feature_store.yaml", "env.yaml"])
def test_plan_after_apply_shows_no_change(applied, configuration):
    applied.feast("apply", file=configuration)
    said = applied.feast("plan", file=configuration)
    assert "No changes to registry" in said
    assert "No changes to infrastructure" in said


def test_configurations_differ_only_in_what_their_names_say():
    default = yaml.safe_load((REPO / "feature_store.yaml").read_text())
    from_env = yaml.safe_load((REPO / "env.yaml").read_text())
    assert default["online_store"].pop("connection_string") == "127.0.0.1:6379"
    assert from_env["online_store"].pop("connection_string") == "${SLUICE_FEAST_STORE}"
    assert from_env.pop("registry") == {"registry_type": "sql", "path": "${SLUICE_FEAST_REGISTRY}"}
    del default["registry"]
    assert default == from_env
    assert from_env["offline_store"] == {"type": "file"}
    for other in sorted({path.name for path in REPO.glob("*.yaml")} - {"feature_store.yaml"}):
        stated = yaml.safe_load((REPO / other).read_text())
        assert stated["registry"] == {"registry_type": "sql", "path": "${SLUICE_FEAST_REGISTRY}"}
        assert stated["online_store"]["connection_string"] == "${SLUICE_FEAST_STORE}"
        alike = ("project", "provider", "entity_key_serialization_version")
        assert [stated[key] for key in alike] == [default[key] for key in alike]


def test_the_compiled_plan_names_what_the_repository_defines(sdk):
    assert sdk.project == PROJECT
    states = {
        v.name: (v.join_keys, [f.name for f in v.features])
        for v in sdk.list_feature_views()
        if v.online
    }
    assert states == {
        VIEW_NAMES[kind]: ([JOIN_KEYS[kind]], [FEATURES[kind]]) for kind in ENTITY_KINDS
    }
    service = sdk.get_feature_service("states")
    assert {p.name for p in service.feature_view_projections} == set(states)


def test_every_catalogue_feature_is_served_and_logged_with_what_it_means(sdk):
    served = sdk.get_on_demand_feature_view("authorization_features")
    logged = sdk.get_feature_view("decision_features")
    assert [(f.name, f.dtype) for f in served.features] == [(n, Int64) for n in catalogue.NAMES]
    reported = {f.name: f for f in logged.features}
    for feature in catalogue.FEATURES:
        field = reported[feature.name]
        assert field.description == feature.description
        assert field.tags["unit"] == feature.unit
        assert field.tags["window"] == (feature.window or "none")
        assert field.tags["default"] == str(feature.default)
        assert served.tags[feature.name].endswith(feature.description)


def test_each_committed_release_has_a_service_of_its_features_in_order(sdk):
    manifests = [decode_manifest(path.read_bytes()) for path in RELEASES.glob("*-*/manifest.json")]
    assert manifests
    for manifest in manifests:
        (projection,) = sdk.get_feature_service(manifest.id).feature_view_projections
        assert [f.name for f in projection.features] == manifest.names


def test_whatever_is_defined_says_what_it_is_and_whose(sdk):
    things = [
        *sdk.list_entities(),
        *sdk.list_feature_views(),
        *sdk.list_on_demand_feature_views(),
        *sdk.list_feature_services(),
    ]
    assert all(thing.description and thing.owner for thing in things)


def test_what_we_write_the_sdk_reads(sdk, ours):
    keys = {kind: f"{kind}-1" for kind in ENTITY_KINDS}
    states = {kind: kind.encode() + STATE for kind in ENTITY_KINDS}
    updates = [StateUpdate(k, keys[k], b"", states[k], EVENT_US) for k in ENTITY_KINDS]
    assert all(ours.write(updates))
    answer = sdk.get_online_features(
        features=sdk.get_feature_service("states"),
        entity_rows=[
            {JOIN_KEYS[k]: keys[k] for k in ENTITY_KINDS},
            {JOIN_KEYS[k]: "nobody" for k in ENTITY_KINDS},
        ],
    ).to_dict()
    for kind in ENTITY_KINDS:
        assert answer[FEATURES[kind]] == [states[kind], None]


@pytest.mark.parametrize("key", ODD_KEYS, ids=range(len(ODD_KEYS)))
def test_odd_keys_reach_the_sdk_too(sdk, ours, key):
    ours.write([StateUpdate("merchant", key, b"", STATE, EVENT_US)])
    answer = sdk.get_online_features(
        features=["merchant_state:merchant_packed"], entity_rows=[{"merchant_id": key}]
    ).to_dict()
    assert answer["merchant_packed"] == [STATE]


@pytest.mark.parametrize("kind", ENTITY_KINDS)
@pytest.mark.parametrize("way", ["push", "write_to_online_store"])
def test_what_the_sdk_writes_we_read_and_would_have_written(sdk, ours, applied, kind, way):
    if way == "push":
        sdk.push(f"{VIEW_NAMES[kind]}_push", row(kind, "theirs", STATE), to=PushMode.ONLINE)
    else:
        sdk.write_to_online_store(VIEW_NAMES[kind], df=row(kind, "theirs", STATE))
    assert ours.read([(kind, "theirs"), (kind, "nobody")]) == [STATE, b""]

    ours.write([StateUpdate(kind, "ours", b"", STATE, EVENT_US)])
    raw = Redis.from_url(applied.store.url)
    key = COMPILED[kind].key
    assert raw.hgetall(key("theirs")) == raw.hgetall(key("ours")) != {}


def test_a_null_state_of_the_sdk_is_a_state_never_written(sdk, ours):
    frame = pd.concat([row("device", "null", None), row("device", "full", STATE)])
    sdk.write_to_online_store("device_state", df=frame)
    assert ours.read([("device", "null"), ("device", "full")]) == [b"", STATE]


def test_we_swap_what_the_sdk_wrote(sdk, ours):
    sdk.write_to_online_store("card_state", df=row("card", "c", STATE))
    swap = [StateUpdate("card", "c", STATE[1:9], b"\x01" * 9, EVENT_US + 1)]
    assert ours.write(swap) == [True]
    assert ours.write(swap) == [False]
    answer = sdk.get_online_features(
        features=["card_state:card_packed"], entity_rows=[{"card_token": "c"}]
    ).to_dict()
    assert answer["card_packed"] == [b"\x01" * 9]
