"""``sluice backfill`` from the command line, on a real Valkey."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from sluice_simulator.config import Config
from sluice_simulator.history import write
from sluice_simulator.world import World

from sluice.adapters.parquet.archive import Archive
from sluice.adapters.redis.commands import pack
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.adapters.redis.states import RedisStateStore
from sluice.adapters.redis.watermark import KEY, RedisWatermark
from sluice.application.ports import READY
from sluice.cli import main
from sluice.domain.features.stateformat import TABLES, note
from tests.support.mapping import LABELS, MAPPING

pytestmark = pytest.mark.integration


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    with EmbeddedStore() as server:
        monkeypatch.setenv("SLUICE_STORE_URL", server.url)
        monkeypatch.setenv("SLUICE_ARCHIVER_ROOT", str(tmp_path / "archive"))
        yield server.url


def test_the_verb_fills_archive_and_store_twice_alike_and_refuses_another_history(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = RedisStateStore(url)
    write(World(Config(cards=60), 3), date(2026, 1, 1), 3, tmp_path)
    file = str(tmp_path / "authorizations.parquet")
    labels = ["--labels", str(tmp_path / "labels.parquet")]
    until = ["--until", "2026-01-03"]

    assert main(["backfill", file, *labels, *until]) == 0
    rows = Archive(tmp_path / "archive").read("history")
    whole = pq.read_table(file)
    assert 0 < len(rows) < len(whole)
    card = rows["card_token"][0].as_py()
    (state,) = store.read([("card", card)])
    assert state
    with closing(RedisWatermark(url)) as watermark:
        assert watermark.read().state == READY

    capsys.readouterr()
    assert main(["backfill", file, *labels, *until]) == 0
    said = capsys.readouterr()
    assert "0 states stored" in said.out
    assert "0 new files" in said.err

    assert main(["backfill", file, *labels]) == 78
    assert "another history" in capsys.readouterr().err
    assert store.read([("card", card)]) == [state]
    store.close()


def test_the_verb_writes_no_state_into_a_store_of_another_format(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(World(Config(cards=20), 3), date(2026, 1, 1), 1, tmp_path)
    with closing(RedisWatermark(url)) as watermark:
        watermark.initialise()
    newer = {**TABLES, "channel": {**TABLES["channel"], "kiosk": 6}}
    store = RedisStateStore(url)
    store.connection.call(pack(b"HSET", KEY, b"format", note(newer).encode()), 1)
    assert main(["backfill", str(tmp_path / "authorizations.parquet")]) != 0
    assert "its table of channel has 6 entries, ours has 5" in capsys.readouterr().err
    assert store.clear() == 0
    store.close()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((b"CONFIG", b"SET", b"requirepass", b"secret-1"), "NOAUTH|password"),
        ((b"CONFIG", b"SET", b"maxmemory-policy", b"allkeys-lru"), "maxmemory-policy"),
        ((b"REPLICAOF", b"127.0.0.1", b"1"), "replica"),
    ],
)
def test_a_store_that_will_not_take_the_states_is_told_before_the_history_is_read(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[bytes], says: str
) -> None:
    store = RedisStateStore(url)
    store.connection.call(pack(*words), 1)
    store.close()
    assert main(["backfill", str(tmp_path / "there-is-none.parquet")]) != 0
    told = capsys.readouterr().err
    assert re.search(says, told), told
    assert "there-is-none" not in told


def test_a_store_that_is_away_is_told_before_the_history_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_STORE_URL", "redis://127.0.0.1:1")
    monkeypatch.setenv("SLUICE_ARCHIVER_ROOT", str(tmp_path / "archive"))
    assert main(["backfill", str(tmp_path / "there-is-none.parquet")]) == 1
    assert "there-is-none" not in capsys.readouterr().err


def test_an_archive_that_cannot_be_written_is_told_before_the_history_is_read(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SLUICE_ARCHIVER_ROOT", str(tmp_path / "file" / "archive"))
    assert main(["backfill", str(tmp_path / "there-is-none.parquet")]) == 78
    told = capsys.readouterr().err
    assert "archiver.root" in told
    assert "there-is-none" not in told


def test_a_flag_that_nobody_listed_stops_a_backfill_with_its_value_and_count(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bank.yaml").write_text(MAPPING)
    (tmp_path / "labels.yaml").write_text(LABELS)
    flags = ["1", "maybe", "0.0", "maybe", "", "true", "maybe"]
    rows = [f"a{i},2026-01-01T00:00:00,{i},500,{flag}\n" for i, flag in enumerate(flags)]
    (tmp_path / "bank.csv").write_text("id,at,who,cents,fraud\n" + "".join(rows))
    command = ["backfill", str(tmp_path / "bank.csv"), "--mapping", str(tmp_path / "bank.yaml")]
    assert main([*command, "--labels", str(tmp_path / "labels.yaml")]) == 1
    said = capsys.readouterr().err
    assert 'bank.csv:3: column fraud: "maybe" is neither in fraud nor in not_fraud' in said
    assert '3 x column fraud: "maybe" is neither in fraud nor in not_fraud' in said
    assert "1 x column fraud: an empty cell" in said
    assert "4 bad rows, nothing was done" in said
