"""A keystore's files: what an erasure leaves in them and in every copy, and what is refused."""

import shutil
import sqlite3
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sluice.adapters.keystore.roots import FileWrapper, NoWrapper, RootFile
from sluice.adapters.keystore.sqlite import HELD, SqliteKeystore
from sluice.application.log_keys import make_log_key
from sluice.application.open_record import Opening
from sluice.application.sealing import Erased, period_of
from sluice.bootstrap.auditor import prepare_keys
from sluice.bootstrap.keystore import make_keystore
from sluice.domain.clock import DAY_US, SystemClock
from sluice.errors import Corrupt, Misconfigured, Rejected, SluiceError, Unavailable
from sluice.settings import AuditorSettings, KeystoreSettings, Settings

WHO = {"who": "ann", "case": "GDPR-17"}
QUARTER = "2026Q4"


class At:
    """A clock that stands still."""

    def __init__(self, now_us: int) -> None:
        self.us = now_us

    def now_us(self) -> int:
        self.us += 1
        return self.us


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    SqliteKeystore.make(tmp_path / "keys.sqlite", _roots(tmp_path))
    return tmp_path


def _roots(folder: Path) -> RootFile:
    return RootFile(folder / "roots" / "roots.json", NoWrapper())


def _open(folder: Path, *, copies: bool = True) -> SqliteKeystore:
    clock = At(SystemClock().now_us())
    kept = folder / "copies" if copies else None
    return SqliteKeystore(folder / "keys.sqlite", _roots(folder), clock, kept)


def _bring_back(copy: Path, folder: Path) -> None:
    shutil.copy(copy, folder / "keys.sqlite")


def test_no_copy_from_before_an_erasure_opens_what_was_erased(folder: Path) -> None:
    store = _open(folder)
    card, other = store.subject("t", "c"), store.subject("t", "d")
    keys = store.keys([(card, QUARTER), (other, QUARTER)])
    sealed = [key.seal(b"who", b"header") for key in keys if key]
    before = store.copy(folder / "elsewhere")
    live = {path: path.read_bytes() for path in folder.glob("keys.sqlite*")}
    assert store.erase(card, QUARTER, **WHO).periods == [QUARTER]
    with pytest.raises(Erased):
        store.existing(card, QUARTER)
    assert store.existing(other, QUARTER).open(sealed[1], b"header") == b"who"
    after = sorted((folder / "copies").iterdir())
    store.close()

    _bring_back(before, folder)
    with pytest.raises(Corrupt, match="copy from before an erasure") as refused:
        _open(folder)
    assert refused.value.code == "root_gone"
    for path, content in live.items():  # all that lay there, as it lay
        path.write_bytes(content)
    with pytest.raises(Corrupt, match="copy from before an erasure"):
        _open(folder)

    assert len(after) == 1
    _bring_back(after[0], folder)
    store = _open(folder)
    assert store.existing(other, QUARTER).open(sealed[1], b"header") == b"who"
    with pytest.raises(Erased):
        store.key(card, QUARTER)


def test_the_root_key_that_wrapped_an_erased_key_is_in_no_file(folder: Path) -> None:
    store = _open(folder)
    card = store.subject("t", "c")
    store.keys([(card, QUARTER)])
    root = _roots(folder).read()[0]
    with (folder / "roots" / "roots.json").open("rb") as held:  # its blocks, once it is replaced
        store.erase(card, QUARTER, **WHO)
        assert root not in _roots(folder).read().values()
        assert set(held.read()) == {0}


