"""Kill an erasure at each named point: it happened whole, with its record, or not at all."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sluice.adapters.keystore.roots import DISK, NoWrapper, RootFile
from sluice.adapters.keystore.sqlite import SqliteKeystore
from sluice.adapters.parquet.archive import Archive, ParquetFiles
from sluice.application.ports import Message
from sluice.application.sealing import Erased
from sluice.cli import main
from sluice.domain.clock import SystemClock
from sluice.domain.records.authorization import encode
from sluice.errors import Corrupt, Unavailable
from sluice.testing.records import make_decision
from tests.support.disk import FAULTS, Disk, needs_disks

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


def test_a_keystore_whose_disks_take_nothing_makes_nothing_and_erases_nothing(
    tmp_path: Path,
) -> None:
    needs_disks()
    with Disk(tmp_path / "keys") as keys, Disk(tmp_path / "roots") as roots:
        at, kept = keys.root / "keys.sqlite", roots.root / "roots.json"
        SqliteKeystore.make(at, RootFile(kept, NoWrapper()))
        store = SqliteKeystore(at, RootFile(kept, NoWrapper()), SystemClock(), None)
        card, other = store.subject("test", "card"), store.subject("test", "other")
        ours, theirs = store.keys([(card, QUARTER), (other, QUARTER)])
        assert ours
        assert theirs
        made = []
        for disk in (keys, roots):
            for fault in FAULTS:
                fresh = store.subject("test", f"card-{len(made)}")
                with fault(disk):
                    if disk is keys:
                        with pytest.raises(Unavailable) as refused:
                            store.keys([(fresh, QUARTER)])
                        assert refused.value.code == DISK
                    with pytest.raises(Unavailable) as refused:
                        store.erase(card, QUARTER, who="ann", case="GDPR-17")
                    assert refused.value.code == DISK
                    assert store.existing(card, QUARTER).commitment == ours.commitment
                made += store.keys([(fresh, QUARTER)])
        assert store.events(0, 9) == []
        store.erase(card, QUARTER, who="ann", case="GDPR-17")
        store.close()
        keys.mount_again()
        roots.mount_again()

        store = SqliteKeystore(at, RootFile(kept, NoWrapper()), SystemClock(), None)
        with pytest.raises(Erased):
            store.existing(card, QUARTER)
        assert store.existing(other, QUARTER).commitment == theirs.commitment
        fresh = [(store.subject("test", f"card-{number}"), QUARTER) for number in range(len(made))]
        again = [store.existing(*one).commitment for one in fresh]
        assert again == [key.commitment for key in made if key]
        assert [event.kind for event in store.events(0, 9)] == ["erasure"]
        store.close()
        assert len(RootFile(kept, NoWrapper()).read()) == 1
