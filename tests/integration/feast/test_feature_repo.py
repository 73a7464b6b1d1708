"""The feature repository as it is in git, applied by Feast's own command to a real Valkey."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
import yaml
from feast import FeatureStore
from feast.data_source import PushMode
from redis import Redis

from sluice.adapters.feast.plan import COMPILED, JOIN_KEYS, PROJECT, VIEWS
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.adapters.redis.states import RedisStateStore
from sluice.application.ports import StateUpdate
from sluice.domain.observation import ENTITY_KINDS

pytestmark = [pytest.mark.integration, pytest.mark.slow]

REPO = Path(__file__).parents[3] / "feature_repo"
EVENT_US = 1_780_000_000_123_456
EVENT_AT = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=EVENT_US)
STATE = bytes(range(256)) * 2
ODD_KEYS = ["plain-1", "naïve-卡-🂡", "k" * 3000, "a b|c:d"]


@dataclass
class Applied:
    directory: Path
    store: EmbeddedStore
    env: dict[str, str]

    def feast(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "feast.cli.cli", "-f", "env.yaml", *words],
            cwd=self.directory,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Applied]:
    """A fresh clone's feature_repo after ``feast apply``."""
    clone = tmp_path_factory.mktemp("clone")
    shutil.copytree(REPO, clone / "feature_repo", ignore=shutil.ignore_patterns("__pycache__"))
    with EmbeddedStore() as store:
        env = os.environ | {"SLUICE_FEAST_STORE": store.host_port, "FEAST_USAGE": "False"}
        made = Applied(clone / "feature_repo", store, env)
        made.feast("apply")
        yield made


@pytest.fixture(scope="module")
def sdk(applied: Applied) -> Iterator[FeatureStore]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLUICE_FEAST_STORE", applied.store.host_port)
        yield FeatureStore(
            repo_path=str(applied.directory), fs_yaml_file=applied.directory / "env.yaml"
        )


@pytest.fixture
def ours(applied: Applied) -> Iterator[RedisStateStore]:
    Redis.from_url(applied.store.url).flushall()
    states = RedisStateStore(applied.store.url)
    yield states
    states.close()


def row(kind: str, key: str, state: bytes | None) -> pd.DataFrame:
    return pd.DataFrame(
        {JOIN_KEYS[kind]: [key], "state": [state], "event_timestamp": [pd.Timestamp(EVENT_AT)]}
    )


def test_plan_after_apply_shows_no_change(applied):
    said = applied.feast("plan")
    assert "No changes to registry" in said
    assert "No changes to infrastructure" in said


def test_both_configurations_differ_only_in_where_the_store_is():
    default = yaml.safe_load((REPO / "feature_store.yaml").read_text())
    from_env = yaml.safe_load((REPO / "env.yaml").read_text())
    assert default["online_store"].pop("connection_string") == "127.0.0.1:6379"
    assert from_env["online_store"].pop("connection_string") == "${SLUICE_FEAST_STORE}"
    assert default == from_env


def test_the_compiled_plan_names_what_the_repository_defines(sdk):
    assert sdk.project == PROJECT
    defined = {
        v.name: (v.join_keys, [f.name for f in v.features]) for v in sdk.list_feature_views()
    }
    assert defined == {VIEWS[kind]: ([JOIN_KEYS[kind]], ["state"]) for kind in ENTITY_KINDS}
    service = sdk.get_feature_service("states")
    assert {p.name for p in service.feature_view_projections} == set(defined)


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
        full_feature_names=True,
    ).to_dict()
    for kind in ENTITY_KINDS:
        assert answer[f"{VIEWS[kind]}__state"] == [states[kind], None]


@pytest.mark.parametrize("key", ODD_KEYS, ids=range(len(ODD_KEYS)))
def test_odd_keys_reach_the_sdk_too(sdk, ours, key):
    ours.write([StateUpdate("merchant", key, b"", STATE, EVENT_US)])
    answer = sdk.get_online_features(
        features=["merchant_state:state"], entity_rows=[{"merchant_id": key}]
    ).to_dict()
    assert answer["state"] == [STATE]


@pytest.mark.parametrize("kind", ENTITY_KINDS)
@pytest.mark.parametrize("way", ["push", "write_to_online_store"])
def test_what_the_sdk_writes_we_read_and_would_have_written(sdk, ours, applied, kind, way):
    if way == "push":
        sdk.push(f"{VIEWS[kind]}_push", row(kind, "theirs", STATE), to=PushMode.ONLINE)
    else:
        sdk.write_to_online_store(VIEWS[kind], df=row(kind, "theirs", STATE))
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
        features=["card_state:state"], entity_rows=[{"card_token": "c"}]
    ).to_dict()
    assert answer["state"] == [b"\x01" * 9]