def test_a_copy_of_everything_has_the_erasures_of_the_log_done_again(folder: Path) -> None:
    store = _open(folder, copies=False)
    card, other, third = (store.subject("t", name) for name in "cde")
    store.keys([(one, "2026Q1") for one in (card, other, third)] + [(card, QUARTER)])
    store.hold(other, who="ann", case="C-1")
    shutil.copytree(folder, folder.parent / "snapshot")
    store.access(Opening("a-1", 7, "0" * 64), card, **WHO)
    store.access(Opening("a-2", 8, "0" * 64), None, **WHO)  # a record with nothing sealed
    store.override("a-1", before="review", after="approve", **WHO)
    store.admin("retention", "runs", ["train/20260101T020000"], **WHO)
    store.hold(third, who="ann", case="C-2")
    store.unhold(other, who="ann", case="C-1")
    store.erase(card, "2026Q2", **WHO)
    store.expire("2026Q1", **WHO)
    logged = store.events(0, 100)
    assert [event.sequence for event in logged] == list(range(9))

    old = _open(folder.parent / "snapshot", copies=False)
    assert old.emitter == store.emitter
    assert old.existing(card, "2026Q1")
    with pytest.raises(Corrupt, match="brought back from a copy") as behind:
        old.events(len(logged), 1)
    assert behind.value.code == "keystore_behind"
    with pytest.raises(Corrupt, match="lacks event 1"):
        old.reapply(logged[2:])
    with pytest.raises(Corrupt, match="event 0 is another"):
        old.reapply([msgspec.structs.replace(logged[0], case="C-9")])
    assert old.reapply(logged) == 8
    assert old.reapply(logged) == 0
    assert old.events(0, 100) == logged
    assert [hold.case for hold in old.holds()] == ["C-2"]
    for kept, quarter in ((third, "2026Q1"), (card, QUARTER)):
        assert old.existing(kept, quarter).commitment == store.key(kept, quarter).commitment
    for gone in (card, other):
        with pytest.raises(Erased):
            old.existing(gone, "2026Q1")


def test_who_has_the_keystore_open_hears_of_an_erasure_by_another(folder: Path) -> None:
    auditor, verb = _open(folder), _open(folder)
    card, other = auditor.subject("t", "c"), auditor.subject("t", "d")
    first = auditor.keys([(card, QUARTER), (other, QUARTER)])
    verb.erase(card, QUARTER, **WHO)
    for store in (auditor, verb):
        after = store.keys([(card, QUARTER), (other, QUARTER), (card, "2027Q1")])
        assert after[0] is None
        assert after[1]
        assert first[1]
        assert after[1].commitment == first[1].commitment
        assert after[2]
    assert [event.kind for event in auditor.events(0, 9)] == ["erasure"]


