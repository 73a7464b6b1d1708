"""``sluice backfill`` from the command line, on a real Valkey."""

from __future__ import annotations

from collections.abc import Iterator
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
    assert RedisWatermark(url).read().state == READY

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
    RedisWatermark(url).initialise()
    newer = {**TABLES, "channel": {**TABLES["channel"], "kiosk": 6}}
    store = RedisStateStore(url)
    store.connection.call(pack(b"HSET", KEY, b"format", note(newer).encode()), 1)
    assert main(["backfill", str(tmp_path / "authorizations.parquet")]) != 0
    assert "its table of channel has 6 entries, ours has 5" in capsys.readouterr().err
    assert store.clear() == 0
    store.close()
