"""Each public table goes the whole way by its bundled mapping: published, backfilled, a set."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from local.kafka.broker import Node
from sluice.adapters.kafka.topics import Topics
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.cli import main
from sluice.domain.records.authorization import decode_authorization
from sluice.domain.records.label import Label
from tests.integration.feast.conftest import Applied
from tests.support.kafka import read_all
from tests.support.shapes import FRAUDS, ROWS, SHAPES, TOKEN_KEY, Shape

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture
def places(
    applied: Applied, topics: Topics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Topics, an archive, an online store and an applied repository, all of them new."""
    for name in ("SLUICE_FEAST_STORE", "SLUICE_FEAST_REGISTRY"):
        monkeypatch.setenv(name, applied.env[name])
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(applied.directory / "env.yaml"))
    prefix = topics.authorizations.removesuffix("authorizations.v1")
    monkeypatch.setenv("SLUICE_KAFKA_TOPIC_PREFIX", prefix)
    monkeypatch.setenv("SLUICE_ARCHIVER_ROOT", str(tmp_path / "archive"))
    with EmbeddedStore(directory=tmp_path / "store") as store:
        monkeypatch.setenv("SLUICE_STORE_URL", f"{store.url}/0")
        (tmp_path / "token.key").write_text(TOKEN_KEY)
        yield tmp_path


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_a_public_table_is_published_backfilled_and_becomes_a_training_set(
    shape: Shape,
    places: Path,
    kafka: Node,
    topics: Topics,
    applied: Applied,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = shape.write(places)
    mapping = ["--mapping", shape.name, "--labels", f"{shape.name}-labels"]
    if shape.needs_key:
        mapping += ["--token-key", str(places / "token.key")]
    rows = ROWS - shape.left_out

    assert main(["publish", str(file), *mapping, "--bootstrap", kafka.bootstrap]) == 0
    said = capsys.readouterr().out
    assert f"{ROWS} rows, {rows} published, {shape.labels} labels, 0 dead" in said
    messages = read_all(kafka.bootstrap, topics.authorizations)
    sent = [decode_authorization(m.value) for m in messages]
    assert len({auth.authorization_id for auth in sent}) == rows
    labels = [
        msgspec.json.decode(m.value, type=Label) for m in read_all(kafka.bootstrap, topics.labels)
    ]
    assert len(labels) == shape.labels
    assert sum(label.is_fraud for label in labels) == len(FRAUDS)

    assert main(["backfill", str(file), *mapping, "--until", shape.until, "--threads", "1"]) == 0
    assert f"{rows} authorizations and {shape.labels} labels read" in capsys.readouterr().out

    out = places / "set"
    build = [
        "dataset", "build", "--service", "catalogue", "--from", shape.first, "--to", shape.until,
        "--label-delay", shape.label_delay, "--test", "0d", "--repo", str(applied.directory),
        "--processes", "1", "--accept-unbounded", "card_frauds_reported", "--out", str(out),
    ]  # fmt: skip
    assert main(build) == 0
    (train,) = json.loads((out / "manifest.json").read_text())["splits"]
    assert (train["rows"], train["frauds"]) == (rows, len(FRAUDS))