def test_no_erasure_ends_between_a_secret_and_its_buckets_key(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits until both are read; what was read is let go when it has ended."""
    auditor, verb = _open(folder), _open(folder)
    card = verb.subject("t", "c")
    (made,) = verb.keys([(card, QUARTER)])
    verb._db.execute("PRAGMA busy_timeout=10")
    bucket, waited = auditor._bucket, []

    def erase_first(period: str, raw: bytes) -> AESGCM:
        with pytest.raises(Unavailable, match="locked") as told:
            verb.erase(card, QUARTER, **WHO)
        waited.append(told.value.fix)
        return bucket(period, raw)

    monkeypatch.setattr(auditor, "_bucket", erase_first)
    assert made
    assert auditor.existing(card, QUARTER).commitment == made.commitment
    assert waited == ["another process holds it"]
    verb.erase(card, QUARTER, **WHO)
    assert auditor.keys([(card, QUARTER)]) == [None]


def test_an_erasure_is_refused_under_a_hold_and_changes_nothing(folder: Path) -> None:
    store = _open(folder)
    card = store.subject("t", "c")
    (key,) = store.keys([(card, QUARTER)])
    store.hold(card, who="ann", case="C-1")
    store.hold(card, who="ann", case="C-2")
    for case in ("C-1", "C-2"):
        with pytest.raises(Rejected, match="legal hold") as refused:
            store.erase(card, QUARTER, **WHO)
        assert refused.value.code == HELD
        store.unhold(card, who="ann", case=case)
    assert key
    assert store.key(card, QUARTER).commitment == key.commitment
    assert store.counts().generation == 0
    with pytest.raises(Rejected, match="no hold of case C-1"):
        store.unhold(card, who="ann", case="C-1")
    assert store.erase(card, QUARTER, **WHO).sequence == 4
    assert store.counts().keys == {}


def test_quarters_past_their_retention_lose_their_keys_but_for_those_held(folder: Path) -> None:
    store = _open(folder)
    cards = [store.subject("t", str(n)) for n in range(50)]
    store.keys([(card, quarter) for card in cards for quarter in ("2024Q1", "2024Q2", "2024Q3")])
    store.hold(cards[7], who="ann", case="C-1")
    assert store.expire("2024Q2", **WHO) == 98
    assert store.counts().keys == {"2024Q1": 1, "2024Q2": 1, "2024Q3": 50}
    assert store.keys([(cards[0], "2024Q1")]) == [None]
    assert store.keys([(cards[7], "2024Q2"), (cards[0], "2024Q3")]).count(None) == 0
    now = period_of(SystemClock().now_us())
    with pytest.raises(Rejected, match="is not over"):
        store.expire(now, **WHO)
    assert period_of(SystemClock().now_us() - 400 * DAY_US) < now


def test_many_keys_outlive_the_erasure_of_one(folder: Path) -> None:
    store = _open(folder)
    cards = [store.subject("t", str(n)) for n in range(3_000)]
    before = [key.commitment for key in store.keys([(c, QUARTER) for c in cards]) if key]
    store.erase(cards[5], QUARTER, **WHO)
    store.close()
    after = _open(folder).keys([(c, QUARTER) for c in cards])
    assert after.pop(5) is None
    assert [key.commitment for key in after if key] == before[:5] + before[6:]


def test_a_case_is_an_id_and_no_card_number(folder: Path) -> None:
    store = _open(folder)
    card = store.subject("t", "c")
    for through in ("2026", "2026Q5", "", "9" * 40):
        with pytest.raises(Rejected, match="quarter"):
            store.erase(card, through, **WHO)
    for case in ("4111111111111111", "see mail of Mr Smith", "", "x" * 65, "a\nb", "\x1b[2J"):
        with pytest.raises(Rejected):
            store.erase(card, QUARTER, who="ann", case=case)
        with pytest.raises(Rejected):
            store.hold(card, who=case, case="C-1")
    with pytest.raises(Rejected):
        store.erase("c", QUARTER, **WHO)
    assert store.events(0, 1) == []


def test_keys_that_everybody_may_read_are_refused(folder: Path) -> None:
    for name in ("keys.sqlite", "roots/roots.json"):
        path = folder / name
        assert path.stat().st_mode & 0o077 == 0
        path.chmod(0o604)
        with pytest.raises(Misconfigured, match="everybody"):
            _open(folder)
        path.chmod(0o660)  # as a volume of Kubernetes with fsGroup mounts it
        _open(folder).close()


def test_a_part_that_is_lost_or_damaged_is_named_and_nothing_is_made_anew(folder: Path) -> None:
    database, roots = folder / "keys.sqlite", folder / "roots" / "roots.json"
    with pytest.raises(Misconfigured, match="there is a keystore"):
        SqliteKeystore.make(database, _roots(folder))
    for content in (
        b"",
        b"{}",
        b'{"v":1,"wrapper":"kms","roots":{}}',
        b'{"v":1,"wrapper":"","x":1}',
    ):
        kept = roots.read_bytes()
        roots.write_bytes(content)
        with pytest.raises(Misconfigured):
            _open(folder)
        roots.write_bytes(kept)
    moved = database.rename(folder / "moved")
    with pytest.raises(Misconfigured, match="no keystore") as missing:
        _open(folder)
    assert missing.value.code == "no_keystore"
    with pytest.raises(Misconfigured, match="a part"):
        SqliteKeystore.make(database, _roots(folder))
    for content in (b"not a database, and longer than a header of one" * 9, b""):
        database.write_bytes(content)
        database.chmod(0o600)
        with pytest.raises(SluiceError):
            _open(folder)
    moved.rename(database)
    _open(folder).close()


def test_a_key_changed_in_the_file_is_found(folder: Path) -> None:
    store = _open(folder)
    card, other = store.subject("t", "c"), store.subject("t", "d")
    store.keys([(card, QUARTER), (other, QUARTER)])
    store.close()
    with sqlite3.connect(folder / "keys.sqlite") as db:  # another's wrapped secret, put in place
        db.execute("UPDATE secret SET wrapped = (SELECT max(wrapped) FROM secret)")
    changed = _open(folder)
    found = 0
    for one in (card, other):
        try:
            changed.existing(one, QUARTER)
        except Corrupt as error:
            found += error.code == "unwrap"
    assert found == 1


def test_a_keystore_that_another_process_holds_is_unavailable(folder: Path) -> None:
    store = _open(folder)
    card = store.subject("t", "c")
    store._db.execute("PRAGMA busy_timeout=10")
    with sqlite3.connect(folder / "keys.sqlite", isolation_level=None) as holder:
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="locked"):
            store.keys([(card, QUARTER)])
        holder.execute("ROLLBACK")
    assert store.keys([(card, QUARTER)])[0]


def test_a_wrapper_keeps_the_roots_and_refuses_another_key(tmp_path: Path) -> None:
    def wrapper(name: str, key: str) -> FileWrapper:
        path = tmp_path / name
        path.write_text(key + "\n")
        path.chmod(0o600)
        return FileWrapper(path)

    ours, theirs = wrapper("ours", "0b" * 32), wrapper("theirs", "0c" * 32)
    path = tmp_path / "roots.json"
    database = tmp_path / "keys.sqlite"
    SqliteKeystore.make(database, RootFile(path, ours))
    store = SqliteKeystore(database, RootFile(path, ours), SystemClock(), None)
    store.erase(store.subject("t", "c"), QUARTER, **WHO)
    (root,) = RootFile(path, ours).read().values()
    assert root.hex() not in path.read_text()
    for wrong in (theirs, NoWrapper()):
        with pytest.raises(Misconfigured, match="wrapped"):
            RootFile(path, wrong).read()
    with pytest.raises(Misconfigured, match="32 bytes"):
        wrapper("short", "0b")


def test_another_shard_waits_for_the_keystore_that_shard_0_makes(tmp_path: Path) -> None:
    key = tmp_path / "0.pem"
    make_log_key(key, "test/eu/1", witness=False)
    path, roots = tmp_path / "keys.sqlite", tmp_path / "roots.json"
    where = KeystoreSettings(path=str(path), roots=str(roots))
    named = {"key_file": str(key), "shards": 2, "root": str(tmp_path / "log")}
    shard_1 = AuditorSettings(shard=1, make_keys=True, **named)
    with pytest.raises(Unavailable, match="shard 0 has not made"):
        prepare_keys(Settings(auditor=shard_1, keystore=where))
    with pytest.raises(Misconfigured, match="no keystore"):  # who makes none waits for none
        prepare_keys(Settings(auditor=AuditorSettings(shard=1, **named), keystore=where))
    make_keystore(Settings(keystore=where))
    prepare_keys(Settings(auditor=shard_1, keystore=where))


def test_a_log_with_checkpoints_that_lacks_its_keys_gets_no_new_ones(tmp_path: Path) -> None:
    (tmp_path / "log/0").mkdir(parents=True)
    (tmp_path / "log/0/checkpoint").write_text("test/eu/0\n")
    where = KeystoreSettings(path=str(tmp_path / "k"), roots=str(tmp_path / "r"))
    given = AuditorSettings(
        make_keys=True, key_file=str(tmp_path / "0.pem"), root=str(tmp_path / "log")
    )
    with pytest.raises(
        Misconfigured, match=r"lacks what it was written with: .*0\.pem, .*k"
    ) as lost:
        prepare_keys(Settings(auditor=given, keystore=where))
    assert lost.value.code == "keys_gone"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log"]
