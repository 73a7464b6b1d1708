from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sluice.adapters.parquet.dataset import (
    dataset_digest,
    features_of,
    read_manifest,
    read_split,
)
from sluice.application.dataset_manifest import MANIFEST, Manifest
from sluice.domain.features import catalogue
from sluice.errors import Corrupt, Rejected
from tests.support.datasets import manifest_of, split_of

FEATURES = {"hour_utc": "this authorization", "amount_minor": "this authorization"}
PARTS = ("train/part-00000.parquet", "train/part-00001.parquet")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A training set of two files with two rows each."""
    manifest = manifest_of(features=FEATURES)
    files = {}
    for number, path in enumerate(PARTS):
        rows = {
            name: pa.array([f"{name}-{number}-{i}" for i in range(2)])
            for name in manifest.columns()
        }
        rows |= {"amount_minor": pa.array([5, 6]), "hour_utc": pa.array([number, 23])}
        (tmp_path / path).parent.mkdir(exist_ok=True)
        pq.write_table(pa.table(rows), tmp_path / path)
        files[path] = hashlib.sha256((tmp_path / path).read_bytes()).hexdigest()
    write(tmp_path, manifest_of(features=FEATURES, splits=[split_of("train", files=files)]))
    return tmp_path


def write(folder: Path, manifest: Manifest) -> None:
    (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest))


def test_the_rows_of_a_split_come_in_the_order_of_its_files(folder):
    rows = read_split(folder, "train")
    assert rows.column_names == read_manifest(folder).columns()
    assert rows["card_token"].to_pylist() == [f"card_token-{i}-{j}" for i in (0, 1) for j in (0, 1)]


def test_features_come_in_the_manifests_order_and_a_column_is_written_once(folder):
    manifest = read_manifest(folder)
    assert manifest.columns().count("amount_minor") == 1
    found = features_of(read_split(folder, "train", list(FEATURES)), manifest)
    assert found.dtype == np.int64
    assert found.tolist() == [[0, 5], [23, 6], [1, 5], [23, 6]]


def test_a_changed_byte_is_found(folder):
    path = folder / PARTS[1]
    raw = bytearray(path.read_bytes())
    raw[10] ^= 1
    path.write_bytes(raw)
    with pytest.raises(Corrupt, match="not the file that the manifest names") as refused:
        read_split(folder, "train", ["hour_utc"])
    assert PARTS[1] in refused.value.where


def test_a_missing_file_is_found(folder):
    (folder / PARTS[0]).unlink()
    with pytest.raises(Corrupt, match="cannot be read"):
        read_split(folder, "train")


def test_a_split_or_a_column_that_is_not_there_is_refused_with_those_that_are(folder):
    with pytest.raises(Rejected, match=r"no split test-1.*it has train"):
        read_split(folder, "test-1")
    with pytest.raises(Rejected, match="no column score"):
        read_split(folder, "train", ["score"])


def test_a_set_of_another_catalogue_is_refused(folder):
    write(folder, manifest_of(catalogue="0123456789abcdef"))
    with pytest.raises(Rejected, match=rf"0123456789abcdef.*{catalogue.DIGEST}") as refused:
        read_split(folder, "train")
    assert refused.value.code == "other_catalogue"
    assert read_manifest(folder, any_catalogue=True).catalogue == "0123456789abcdef"


def test_a_set_of_another_kernel_is_refused_by_the_features_that_it_computed_otherwise(folder):
    ours = {name: catalogue.digest(catalogue.FEATURES[catalogue.INDEX[name]]) for name in FEATURES}
    others = {"amount_minor": "0" * 16, "zodiac": "1" * 16}
    write(folder, manifest_of(catalogue="0123456789abcdef", meanings=ours | others))
    with pytest.raises(Rejected, match="these are others: amount_minor, zodiac") as refused:
        read_manifest(folder)
    assert refused.value.code == "other_catalogue"
    many = {f"f{i}": "" for i in range(9)}
    write(folder, manifest_of(catalogue="0123456789abcdef", meanings=many))
    with pytest.raises(Rejected, match="f4, 4 more"):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b'{"v": 1, "service": "mlp"}', "other_version"),
        (b'{"v": 2}', "bad_manifest"),
        (b"\xff", "bad_manifest"),
        (b"[" * 100_000, "bad_manifest"),
    ],
)
def test_what_is_no_manifest_of_ours_is_refused(folder, raw, code):
    (folder / MANIFEST).write_bytes(raw)
    with pytest.raises(Rejected) as refused:
        read_manifest(folder)
    assert (refused.value.code, refused.value.where) == (code, str(folder / MANIFEST))


def test_a_folder_without_a_manifest_is_no_training_set(tmp_path):
    with pytest.raises(Rejected, match="no training set"):
        read_split(tmp_path, "train")


def test_one_digest_names_the_whole_set(folder):
    before = dataset_digest(folder)
    assert before == hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    write(folder, manifest_of(seed=2))
    assert dataset_digest(folder) != before


def test_a_newer_writers_fields_are_passed_over(folder):
    held = msgspec.json.decode((folder / MANIFEST).read_bytes())
    (folder / MANIFEST).write_bytes(msgspec.json.encode(held | {"new": 1}))
    assert read_manifest(folder).v == 2
