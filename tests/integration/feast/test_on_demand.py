"""Features through Feast, online, offline and over HTTP, are those of the decider's kernel."""

from __future__ import annotations

import json
import urllib.request

import pytest
from feast import FeatureStore
from redis import Redis

from sluice.adapters.redis.states import RedisStateStore
from sluice.domain.features import catalogue
from sluice.domain.release import decode_manifest
from sluice.errors import Rejected
from tests.integration.feast.conftest import RELEASES, Applied
from tests.integration.feast.history import History, history

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture(scope="module")
def past(applied: Applied) -> History:
    """A history whose last states are in the store."""
    made = history(200)
    Redis.from_url(applied.store.url).flushall()
    states = RedisStateStore(applied.store.url)
    assert all(states.write(made.last_states()))
    states.close()
    return made


def matrix(answer: dict[str, list[int]]) -> list[list[int]]:
    return [list(row) for row in zip(*(answer[name] for name in catalogue.NAMES), strict=True)]


def test_online_features_are_what_the_decider_would_serve(sdk: FeatureStore, past: History):
    answer = sdk.get_online_features(
        features=sdk.get_feature_service("catalogue"), entity_rows=past.rows()
    ).to_dict()
    assert matrix(answer) == past.served_at_the_end().tolist()


def test_a_stranger_gets_the_defaults_of_the_catalogue(sdk: FeatureStore, past: History):
    stranger = past.rows()[0] | {
        "card_token": "new", "terminal_id": "new", "merchant_id": "new", "device_id": "new"
    }  # fmt: skip
    answer = sdk.get_online_features(
        features=sdk.get_feature_service("catalogue"), entity_rows=[stranger]
    ).to_dict()
    for feature in catalogue.FEATURES:
        if feature.name.startswith(("card_first", "card_since", "terminal_since", "device_since")):
            assert answer[feature.name] == [feature.default]


def test_a_release_is_served_its_own_features(sdk: FeatureStore, past: History):
    (path,) = RELEASES.glob("*-*/manifest.json")
    manifest = decode_manifest(path.read_bytes())
    answer = sdk.get_online_features(
        features=sdk.get_feature_service(manifest.id), entity_rows=past.rows()[:3]
    ).to_dict()
    assert [name for name in answer if name in catalogue.INDEX] == manifest.names


def test_a_request_that_is_no_authorization_is_refused_by_field(sdk: FeatureStore, past: History):
    wrong = past.rows()[0] | {"channel": "carrier pigeon"}
    with pytest.raises(Rejected, match=r"\$\.channel"):
        sdk.get_online_features(features=sdk.get_feature_service("catalogue"), entity_rows=[wrong])


def test_the_stock_feature_server_answers_the_same(applied: Applied, past: History):
    rows = past.rows()
    body = {
        "feature_service": "catalogue",
        "entities": {name: [row[name] for row in rows] for name in rows[0]},
    }
    with applied.serving("serve", "/health") as url:
        asked = urllib.request.Request(
            f"{url}/get-online-features",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(asked, timeout=60) as said:
            answer = json.load(said)
    columns = dict(
        zip(
            answer["metadata"]["feature_names"],
            (result["values"] for result in answer["results"]),
            strict=True,
        )
    )
    assert matrix(columns) == past.served_at_the_end().tolist()


@pytest.mark.parametrize("configuration", ["env.yaml", "duckdb.yaml"])
def test_offline_features_are_what_was_served_at_the_time(
    applied: Applied, sdk: FeatureStore, configuration: str
):
    past = history(150, seed=2)
    log = applied.directory.parent / "var" / "feature-log"
    past.write_log(log)
    store = FeatureStore(
        repo_path=str(applied.directory), fs_yaml_file=applied.directory / configuration
    )
    try:
        frame = store.get_historical_features(
            past.entity_frame(), store.get_feature_service("catalogue")
        ).to_df()
    finally:
        for folder in log.iterdir():
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()
    frame = frame.set_index("authorization_id").loc[
        [a.authorization_id for a in past.authorizations]
    ]
    assert frame[list(catalogue.NAMES)].to_numpy().tolist() == past.features
