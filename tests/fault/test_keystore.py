"""Kill an erasure at each named point: it happened whole, with its record, or not at all."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sluice.adapters.keystore.roots import NoWrapper, RootFile
from sluice.adapters.keystore.sqlite import SqliteKeystore
from sluice.adapters.parquet.archive import Archive, ParquetFiles
from sluice.application.ports import Message
from sluice.application.sealing import Erased
from sluice.cli import main
from sluice.domain.clock import SystemClock
from sluice.domain.records.authorization import encode
from sluice.errors import Corrupt
from sluice.testing.records import make_decision

pytestmark = pytest.mark.fault

QUARTER = "2026Q2"
BEFORE = ("erasure.before_rename", "keystore.before_overwrite:1", "keystore.root_added")
AFTER = ("keystore.committed", "keystore.copied", "keystore.before_overwrite:2")


ARGUMENTS = [
    "log", "erase", "--tenant", "test", "--card", "card-1", "--through", QUARTER, "--who", "ann",
    "--case", "GDPR-17",
]  # fmt: skip


def _settings(folder: Path) -> dict[str, str]:
    return {
        "SLUICE_KEYSTORE_PATH": str(folder / "keys.sqlite"),
        "SLUICE_KEYSTORE_ROOTS": str(folder / "roots.json"),
        "SLUICE_KEYSTORE_COPIES": str(folder / "copies"),
        "SLUICE_ARCHIVER_ROOT": str(folder / "archive"),
    }


def _killed(folder: Path, kill_at: str) -> int:
    return subprocess.run(
        [sys.executable, "-c", f"from sluice.cli import main; raise SystemExit(main({ARGUMENTS}))"],
        check=False,
        stdout=subprocess.DEVNULL,
        env=os.environ | _settings(folder) | {"SLUICE_KILL_AT": kill_at},
    ).returncode


def _open(folder: Path) -> SqliteKeystore:
    roots = RootFile(folder / "roots.json", NoWrapper())
    return SqliteKeystore(folder / "keys.sqlite", roots, SystemClock(), folder / "copies")


@pytest.mark.parametrize("point", [*BEFORE, *AFTER])
def test_a_killed_erasure_is_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    SqliteKeystore.make(tmp_path / "keys.sqlite", RootFile(tmp_path / "roots.json", NoWrapper()))
    store = _open(tmp_path)
    card, other = store.subject("test", "card-1"), store.subject("test", "card-2")
    ours, theirs = store.keys([(card, QUARTER), (other, QUARTER)])
    store.close()
    shutil.copy(tmp_path / "keys.sqlite", tmp_path / "before.sqlite")
    files = ParquetFiles(tmp_path / "archive", {"d": "decisions"})
    files.write(("d", 0), [Message(encode(make_decision()), None, "d", 0, 0, None, 86_400_000)])

    assert _killed(tmp_path, point) == -signal.SIGKILL
    store = _open(tmp_path)
    assert theirs
    assert store.existing(other, QUARTER).commitment == theirs.commitment
    if point in AFTER:
        assert [event.kind for event in store.events(0, 9)] == ["erasure"]
        with pytest.raises(Erased):
            store.existing(card, QUARTER)
    else:
        assert store.events(0, 9) == []
        assert ours
        assert store.existing(card, QUARTER).commitment == ours.commitment
    store.close()
    assert len(RootFile(tmp_path / "roots.json", NoWrapper()).read()) == 1

    for name, value in _settings(tmp_path).items():
        monkeypatch.setenv(name, value)
    assert main(ARGUMENTS) == 0
    store = _open(tmp_path)
    with pytest.raises(Erased):
        store.existing(card, QUARTER)
    assert store.existing(other, QUARTER).commitment == theirs.commitment
    store.close()
    assert Archive(tmp_path / "archive").read()["card_token"][0].as_py().startswith("erased-")
    newest = max((tmp_path / "copies").iterdir())
    for copy, opens in ((tmp_path / "before.sqlite", False), (newest, True)):
        shutil.copy(copy, tmp_path / "keys.sqlite")
        if opens:
            assert _open(tmp_path).existing(other, QUARTER).commitment == theirs.commitment
        else:
            with pytest.raises(Corrupt, match="from before an erasure"):
                _open(tmp_path)
