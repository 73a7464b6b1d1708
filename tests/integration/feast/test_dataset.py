"""Training sets through Feast's own join, on its file store and on DuckDB."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore
from sluice_simulator.config import Config
from sluice_simulator.history import write
from sluice_simulator.world import World

from sluice.adapters.feast.historical import Join, feature_service
from sluice.adapters.files.history import history_from, labels_from
from sluice.adapters.parquet.dataset import features_of, read_manifest, read_split
from sluice.adapters.policyfiles import read_policy
from sluice.adapters.processes import Processes
from sluice.application.backfill import backfill
from sluice.application.build_dataset import build
from sluice.application.dataset import DAY_S, Order
from sluice.application.dataset_manifest import Manifest
from sluice.bootstrap.copies import reading
from sluice.bootstrap.verbs import training_logs
from sluice.cli import main
from sluice.domain.clock import DAY_US, HOUR_US, from_datetime, to_datetime
from sluice.domain.features import catalogue
from sluice.domain.records.standing import RANKS
from sluice.errors import Corrupt, Misconfigured, Rejected
from sluice.settings import load
from tests.integration.feast.conftest import ROOT, Applied
from tests.support.feature_log import write_log
from tests.support.s3_server import BUCKET

pytestmark = [pytest.mark.integration, pytest.mark.slow]

START = from_datetime(to_datetime(0).replace(year=2026, month=3, day=2))
DELAY_S = 3 * 86_400
UNBOUNDED = ["card_frauds_reported"]


@pytest.fixture
def repo(applied: Applied, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """The applied repository; its offline store by configuration, Feast's files if not said."""
    for name in ("SLUICE_FEAST_STORE", "SLUICE_FEAST_REGISTRY"):
        monkeypatch.setenv(name, applied.env[name])
    configuration = getattr(request, "param", "env.yaml")
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(applied.directory / configuration))
    return applied.directory


on_both_stores = pytest.mark.parametrize("repo", ["env.yaml", "duckdb.yaml"], indirect=True)


@dataclass
class Log:
    """Random decisions and labels: some late, some changed, some missing, some twice at once."""

    rows: dict[str, list[Any]]
    labels: dict[str, list[Any]]

    def write(self, root: Path) -> Path:
        half = len(self.rows["event_at"]) // 2
        backfilled = {name: values[:half] for name, values in self.rows.items()}
        served = {name: values[half:] for name, values in self.rows.items()}
        served |= {
            "degradation_level": [
                "D1" if i % 7 == 0 else "D0" for i in range(len(served["event_at"]))
            ],
            "emitter": ["decider/1"] * len(served["event_at"]),
            # One decision got lost.
            "sequence": [i + (i > 2) for i in range(len(served["event_at"]))],
        }
        write_log(root, "history", backfilled)
        write_log(root, "decisions", served)
        write_log(root, "labels", self.labels, partition=3)
        return root

    def expected(self, first: int, until: int, as_of: int) -> list[tuple[Any, ...]]:
        """Brute force: id, is_fraud, kind, source, known_at and features, by time and id."""
        out = []
        for i, one in enumerate(self.rows["authorization_id"]):
            at = self.rows["event_at"][i]
            if not first <= at < until:
                continue
            told = self.labels
            reported = sorted(
                (told["known_at"][j], j)
                for j, other in enumerate(told["authorization_id"])
                if other == one and told["known_at"][j] <= as_of
            )
            # Moment by moment: the strongest so far counts, and the first that said so is named.
            rank, counts, since = -1, -1, -1
            for _, together in groupby(reported, key=lambda report: report[0]):
                for _, j in together:
                    if RANKS[told["kind"][j]] >= rank:
                        rank, counts = RANKS[told["kind"][j]], j
                if since < 0 or told["is_fraud"][counts] != told["is_fraud"][since]:
                    since = counts
            known = told["known_at"][since] if reported else -1
            said = [told[n][since] if reported else None for n in ("is_fraud", "kind", "source")]
            out.append((at, one, bool(said[0]), *said[1:], known, self.rows["features"][i]))
        return sorted(out, key=lambda row: row[:2])


