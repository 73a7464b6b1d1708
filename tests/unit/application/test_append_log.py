"""The writer of a log: what it has made durable is found again, and what it signed stays true."""

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sluice.adapters.tiles.folder import LogFolder
from sluice.application.append_log import BEHIND, FENCED, AppendLog
from sluice.audit.checkpoints import open_checkpoint
from sluice.audit.merkle import check_consistency, consistency_proof, root_of
from sluice.audit.tiles import read_entries, reader, tiles_of
from sluice.errors import Corrupt, Misconfigured, Unavailable
from sluice.testing.log import ORIGIN, KeptCheckpoints, log_at
from tests.support.merkle import tree_hash

SIZES = [1, 2, 255, 256, 257, 511, 512, 700]


def entries(first: int, until: int) -> list[bytes]:
    return [b"entry %d" % number for number in range(first, until)]


def opened(folder: Path, kept: KeptCheckpoints) -> AppendLog:
    log = log_at(folder, kept)
    log.open()
    return log


def test_tiles_are_those_of_the_tree_whatever_the_sizes(tmp_path: Path) -> None:
    kept = KeptCheckpoints()
    log = opened(tmp_path / "log", kept)
    for size in SIZES:
        assert log.append(entries(log.size, size)) == size
        signed = log.checkpoint()
        assert signed is not None
        store = LogFolder(tmp_path / "log")
        assert store.read("checkpoint") == signed == kept.kept[-1]
        found = open_checkpoint(signed, ORIGIN, log.key).checkpoint
        assert (found.size, found.root) == (size, tree_hash(entries(0, size)))
        assert root_of(size, reader(size, store.read)) == found.root
        held = [
            entry
            for tile in tiles_of(size)
            if tile.level == 0
            for entry in read_entries(store.read, tile)
        ]
        assert held == entries(0, size)


def test_every_checkpoint_is_a_beginning_of_every_later_one(tmp_path: Path) -> None:
    kept = KeptCheckpoints()
    log = opened(tmp_path / "log", kept)
    for size in SIZES:
        log.append(entries(log.size, size))
        log.checkpoint()
    read = LogFolder(tmp_path / "log").read
    found = [open_checkpoint(raw, ORIGIN, log.key).checkpoint for raw in kept.kept]
    for old in found:
        for new in found:
            if old.size <= new.size:
                proof = consistency_proof(old.size, new.size, reader(new.size, read))
                check_consistency(old.size, new.size, old.root, new.root, proof)


def test_nothing_new_makes_no_checkpoint(tmp_path: Path) -> None:
    log = opened(tmp_path / "log", KeptCheckpoints())
    assert log.checkpoint() is None
    log.append([b"one"])
    assert log.checkpoint() is not None
    assert log.checkpoint() is None


@pytest.mark.parametrize("size", [3, 256, 300, 513])
@pytest.mark.parametrize("signed", [0, 1, 256, 300])
def test_what_was_appended_is_there_after_a_death(tmp_path: Path, size: int, signed: int) -> None:
    kept = KeptCheckpoints()
    log = opened(tmp_path / "log", kept)
    log.append(entries(0, min(signed, size)))
    log.checkpoint()
    at = log.size
    log.append(entries(at, size))
    log.close()  # as death does: nothing is written by it
    again = log_at(tmp_path / "log", kept)
    assert again.open() == entries(at, size)
    assert again.size == size
    again.append(entries(size, size + 2))
    again.checkpoint()
    assert again.signed.root == tree_hash(entries(0, size + 2))


def test_a_torn_tail_is_cut_wherever_it_tears(tmp_path: Path) -> None:
    kept = KeptCheckpoints()
    log = opened(tmp_path / "log", kept)
    log.append([b"signed"])
    log.checkpoint()
    log.append([b"whole"])
    ahead = tmp_path / "log.ahead" / f"{1:020}.entries"
    before = ahead.stat().st_size
    log.append([b"torn", b"gone"])
    log.close()
    raw = ahead.read_bytes()
    for end in range(before, len(raw)):
        ahead.write_bytes(raw[:end])
        again = log_at(tmp_path / "log", kept)
        found = again.open()
        assert found in ([b"whole"], [b"whole", b"torn"])
        whole = before if len(found) == 1 else before + 20
        assert ahead.read_bytes() == raw[:whole]
        assert again.cut == (end > whole)
        again.close()


