"""Erasure in the archive: what goes from its files, what stays, and that the rest is untouched."""

from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sluice.adapters.parquet.archive import Archive, ParquetFiles
from sluice.adapters.parquet.columns import SCHEMAS, fit
from sluice.adapters.parquet.erasure import ERASED, erase_rows, sketch_bit, unlike
from sluice.adapters.parquet.event_history import ArchiveEventHistory, Bucket
from sluice.adapters.parquet.feature_log import FeatureLog
from sluice.adapters.parquet.history import HistoryFiles
from sluice.application.ports import Message
from sluice.application.sealing import period_of
from sluice.domain.features import catalogue
from sluice.domain.features.tilestate import card_bit
from sluice.domain.records.authorization import encode
from sluice.domain.records.identifiers import tag32
from sluice.testing.factories import NOON_US, make_authorization, make_label
from sluice.testing.records import make_decision

QUARTER = period_of(NOON_US)
PERSONAL = {
    "card_token": "card-of-ann", "customer_id": "customer-ann", "device_id": "device-ann",
    "ip_prefix": "203.0.113.0/24",
}  # fmt: skip
WORDS = [text.encode() for text in PERSONAL.values()]


def erased(tenant: str, token: str) -> str:
    return QUARTER if (tenant, token) == ("test", "card-of-ann") else ""


def message(offset: int, value: bytes, topic: str, partition: int = 0) -> Message:
    return Message(value, None, topic, partition, offset, None, NOON_US // 1000 + offset)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four decisions, two of them Ann's, a label of each, and a backfilled purchase of hers."""
    files = ParquetFiles(tmp_path, {"d": "decisions", "l": "labels"})
    for first in (0, 2):
        ids = range(first, first + 2)
        whose = [dict(PERSONAL) if i % 2 else {"card_token": "card-of-bob"} for i in ids]
        files.write(
            ("d", 0),
            [
                message(i, encode(make_decision(f"a-{i}", sequence=i, **who)), "d")
                for i, who in zip(ids, whose, strict=True)
            ],
            "topic-1",
        )
        labels = [
            make_label(make_authorization(f"a-{i}", **who), known_at=NOON_US + i)
            for i, who in zip(ids, whose, strict=True)
        ]
        files.write(("l", 0), [message(first + k, encode(x), "l") for k, x in enumerate(labels)])
    auths = [make_authorization("h-1", **PERSONAL), make_authorization("h-2", card_token="bob")]
    rows = pa.Table.from_pylist([msgspec.to_builtins(auth) for auth in auths])
    history = HistoryFiles(tmp_path, "mark")
    wanted = pa.schema([f for f in SCHEMAS["history"] if f.name in rows.column_names])
    history.write_history(
        0, fit(rows, wanted), np.array([5, 6]), "EUR", np.ones((2, catalogue.N), np.int64)
    )
    return tmp_path


def holding(root: Path) -> list[str]:
    """Files in which a reader finds anything of Ann's."""
    found = []
    for path in sorted(root.rglob("*.parquet")):
        said = str(pq.read_table(path).to_pylist()).encode()
        found += [path.name for word in WORDS if word in said][:1]
    return found


def test_nothing_of_a_person_is_left_in_any_file_and_the_rest_is_as_it_was(root: Path) -> None:
    before = {kind: Archive(root).read(kind).to_pylist() for kind in SCHEMAS}
    about = {path: pq.read_schema(path).metadata for path in root.rglob("*.parquet")}
    assert len(holding(root)) == 5
    assert erase_rows(root, erased) == 5
    assert holding(root) == []
    assert {path: pq.read_schema(path).metadata for path in root.rglob("*.parquet")} == about
    after = {kind: Archive(root).read(kind).to_pylist() for kind in SCHEMAS}
    tokens = []
    for kind, rows in before.items():
        for old, new in zip(rows, after[kind], strict=True):
            if old["card_token"] != "card-of-ann":
                assert new == old
                continue
            gone = {"card_token", "customer_id", "device_id", "ip_prefix", "record"}
            assert {k: v for k, v in new.items() if k not in gone} == {
                k: v for k, v in old.items() if k not in gone
            }
            assert new["card_token"].startswith(ERASED)
            assert new["device_id"] is None
            tokens.append(new["card_token"])
    assert len(set(tokens)) == len(tokens) == 5
    assert not [path for path in root.rglob("*") if path.name.startswith(".")]


def test_a_record_that_was_erased_is_still_one_and_is_not_recomputed(root: Path) -> None:
    erase_rows(root, erased)
    [found] = Archive(root).find("a-1")
    assert found.decision.catalogue == "erased"
    assert (found.decision.features, found.decision.pending) == ([], [])
    assert found.decision.states.card is None
    assert found.decision.outcome == make_decision().outcome
    [bob] = Archive(root).find("a-2")
    assert bob.record == encode(make_decision("a-2", sequence=2, card_token="card-of-bob"))
    assert len(list(Archive(root).labels())) == 4


def test_the_feature_log_and_the_states_of_others_read_on(root: Path) -> None:
    before = ArchiveEventHistory(root).read(Bucket(0, 1))
    erase_rows(root, erased)
    after = ArchiveEventHistory(root).read(Bucket(0, 1))
    assert len(after.events) == len(before.events)
    log = FeatureLog(root, NOON_US - 1, NOON_US + 1)
    rows = log.rows(NOON_US - 1, NOON_US + 1)
    assert len(rows) == 6
    assert rows["catalogue"].to_pylist().count("erased") == 0


def test_a_second_erasure_and_one_of_another_tenant_or_quarter_change_nothing(root: Path) -> None:
    assert erase_rows(root, lambda tenant, token: "2020Q1") == 0
    assert erase_rows(root, lambda tenant, token: QUARTER * (tenant == "other")) == 0
    erase_rows(root, erased)
    stamps = {path: path.stat().st_mtime_ns for path in root.rglob("*.parquet")}
    assert erase_rows(root, erased) == 0
    assert erase_rows(root, lambda tenant, token: QUARTER * token.startswith(ERASED)) == 0
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.parquet")} == stamps


def test_an_archive_without_a_file_has_nothing_to_erase(tmp_path: Path) -> None:
    assert erase_rows(tmp_path, erased) == 0


def test_a_token_is_replaced_by_one_that_counts_alike() -> None:
    for n in range(200):
        token = f"card-{n}"
        assert card_bit(tag32(token)) == np.int64(1) << np.int64(sketch_bit(token))
        assert card_bit(tag32(unlike(token))) == card_bit(tag32(token))
    assert unlike("card-1") != unlike("card-1")