def log_of(seed: int, n: int = 400, days: int = 12) -> Log:
    rng = random.Random(seed)
    # Whole seconds often, so that rows share a moment; few cards, so that some are compromised.
    times = sorted(START + rng.randrange(days * 86_400) * 1_000_000 for _ in range(n))
    ids = [f"a-{seed}-{i}" for i in rng.sample(range(10 * n), n)]
    rows: dict[str, list[Any]] = {
        "authorization_id": ids,
        "event_at": times,
        "card_token": [f"card-{rng.randrange(30)}" for _ in ids],
        "reference_amount_minor": [rng.randrange(100_000) for _ in ids],
        "reference_currency": ["EUR"] * n,
        "catalogue": [catalogue.DIGEST] * n,
        "features": [[rng.randrange(-5, 2**50) for _ in catalogue.NAMES] for _ in ids],
    }
    for features, amount in zip(rows["features"], rows["reference_amount_minor"], strict=True):
        features[catalogue.INDEX["amount_minor"]] = amount
    labels: list[dict[str, Any]] = []
    for i in range(n):
        for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 3))):
            known = times[i] + rng.randrange(1, 200) * HOUR_US
            for _ in range(rng.choice((1, 1, 1, 2))):
                labels.append(
                    {
                        "authorization_id": ids[i],
                        "event_at": times[i],
                        "known_at": known,
                        "is_fraud": rng.random() < 0.3,
                        "kind": rng.choice(("chargeback", "verdict", "alert")),
                        "source": rng.choice(("network", "analyst")),
                        "card_token": rows["card_token"][i],
                    }
                )
    labels.sort(key=lambda label: label["event_at"])
    return Log(rows, {name: [label[name] for label in labels] for name in labels[0]})


def make(root: Path, repo: Path, out: Path, days: int = 12, test_days: int = 2, **more: Any):
    order = Order(
        first_us=START,
        until_us=START + days * DAY_US,
        label_delay_s=DELAY_S,
        test_s=test_days * DAY_S,
        **({"service": "catalogue", "accepted": UNBOUNDED} | more),
    )
    with training_logs(root, repo, [order], Processes(1)) as (log,):
        return build(log, order, out)


def read(out: Path, split: str, manifest: Manifest) -> list[tuple[Any, ...]]:
    table = read_split(out, split)
    assert table.column_names == manifest.columns()
    columns = ["event_at", "authorization_id", "is_fraud", "label_kind", "label_source",
               "known_at"]  # fmt: skip
    features = features_of(table, manifest).tolist()
    return list(zip(*(table[name].to_pylist() for name in columns), features, strict=True))