def test_damage_in_the_write_ahead_file_is_a_tear(tmp_path: Path) -> None:
    log = opened(tmp_path / "log", KeptCheckpoints())
    log.append([b"one", b"two"])
    log.close()
    ahead = tmp_path / "log.ahead" / f"{0:020}.entries"
    raw = ahead.read_bytes()
    for at in range(len(raw)):
        ahead.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        again = log_at(tmp_path / "log", KeptCheckpoints())
        assert again.open() == [b"one", b"two"][: at // 19]
        assert again.cut
        again.close()


def test_appends_go_on_while_a_checkpoint_is_finished(tmp_path: Path) -> None:
    kept = KeptCheckpoints()
    log = opened(tmp_path / "log", kept)
    log.append(entries(0, 300))
    pending = log.begin()
    assert pending is not None
    log.append(entries(300, 600))
    log.finish(pending)
    assert log.signed.root == tree_hash(entries(0, 300))
    assert [path.name for path in sorted((tmp_path / "log.ahead").glob("*.entries"))] == [
        f"{300:020}.entries"
    ]
    log.close()
    again = log_at(tmp_path / "log", kept)
    assert again.open() == entries(300, 600)
    again.checkpoint()
    assert again.signed.root == tree_hash(entries(0, 600))
    assert list(again.entries(250, 520)) == entries(250, 520)


def test_a_checkpoint_that_was_begun_and_never_finished_loses_nothing(tmp_path: Path) -> None:
    kept = KeptCheckpoints()
    log = opened(tmp_path / "log", kept)
    log.append(entries(0, 300))
    log.begin()
    log.append(entries(300, 310))
    log.close()
    again = log_at(tmp_path / "log", kept)
    assert again.open() == entries(0, 310)
    assert len(list((tmp_path / "log.ahead").glob("*.entries"))) == 1


def test_a_disk_behind_a_published_checkpoint_is_refused(tmp_path: Path) -> None:
    kept = KeptCheckpoints()
    log = opened(tmp_path / "log", kept)
    log.append(entries(0, 10))
    log.checkpoint()
    log.close()
    with pytest.raises(Corrupt, match="10 entries was published, and the disk has 0") as refused:
        log_at(tmp_path / "empty", kept).open()
    assert refused.value.code == BEHIND


def test_a_disk_with_another_tree_than_the_published_one_is_refused(tmp_path: Path) -> None:
    kept = KeptCheckpoints()
    log = opened(tmp_path / "log", kept)
    log.append(entries(0, 10))
    log.checkpoint()
    other = opened(tmp_path / "other", KeptCheckpoints())
    other.append(entries(1, 13))
    other.close()
    with pytest.raises(Corrupt, match="another one"):
        log_at(tmp_path / "other", kept).open()
    third = opened(tmp_path / "third", KeptCheckpoints())
    third.append(entries(1, 13))
    third.checkpoint()
    third.close()
    with pytest.raises(Corrupt, match="another one"):
        log_at(tmp_path / "third", kept).open()


def test_a_checkpoint_that_was_published_and_not_shown_is_gone_on_from(tmp_path: Path) -> None:
    kept = KeptCheckpoints()
    log = opened(tmp_path / "log", kept)
    log.append(entries(0, 5))
    log.checkpoint()
    log.append(entries(5, 9))
    log.close()
    copy = opened(tmp_path / "copy", KeptCheckpoints())
    copy.append(entries(0, 8))
    signed = copy.checkpoint()
    assert signed is not None
    kept.kept.append(signed)
    again = log_at(tmp_path / "log", kept)
    assert again.open() == entries(5, 9)


def test_a_checkpoint_of_another_key_or_log_is_refused(tmp_path: Path) -> None:
    log = opened(tmp_path / "log", KeptCheckpoints())
    log.append([b"one"])
    log.checkpoint()
    log.close()
    another = Ed25519PrivateKey.from_private_bytes(bytes(32))
    with pytest.raises(Corrupt, match="the folder's checkpoint is not this log's"):
        log_at(tmp_path / "log", private=another).open()
    with pytest.raises(Corrupt, match="the folder's checkpoint is not this log's"):
        log_at(tmp_path / "log", origin="prod/eu/0").open()


def _flip(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))


@pytest.mark.parametrize(
    "harm",
    [
        lambda log: (log / "tile/0/001.p/44").unlink(),
        lambda log: (log / "tile/entries/001.p/44").unlink(),
        lambda log: _flip(log / "tile/0/001.p/44"),
        lambda log: _flip(log / "tile/1/000.p/1"),
        lambda log: _flip(log / "tile/entries/001.p/44"),
    ],
)
def test_tiles_that_are_not_the_checkpoints_are_refused(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    kept = KeptCheckpoints()
    log = opened(tmp_path / "log", kept)
    log.append(entries(0, 300))
    log.checkpoint()
    log.close()
    harm(tmp_path / "log")
    with pytest.raises(Corrupt, match="files are damaged"):
        log_at(tmp_path / "log", kept).open()


def test_of_two_writers_of_one_folder_the_second_is_refused(tmp_path: Path) -> None:
    kept = KeptCheckpoints()
    first = opened(tmp_path / "log", kept)
    with pytest.raises(Misconfigured, match="another process writes this log"):
        log_at(tmp_path / "log", kept).open()
    first.close()
    opened(tmp_path / "log", kept)


def test_of_two_writers_of_two_folders_the_first_is_fenced(tmp_path: Path) -> None:
    kept = KeptCheckpoints()
    first = opened(tmp_path / "one", kept)
    second = opened(tmp_path / "two", kept)
    first.append([b"mine"])
    with pytest.raises(Corrupt) as refused:
        first.checkpoint()
    assert refused.value.code == FENCED
    second.append([b"ours"])
    second.checkpoint()
    assert len(kept.kept) == 1


def test_an_entry_that_is_too_long_is_refused_whole(tmp_path: Path) -> None:
    log = opened(tmp_path / "log", KeptCheckpoints())
    with pytest.raises(ValueError, match="65536 bytes"):
        log.append([b"", bytes(65_536)])
    assert log.append([bytes(65_535)]) == 1


def test_nothing_is_taken_before_it_is_open(tmp_path: Path) -> None:
    log = log_at(tmp_path / "log")
    with pytest.raises(Unavailable, match="not open"):
        log.append([b"one"])
    with pytest.raises(Unavailable, match="not open"):
        log.checkpoint()
