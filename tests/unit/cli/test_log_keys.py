"""``sluice log erase | hold | unhold | keys``, on a keystore of its own."""

from __future__ import annotations

import hashlib
import io
import shutil
from pathlib import Path

import pytest

from sluice.adapters.keystore.sqlite import SqliteKeystore
from sluice.adapters.parquet.archive import Archive, ParquetFiles
from sluice.application.open_record import grant as granting
from sluice.application.ports import Message
from sluice.application.sealing import SUBJECT, Erased, earlier, period_of
from sluice.application.sign_release import make_key, read_private_key
from sluice.audit.entries import join
from sluice.audit.notes import LOG, Key
from sluice.bootstrap import verbs
from sluice.bootstrap.keystore import keystore
from sluice.cli import main
from sluice.domain.clock import SystemClock
from sluice.domain.records.authorization import encode
from sluice.domain.records.key_event import KeyEvent, event_of, record_of
from sluice.domain.records.log_record import LabelBody, LabelRecord, Sealed, read
from sluice.domain.records.log_record import encode as encode_record
from sluice.settings import load
from sluice.testing.log import ORIGIN, PRIVATE, KeptCheckpoints, log_at
from sluice.testing.records import make_decision

BY = ["--who", "ann", "--case", "GDPR-17"]
CARD = ["--tenant", "test", "--card", "card-1"]


@pytest.fixture(autouse=True)
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for key, path in (
        ("KEYSTORE_PATH", "keys/keys.sqlite"),
        ("KEYSTORE_ROOTS", "roots/roots.json"),
        ("KEYSTORE_COPIES", "copies"),
        ("ARCHIVER_ROOT", "archive"),
    ):
        monkeypatch.setenv(f"SLUICE_{key}", str(tmp_path / path))
    assert main(["log", "keys", "init"]) == 0
    return tmp_path


def _sealed() -> bytes:
    with keystore(load()[0]) as store:
        key = store.key(store.subject("test", "card-1"), period_of(SystemClock().now_us()))
        return key.seal(b"", b"")