def bytes_of(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


@on_both_stores
@pytest.mark.parametrize("seed", range(2))
def test_the_join_is_what_brute_force_says(repo, tmp_path, seed):
    log = log_of(seed)
    log.write(tmp_path / "archive")
    manifest = make(tmp_path / "archive", repo, tmp_path / "set", test_days=0)
    expected = log.expected(START, START + 12 * DAY_US, START + 15 * DAY_US)
    assert read(tmp_path / "set", "train", manifest) == expected
    (train,) = manifest.splits
    assert (train.rows, train.frauds) == (400, sum(row[2] for row in expected))
    known = {row[5] for row in expected}
    assert manifest.leak_checks[1].found == f"newest {to_datetime(max(known)):%Y-%m-%dT%H:%M:%SZ}"
    assert manifest.log.labels_after_as_of > 0
    assert manifest.log.served == 200
    assert manifest.log.degraded == 29
    assert manifest.log.holes == 1


def test_train_knows_less_than_test_and_compromised_cards_are_left_out(repo, tmp_path):
    log = log_of(7)
    manifest = make(log.write(tmp_path / "archive"), repo, tmp_path / "set")
    train_until, test_from = START + 7 * DAY_US, START + 10 * DAY_US
    assert read(tmp_path / "set", "train", manifest) == log.expected(START, train_until, test_from)
    first_known: dict[str, int] = {}
    for fraud, card, known in zip(
        log.labels["is_fraud"], log.labels["card_token"], log.labels["known_at"], strict=True
    ):
        if fraud:
            first_known[card] = min(first_known.get(card, known), known)
    card_of = dict(zip(log.rows["authorization_id"], log.rows["card_token"], strict=True))
    whole = log.expected(test_from, START + 12 * DAY_US, START + 15 * DAY_US)
    clean = [
        row for row in whole if first_known.get(card_of[row[1]], row[0]) > row[0] // DAY_US * DAY_US
    ]
    assert 0 < len(clean) < len(whole)
    assert read(tmp_path / "set", "test-1", manifest) == clean
    assert manifest.splits[1].left_out_compromised == len(whole) - len(clean)
    assert manifest.log.unused == len(log.expected(train_until, test_from, 0))


def test_all_splits_come_from_one_build_without_release_or_applied_repository(tmp_path):
    """Nothing but an archive: no feature service is named, and there is no feature repository."""
    log = log_of(11, n=900, days=16)
    root = log.write(tmp_path / "archive")
    words = [
        "dataset", "build", "--from", "2026-03-02", "--to", "2026-03-18", "--label-delay", "3d",
        "--validation", "2d", "--calibration", "2d", "--test", "2d", "--tests", "2", "--recent",
        "--look-back", "0d",
        "--repo", str(tmp_path / "nowhere"), "--processes", "2", "--archive", str(root),
    ]  # fmt: skip
    assert main([*words, "--out", str(tmp_path / "set")]) == 0
    manifest = read_manifest(tmp_path / "set")
    assert [split.name for split in manifest.splits] == [
        "train", "validation", "calibration", "recent", "test-1", "test-2"
    ]  # fmt: skip
    bounded = [name for name in catalogue.NAMES if name not in UNBOUNDED]
    assert list(manifest.features) == list(manifest.meanings) == bounded
    columns = [catalogue.INDEX[name] for name in bounded]
    first_test = START + 12 * DAY_US
    for name, first, until, as_of in (
        ("train", 0, 5, 12), ("validation", 5, 7, 12), ("calibration", 7, 9, 12),
    ):  # fmt: skip
        wanted = log.expected(*(START + n * DAY_US for n in (first, until, as_of)))
        found = read(tmp_path / "set", name, manifest)
        assert found == [(*row[:-1], [row[-1][i] for i in columns]) for row in wanted]
    recent = read_split(tmp_path / "set", "recent")
    assert len(recent) == len(log.expected(START + 9 * DAY_US, first_test, 0)) > 0
    assert set(recent["known_at"].to_pylist()) == {-1}
    assert set(recent["maturity"].to_pylist()) == {"not_yet"}
    assert not any(recent["is_fraud"].to_pylist())


def test_what_is_told_of_a_row_is_how_far_its_label_may_be_trusted(repo, tmp_path):
    log = log_of(12, n=900)
    manifest = make(log.write(tmp_path / "archive"), repo, tmp_path / "set", seed=3,
                    keep_genuine=0.5, look_back_s=0)  # fmt: skip
    train = read_split(tmp_path / "set", "train").to_pylist()
    as_of = START + 10 * DAY_US
    told = {"known": 0, "not_yet": 0, "never": 0}
    for row in train:
        young = as_of - row["event_at"] < manifest.mature_after_s * 1_000_000
        wanted = "known" if row["known_at"] >= 0 else "not_yet" if young else "never"
        assert row["maturity"] == wanted
        assert row["weight"] == (1.0 if row["is_fraud"] else 2.0)
        told[wanted] += 1
    assert min(told.values()) > 0
    assert manifest.genuine_kept_ppm == 500_000
    newest = max(log.labels["known_at"])
    assert manifest.log.labels_until == f"{to_datetime(newest):%Y-%m-%dT%H:%M:%SZ}"
    split = manifest.split("train")
    assert (split.labelled, split.not_yet) == (told["known"], told["not_yet"])
    whole = log.expected(START, START + 7 * DAY_US, as_of)
    assert split.rows + split.left_out_sampling == len(whole)
    assert split.frauds == sum(row[2] for row in whole)
    assert 0.4 < split.left_out_sampling / (len(whole) - split.frauds) < 0.6
    shares = {row["event_at"]: row["reported_share"] for row in train}
    by_age = [shares[at] for at in sorted(shares, reverse=True)]
    assert by_age == sorted(by_age)


def test_labels_are_held_back_in_rows_and_features_alike(simulated, tmp_path):
    """From one archive: the terminal's report of fraud is seen a day, or five, after it."""
    words = [
        "dataset", "build", "--from", "2026-03-02", "--to", "2026-03-16", "--test", "2d",
        "--archive", str(simulated / "at-once"), "--repo", str(tmp_path / "nowhere"),
        "--processes", "1", "--train", "5d", "--per-test", "--hold-labels",
    ]  # fmt: skip
    found = {}
    for delay in (1, 5):
        out = tmp_path / f"{delay}d"
        assert main([*words, "--label-delay", f"{delay}d", "--out", str(out)]) == 0
        (folder,) = out.iterdir()
        assert folder.name == "2026-03-14"
        test = read_split(folder, "test-1")
        assert read_manifest(folder).known_after_s == delay * DAY_S
        known, event = test["known_at"].to_numpy(), test["event_at"].to_numpy()
        assert (known[known >= 0] - event[known >= 0] >= delay * DAY_US).all()
        found[delay] = test["terminal_since_last_fraud_s"].to_numpy().mean()
    assert found[1] < found[5]
    refused = [word for word in words if word != "--hold-labels"]
    assert main([*refused, "--label-delay", "5d", "--out", str(tmp_path / "no")]) == 1
    assert not (tmp_path / "no").exists()


def test_a_rebuild_has_the_same_bytes_though_the_archive_grew(repo, tmp_path):
    log = log_of(5)
    root = log.write(tmp_path / "archive")
    make(root, repo, tmp_path / "one")
    later = {"event_at": [START + 90 * DAY_US], "authorization_id": ["later"],
             "features": [[0] * catalogue.N], "catalogue": ["another"]}  # fmt: skip
    write_log(root, "history", later, partition=9)
    make(root, repo, tmp_path / "two")
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")
    assert b"another" not in (tmp_path / "two" / "manifest.json").read_bytes()


def test_what_is_refused_leaves_nothing_behind(repo, tmp_path):
    log = log_of(6, n=60)
    root = log.write(tmp_path / "archive")
    with pytest.raises(Rejected, match="card_frauds_reported"):
        make(root, repo, tmp_path / "set", accepted=[])
    with pytest.raises(Rejected, match=r"no feature service nobody.*catalogue, states, [a-z]+-"):
        make(root, repo, tmp_path / "set", service="nobody")
    with pytest.raises(Rejected, match="card_packed"):
        make(root, repo, tmp_path / "set", service="states")
    twice = {name: [values[3]] for name, values in log.rows.items()}
    twice["event_at"] = [START + DAY_US]
    write_log(root, "history", twice, partition=9)
    with pytest.raises(Corrupt, match="1 authorization ids come twice"):
        make(root, repo, tmp_path / "set")
    other = twice | {"authorization_id": ["other"], "catalogue": ["0123456789abcdef"]}
    write_log(root, "history", other, partition=8)
    with pytest.raises(Rejected, match="features of catalogue 0123456789abcdef") as refused:
        make(root, repo, tmp_path / "set")
    assert refused.value.code == "other_catalogue"
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]