def test_an_erasure_takes_the_keys_and_the_archives_rows(
    there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ParquetFiles(there / "archive", {"d": "decisions"})
    files.write(("d", 0), [Message(encode(make_decision()), None, "d", 0, 0, None, 86_400_000)])
    _sealed()
    assert main(["log", "erase", *CARD, *BY]) == 0
    said = capsys.readouterr().out
    assert "1 destroyed" in said
    assert "1 rows rewritten" in said
    assert "card-1" not in said
    assert Archive(there / "archive").read()["card_token"][0].as_py().startswith("erased-")
    with keystore(load()[0]) as store:
        (event,) = store.events(0, 9)
        assert (event.kind, event.who, event.case, event.archive_rows) == \
            ("erasure", "ann", "GDPR-17", 1)  # fmt: skip
    assert len(list((there / "copies").iterdir())) == 1


def test_an_erasure_under_a_hold_ends_with_1_and_leaves_all_as_it_is(
    there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ParquetFiles(there / "archive", {"d": "decisions"})
    files.write(("d", 0), [Message(encode(make_decision()), None, "d", 0, 0, None, 86_400_000)])
    _sealed()
    assert main(["log", "hold", *CARD, "--who", "ann", "--case", "C-1"]) == 0
    assert main(["log", "erase", *CARD, *BY]) == 1
    assert "a legal hold is on this subject: C-1" in capsys.readouterr().err
    assert Archive(there / "archive").read()["card_token"].to_pylist() == ["card-1"]
    assert main(["log", "unhold", *CARD, "--who", "ann", "--case", "C-2"]) == 1
    assert main(["log", "unhold", *CARD, "--who", "ann", "--case", "C-1"]) == 0
    assert main(["log", "erase", *CARD, *BY]) == 0


def test_a_token_is_read_from_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("card-1\n"))
    assert main(["log", "keys", "subject", "--tenant", "test", "--card", "-"]) == 0
    assert main(["log", "keys", "subject", *CARD]) == 0
    one, other = capsys.readouterr().out.splitlines()[-2:]
    assert one == other
    assert SUBJECT.fullmatch(one)
    assert main(["log", "erase", "--subject", one, *BY]) == 0


def test_what_was_erased_before_is_swept_out_of_an_archive_that_came_back(there: Path) -> None:
    assert main(["log", "erase", *CARD, *BY]) == 0
    files = ParquetFiles(there / "archive", {"d": "decisions"})
    files.write(("d", 0), [Message(encode(make_decision()), None, "d", 0, 0, None, 86_400_000)])
    assert main(["log", "keys", "sweep"]) == 0
    assert Archive(there / "archive").read()["card_token"][0].as_py().startswith("erased-")


def test_keys_are_shown_copied_and_expired(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with keystore(load()[0]) as store:
        store.keys([(store.subject("t", str(n)), "2019Q1") for n in range(3)])
    assert main(["log", "keys", "show"]) == 0
    assert "2019Q1             3 keys" in capsys.readouterr().out
    assert main(["log", "keys", "copy", str(there / "elsewhere")]) == 0
    assert Path(capsys.readouterr().out.strip()).stat().st_mode & 0o077 == 0
    assert main(["log", "keys", "expire", *BY]) == 0
    assert "3 keys" in capsys.readouterr().out
    assert main(["log", "keys", "expire", "--through", "2099Q1", *BY]) == 1


def _told() -> list[KeyEvent]:
    with keystore(load()[0]) as store:
        return store.events(0, 9)


def test_who_deletes_old_runs_is_told_to_the_log_where_they_say_so(
    there: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [there / "runs/train" / f"2026010{n}T020000" for n in (1, 2)]
    for run in runs:
        run.mkdir(parents=True)
    delete = ["retention", "--work", str(there / "runs"), "--keep-days", "1", "--keep-runs"]
    assert main([*delete, "1", "--who", "ann"]) == 1
    assert "one of --who and --case is missing" in capsys.readouterr().err
    assert main([*delete, "1", *BY, "--dry-run"]) == 0
    assert _told() == []
    assert runs[0].exists()
    assert main([*delete, "1", *BY]) == 0
    assert [run.exists() for run in runs] == [False, True]
    (event,) = _told()
    assert (event.kind, event.action, event.target) == ("admin", "retention", "runs")
    assert (event.who, event.case) == ("ann", "GDPR-17")
    assert event.detail == hashlib.sha256(b"train/20260101T020000").hexdigest()
    assert main([*delete, "1", *BY]) == 0  # of nothing
    assert _told() == [event]
    monkeypatch.setenv("SLUICE_KEYSTORE_PATH", str(there / "none"))
    assert main([*delete, "0", *BY]) == 78
    assert runs[1].exists()
    assert main([*delete, "0"]) == 0
    assert not runs[1].exists()


def test_who_makes_topics_is_told_to_the_log_before_they_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told_at_apply = []

    def apply(*_: object, dry_run: bool, **__: object) -> list[str]:
        if not dry_run:
            told_at_apply.append([(event.action, event.who) for event in _told()])
        return ["labels.v1: made"]

    monkeypatch.setattr(verbs, "apply_topics", apply)
    assert main(["topics", "apply"]) == main(["topics", "apply", *BY]) == 0
    assert told_at_apply == [[], [("apply_topics", "ann")]]
    assert _told()[0].detail == hashlib.sha256(b"labels.v1: made").hexdigest()


@pytest.mark.parametrize(
    "wrong",
    [
        ["erase", *BY],
        ["erase", "--tenant", "test", *BY],
        ["erase", *CARD, "--subject", "0" * 32, *BY],
        ["erase", *CARD],
        ["hold", *CARD, "--who", "ann"],
    ],
)
def test_wrong_usage_ends_with_64(wrong: list[str]) -> None:
    assert main(["log", *wrong]) == 64


def test_a_keystore_is_not_made_twice_and_one_that_is_lost_not_made_anew(
    there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["log", "keys", "init"]) == 78
    (there / "keys" / "keys.sqlite").unlink()
    assert main(["log", "keys", "show"]) == 78
    assert "bring a copy back" in capsys.readouterr().err
    assert main(["log", "keys", "init"]) == 78


def test_an_unknown_wrapper_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLUICE_KEYSTORE_WRAPPER", "magic:x")
    assert main(["log", "keys", "show"]) == 78
    assert "keystore.wrapper" in capsys.readouterr().err


@pytest.fixture
def log(there: Path) -> Path:
    """A log of three entries: two of a-1, of which one is sealed, and one of a-2 of another card;
    then whatever happened to the keys."""
    settings, _ = load()
    folder = there / "log"
    with keystore(settings) as store:
        made = [_entry(store, n, f"a-{1 + n // 2}", f"card-{1 + n // 2}", n != 1) for n in range(3)]
    _append(folder, made)
    return folder


def _append(folder: Path, made: list[bytes]) -> None:
    log = log_at(folder)
    log.open()
    log.append(made)
    log.checkpoint()
    log.close()


def _entry(store: SqliteKeystore, n: int, authorization_id: str, card: str, sealed: bool) -> bytes:
    subject, period = store.subject("test", card), period_of(SystemClock().now_us())
    key = store.key(subject, period)
    record = LabelRecord(
        log=ORIGIN,
        recorded_at=1_000 + n,
        emitter="labels",
        sequence=n,
        authorization_id=authorization_id,
        event_at=1,
        body=LabelBody(tenant="test", channel=None, known_at=2, is_fraud=True, kind="verdict",
                       source="bank", reason=None, uncounted=None, withdraws=None),
        sealed=Sealed(subject=subject, period=period, key_commitment=key.commitment)
        if sealed
        else None,
    )  # fmt: skip
    header = encode_record(record)
    text = f'{{"card_token":"{card}"}}'.encode()
    return join(header, key.seal(text, header) if sealed else b"")


@pytest.fixture
def key(there: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of somebody who may grant."""
    path = there / "grantor.pem"
    make_key(path)
    monkeypatch.setenv("SLUICE_KEYSTORE_GRANTS", str(path.with_name("grantor.pem.pub")))
    return path


def _grant(there: Path, key: Path, authorization_id: str = "a-1", *more: str) -> Path:
    out = there / "grant"
    arguments = ["log", "grant", authorization_id, "--who", "bob", "--case", "FRAUD-3"]
    assert main([*arguments, "--key", str(key), "--out", str(out), *more]) == 0
    return out


def test_what_is_sealed_is_opened_by_a_grant_and_written_down_first(
    there: Path, log: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note = _grant(there, key)
    capsys.readouterr()
    assert main(["log", "open", str(log), "a-1", "--grant", str(note)]) == 0
    assert capsys.readouterr().out == '{"card_token":"card-1"}\n'
    with keystore(load()[0]) as store:
        (event,) = store.events(0, 9)
        assert (event.kind, event.who, event.case) == ("access", "bob", "FRAUD-3")
        assert (event.authorization_id, event.index) == ("a-1", 0)
        assert event.subject == store.subject("test", "card-1")
        assert event.grant == hashlib.sha256(note.read_bytes()).hexdigest()


def test_nothing_is_opened_without_a_grant_that_holds(
    there: Path, log: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = _grant(there, key).read_bytes()
    stranger = there / "stranger.pem"
    make_key(stranger)
    old = granting("a-1", who="bob", case="F", until=2, now_us=1, key=read_private_key(key))
    wrong = {
        "another record": _grant(there, key, "a-2").read_bytes(),
        "a stranger": _grant(there, stranger).read_bytes(),
        "changed": good.replace(b"bob", b"eve"),
        "unsigned": good.partition(b"\n\n")[0] + b"\n\n",
        "over": old,
        "empty": b"",
    }
    for why, note in wrong.items():
        (there / "grant").write_bytes(note)
        assert main(["log", "open", str(log), "a-1", "--grant", str(there / "grant")]) == 1, why
    said = capsys.readouterr()
    assert "card_token" not in said.out
    with keystore(load()[0]) as store:
        assert store.events(0, 9) == []


def test_what_was_erased_opens_no_more_and_what_was_tried_is_written_down(
    there: Path, log: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["log", "erase", *CARD, *BY]) == 0
    note = _grant(there, key)
    assert main(["log", "open", str(log), "a-1", "--grant", str(note)]) == 1
    said = capsys.readouterr()
    assert "destroyed" in said.err
    assert "card_token" not in said.out
    with keystore(load()[0]) as store:
        assert [event.kind for event in store.events(0, 9)] == ["erasure", "access"]
    assert main(["log", "open", str(log), "a-2", "--grant", str(_grant(there, key, "a-2"))]) == 0


def test_an_authorization_without_an_entry_and_a_folder_without_a_log_are_named(
    there: Path, log: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["log", "open", str(log), "a-9", "--grant", str(_grant(there, key, "a-9"))]) == 1
    assert "no entry of this authorization" in capsys.readouterr().err
    nowhere = str(there / "nowhere")
    assert main(["log", "open", nowhere, "a-1", "--grant", str(_grant(there, key))]) == 78
    (log / "checkpoint").write_bytes(b"no checkpoint\n")
    assert main(["log", "open", str(log), "a-1", "--grant", str(there / "grant")]) == 1
    assert "no log" in capsys.readouterr().err


def test_another_keystores_log_opens_nothing(
    there: Path, log: Path, key: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    note = _grant(there, key)
    with keystore(load()[0]) as store:
        subject = store.subject("test", "card-1")
    monkeypatch.setenv("SLUICE_KEYSTORE_PATH", str(there / "other" / "keys.sqlite"))
    monkeypatch.setenv("SLUICE_KEYSTORE_ROOTS", str(there / "other" / "roots.json"))
    assert main(["log", "keys", "init"]) == 0
    with keystore(load()[0]) as store:
        store.key(subject, period_of(SystemClock().now_us()))
    assert main(["log", "open", str(log), "a-1", "--grant", str(note)]) == 1
    assert "not the one that the header commits to" in capsys.readouterr().err


def test_a_duty_keeps_keys_from_being_destroyed_too_early(
    there: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLUICE_KEYSTORE_DUTIES", "pci_dss, reg_b")
    now = period_of(SystemClock().now_us())
    expire = ["log", "keys", "expire", *BY]
    assert main([*expire, "--through", earlier(now, 9)]) == 1
    assert "reg_b keeps the 9 quarters" in capsys.readouterr().err
    assert main([*expire, "--through", earlier(now, 10)]) == 0
    assert main(expire) == 0
    monkeypatch.setenv("SLUICE_KEYSTORE_KEEP_QUARTERS", "8")
    assert main(["log", "keys", "show"]) == 78
    assert "reg_b asks for 9" in capsys.readouterr().err
    monkeypatch.setenv("SLUICE_KEYSTORE_DUTIES", "habit")
    assert main(["log", "keys", "show"]) == 78
    assert "'habit' is no duty" in capsys.readouterr().err


def test_another_key_wraps_the_root_keys_and_the_log_tells_of_it(
    there: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sealed = _sealed()
    first, second = f"file:{there / 'first'}", f"file:{there / 'second'}"
    rewrap = ["log", "keys", "rewrap", *BY, "--before"]
    assert main([*rewrap, ""]) == 78, "nothing is wrapped by nothing"
    for wrapper, before in ((first, ""), (second, first)):
        path = Path(wrapper.removeprefix("file:"))
        path.write_text(path.name.encode().hex().ljust(64, "0"))
        path.chmod(0o600)
        monkeypatch.setenv("SLUICE_KEYSTORE_WRAPPER", wrapper)
        assert main(["log", "keys", "show"]) == 78, "it does not wrap them yet"
        assert main([*rewrap, before]) == 0
    assert "event 1" in capsys.readouterr().out
    with keystore(load()[0]) as store:
        key = store.existing(store.subject("test", "card-1"), period_of(SystemClock().now_us()))
        assert key.open(sealed, b"") == b""
        events = store.events(0, 9)
        records = [record_of(e, log=ORIGIN, emitter=store.emitter, recorded_at=9) for e in events]
    bodies = [(r.body.actor, r.body.case, r.body.before) for r in records]
    assert bodies == [("ann", "GDPR-17", "nothing"), ("ann", "GDPR-17", _short(first))]
    assert [event_of(read(encode_record(record))) for record in records] == events
    monkeypatch.setenv("SLUICE_KEYSTORE_WRAPPER", first)
    assert main(["log", "keys", "show"]) == 78, "the old key opens nothing any more"


def _short(wrapper: str) -> str:
    """As a record has it."""
    return (
        wrapper
        if len(wrapper) <= 128
        else "sha256-" + hashlib.sha256(wrapper.encode()).hexdigest()[:32]
    )


def test_a_keystore_from_a_copy_has_the_logs_erasures_done_again(
    there: Path, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("keys", "roots"):
        shutil.copytree(there / name, there / "snapshot" / name)
    assert main(["log", "hold", "--tenant", "test", "--card", "card-2", *BY]) == 0
    assert main(["log", "erase", *CARD, *BY]) == 0
    with keystore(load()[0]) as store:
        events = store.events(0, 9)
        made = [
            join(encode_record(record_of(e, log=ORIGIN, emitter=store.emitter, recorded_at=9_000)))
            for e in events
        ]
        subject = store.subject("test", "card-1")
    for entry in made:
        _append_one(log, entry)
    for name in ("keys", "roots"):
        shutil.rmtree(there / name)
        shutil.copytree(there / "snapshot" / name, there / name)
    quarter = period_of(SystemClock().now_us())
    with keystore(load()[0]) as store:
        assert store.existing(subject, quarter)  # the snapshot had the root key too
    assert main(["log", "keys", "reapply", str(log)]) == 0
    assert "2 events done again" in capsys.readouterr().out
    with keystore(load()[0]) as store:
        assert store.events(0, 9) == events
        with pytest.raises(Erased):
            store.existing(subject, quarter)


def _append_one(folder: Path, entry: bytes) -> None:
    kept = KeptCheckpoints()
    kept.kept.append((folder / "checkpoint").read_bytes())
    log = log_at(folder, kept)
    log.open()
    log.append([entry])
    log.checkpoint()
    log.close()


def test_after_an_erasure_every_proof_holds_and_no_copy_opens_what_was_erased(
    there: Path, log: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["log", "keys", "copy", str(there / "backup")]) == 0
    name = str(Key(ORIGIN, LOG, PRIVATE.public_key()))
    proof = there / "proof"
    for step in ("before", "erased"):
        if step == "erased":
            assert main(["log", "erase", *CARD, *BY]) == 0
        assert main(["log", "verify", str(log), "--key", name]) == 0
        assert main(["log", "prove", str(log), "a-2", "--key", name, "--out", str(proof)]) == 0
        assert main(["log", "verify-proof", str(proof), "--key", name]) == 0
    note = str(_grant(there, key))
    assert main(["log", "open", str(log), "a-1", "--grant", note]) == 1
    (backup,) = (there / "backup").iterdir()
    shutil.copy(backup, there / "keys" / "keys.sqlite")
    capsys.readouterr()
    assert main(["log", "open", str(log), "a-1", "--grant", note]) == 1
    assert "from before an erasure" in capsys.readouterr().err