def test_labels_of_no_row_are_counted(repo, tmp_path):
    log = log_of(8, n=60)
    log.labels["authorization_id"][0] = "nobody"
    manifest = make(log.write(tmp_path / "archive"), repo, tmp_path / "set", test_days=0)
    assert manifest.log.labels_astray == 1


def test_a_repository_whose_store_reads_no_files_is_refused(repo, tmp_path, monkeypatch):
    config = tmp_path / "snowflake.yaml"
    text = (repo / "env.yaml").read_text().replace("type: file", "type: sluice.nowhere.Store")
    config.write_text(text)
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(config))
    with pytest.raises(Misconfigured, match="feature repository cannot be opened"):
        feature_service(repo, "catalogue")


def test_a_configuration_whose_variables_are_not_set_is_told_by_what_it_lacks(monkeypatch):
    for name in ("SLUICE_FEAST_STORE", "SLUICE_FEAST_REGISTRY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(ROOT / "feature_repo" / "duckdb.yaml"))
    with pytest.raises(Misconfigured, match=r"cannot be opened.*variables, which must be set"):
        feature_service(ROOT / "feature_repo", "catalogue")


def test_feasts_file_store_loses_rows_that_have_only_later_labels(repo, tmp_path):
    """Why labels known after as_of are taken out before the join, and the join's rows counted."""
    rows = pa.table(
        {
            "authorization_id": ["early", "late"],
            "event_at": [START, START],
            "features": pa.array([[1] * catalogue.N] * 2, pa.list_(pa.int64())),
        }
    )
    labels = pa.table(
        {
            "authorization_id": ["early", "late"],
            "known_at": [START, START + DAY_US],
            "is_fraud": [True, True],
            "kind": ["alert", "alert"],
            "source": ["network", "network"],
        }
    )
    join = Join(repo, ["hour_utc"], tmp_path, applied=True)
    assert join(rows, labels.slice(0, 1), START)["is_fraud"].to_pylist() == [True, None]
    with pytest.raises(Corrupt, match="join of 2 authorizations gave 1"):
        join(rows, labels, START)
    assert join(rows.slice(0, 0), labels.slice(0, 0), START).num_rows == 0


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated bank's month, backfilled into an archive."""
    folder = tmp_path_factory.mktemp("simulated")
    write(World(Config(cards=300, fraud_bp=100.0), 3), date(2026, 3, 2), 28, folder)
    past = pq.read_table(folder / "authorizations.parquet").sort_by("event_at")
    labels = pq.read_table(folder / "labels.parquet").sort_by("event_at")
    fx = read_policy(ROOT / "policies" / "default", catalogue.FEATURES).fx
    made = backfill(history_from(past), fx, labels_from(labels))
    archive = folder / "archive"
    columns = {name: past[name].combine_chunks() for name in past.column_names}
    columns |= {
        "features": made.features.tolist(),
        "catalogue": [catalogue.DIGEST] * len(past),
        "reference_amount_minor": made.features[:, catalogue.INDEX["amount_minor"]],
        "reference_currency": ["EUR"] * len(past),
    }
    write_log(archive, "history", columns)
    named = {name: labels[name].combine_chunks() for name in labels.column_names}
    write_log(archive, "history_labels", named, partition=1)
    files = [str(folder / f"{name}.parquet") for name in ("authorizations", "at-once")]
    at_once = labels.set_column(
        labels.column_names.index("known_at"), "known_at", labels["event_at"]
    )
    pq.write_table(at_once, files[1])
    words = ["backfill", files[0], "--labels", files[1], "--no-store"]
    assert main([*words, "--archive", str(folder / "at-once"), "--threads", "1"]) == 0
    return folder


def test_a_simulated_month_becomes_a_training_set_wherever_it_is_put(
    repo, simulated, s3, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("SLUICE_ARCHIVER_ROOT", str(simulated / "archive"))
    reported = ["dataset", "build", "--service", "catalogue", "--from", "2026-03-02", "--to",
            "2026-03-30", "--label-delay", "7d", "--test", "7d", "--repo", str(repo),
            "--processes", "2"]  # fmt: skip
    assert main([*reported, "--out", str(tmp_path / "refused")]) == 1
    assert "card_frauds_reported" in capsys.readouterr().err
    accept = ["--accept-unbounded", "card_frauds_reported"]
    assert main([*reported, *accept, "--out", str(tmp_path / "one")]) == 0
    assert "labels as known at 2026-03-23T00:00:00Z" in capsys.readouterr().out
    manifest = json.loads((tmp_path / "one" / "manifest.json").read_text())
    train, test = manifest["splits"]
    truth = pq.read_table(simulated / "truth.parquet").to_pandas()
    past = pd.read_parquet(simulated / "authorizations.parquet")
    past["fraud_known"] = truth["known_at"].to_numpy()
    inside = past[past["event_at"] < START + 14 * DAY_US]
    assert train["rows"] == len(inside)
    assert train["frauds"] == int((inside["fraud_known"] <= START + 21 * DAY_US).sum()) > 0
    assert test["left_out_compromised"] > 0
    total = train["rows"] + test["rows"] + test["left_out_compromised"] + manifest["log"]["unused"]
    assert total == len(past)
    assert main([*reported, *accept, "--out", str(tmp_path / "two")]) == 0
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")
    url = f"s3://{BUCKET}/sets/simulated"
    assert main([*reported, *accept, "--out", url]) == 0
    assert f"{url}/manifest.json in " in capsys.readouterr().out
    with reading(load()[0], url, print) as copied:
        assert bytes_of(copied) == bytes_of(tmp_path / "one")
    assert main([*reported, *accept, "--out", url]) == 1
    assert "there is something already" in capsys.readouterr().err


def test_the_manifest_describes_what_is_there(repo, tmp_path):
    root = log_of(9, n=60).write(tmp_path / "archive")
    made = make(root, repo, tmp_path / "set", test_days=0)
    text = (tmp_path / "set" / "manifest.json").read_bytes()
    assert json.loads(text)["inputs"]["files"].keys() == {
        str(path.relative_to(root)) for path in root.rglob("*.parquet")
    }
    assert isinstance(made, Manifest)
    assert str(tmp_path).encode() not in text
    assert set(made.features) == set(catalogue.NAMES)


@on_both_stores
def test_the_sdk_is_asked_for_the_join(repo, tmp_path, monkeypatch):
    """Counts the calls of Feast's own join: one a partition."""
    asked = []
    join = FeatureStore.get_historical_features

    def count(self: FeatureStore, **given: Any) -> Any:
        asked.append(len(given["entity_df"]))
        return join(self, **given)

    monkeypatch.setattr(FeatureStore, "get_historical_features", count)
    rows = pa.table(
        {
            "authorization_id": ["a"],
            "event_at": [START],
            "features": pa.array([list(range(catalogue.N))], pa.list_(pa.int64())),
        }
    )
    empty = pa.table(
        {
            "authorization_id": pa.array([], pa.string()),
            "known_at": pa.array([], pa.int64()),
            "is_fraud": pa.array([], pa.bool_()),
            "kind": pa.array([], pa.string()),
            "source": pa.array([], pa.string()),
        }
    )
    found = Join(repo, catalogue.NAMES[:2], tmp_path, applied=True)(rows, empty, START)
    assert asked == [1]
    assert found.to_pylist() == [
        {
            catalogue.NAMES[0]: 0,
            catalogue.NAMES[1]: 1,
            "is_fraud": None,
            "kind": None,
            "source": None,
        }
    ]
