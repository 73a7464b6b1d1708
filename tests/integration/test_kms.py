"""A keystore whose root keys a KMS wraps: when it is asked, and what is so while it is away."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import boto3
import pytest

from sluice.adapters.keystore.kms import CODE, KmsWrapper
from sluice.adapters.keystore.roots import NoWrapper, RootFile
from sluice.adapters.keystore.sqlite import SqliteKeystore
from sluice.application.sealing import Erased
from sluice.bootstrap.keystore import keystore, make_keystore, open_keystore
from sluice.cli import main
from sluice.domain.clock import SystemClock
from sluice.errors import Misconfigured, Unavailable
from sluice.settings import AuditorSettings, KeystoreSettings, Settings, load
from tests.support.kms_server import KmsServer

pytestmark = pytest.mark.integration

WHO = {"who": "ann", "case": "GDPR-17"}
QUARTER = "2026Q4"
CELL = {"sluice:cell": "test/eu"}


class Counted(KmsWrapper):
    """Counts what it asks."""

    def __init__(self, key: str) -> None:
        super().__init__(key, CELL)
        self.asked: Counter[str] = Counter()

    def wrap(self, secret: bytes) -> bytes:
        self.asked["wrap"] += 1
        return super().wrap(secret)

    def unwrap(self, wrapped: bytes) -> bytes:
        self.asked["unwrap"] += 1
        return super().unwrap(wrapped)


def opened(folder: Path, wrapper: KmsWrapper) -> SqliteKeystore:
    roots = RootFile(folder / "roots.json", wrapper)
    if not roots.exists():
        SqliteKeystore.make(folder / "keys.sqlite", roots)
    return SqliteKeystore(folder / "keys.sqlite", roots, SystemClock(), None)


def test_it_is_asked_for_roots_and_never_for_a_record(tmp_path: Path, kms_key: str) -> None:
    wrapper = Counted(kms_key)
    store = opened(tmp_path, wrapper)
    assert wrapper.asked == {"wrap": 1}  # what was made here is known
    cards = [store.subject("t", str(n)) for n in range(1_000)]
    assert all(store.keys([(card, QUARTER) for card in cards]))
    assert wrapper.asked == {"wrap": 1}
    store.erase(cards[0], QUARTER, **WHO)
    assert wrapper.asked == {"wrap": 2}
    store.close()
    again = Counted(kms_key)
    opened(tmp_path, again).keys([(card, QUARTER) for card in cards])
    assert again.asked == {"unwrap": 1}
    (root,) = RootFile(tmp_path / "roots.json", again).read().values()
    assert root.hex() not in (tmp_path / "roots.json").read_text()


def test_another_key_another_log_or_no_kms_opens_nothing(tmp_path: Path, kms_key: str) -> None:
    opened(tmp_path, KmsWrapper(kms_key, CELL)).close()
    other = str(boto3.client("kms").create_key()["KeyMetadata"]["KeyId"])
    for wrapper in (KmsWrapper(other, CELL), KmsWrapper(kms_key, {"sluice:cell": "test/us"})):
        with pytest.raises(Misconfigured, match="another key, or not for sluice:cell=test/"):
            opened(tmp_path, wrapper)
    with pytest.raises(Misconfigured, match="wrapped by 'kms'"):
        RootFile(tmp_path / "roots.json", NoWrapper()).read()
    same = kms_key.rsplit("/", maxsplit=1)[-1]  # its id
    opened(tmp_path, KmsWrapper(same, CELL)).close()


def test_while_it_is_away_nothing_is_half_done_and_it_goes_on_by_itself(
    tmp_path: Path, kms: KmsServer, kms_key: str
) -> None:
    auditor, verb = (opened(tmp_path, KmsWrapper(kms_key, CELL)) for _ in range(2))
    cards = [auditor.subject("t", name) for name in "cde"]
    before = auditor.keys([(card, QUARTER) for card in cards])
    verb.erase(cards[0], QUARTER, **WHO)
    kms.stop()
    try:
        for _ in range(2):  # the second time as the first: what it had read before is let go
            with pytest.raises(Unavailable, match="the KMS does not decrypt") as away:
                auditor.keys([(card, QUARTER) for card in cards])
            assert away.value.code == CODE
        with pytest.raises(Unavailable):
            auditor.existing(cards[1], QUARTER)
        with pytest.raises(Unavailable):
            opened(tmp_path, KmsWrapper(kms_key, CELL))
        with pytest.raises(Unavailable, match="the KMS does not encrypt"):
            verb.erase(cards[1], QUARTER, **WHO)
        assert verb.keys([(cards[1], QUARTER)])[0]  # it knows its own root
    finally:
        kms.start()
    after = auditor.keys([(card, QUARTER) for card in cards])
    assert after[0] is None
    assert [key.commitment for key in after[1:] if key] == [k.commitment for k in before[1:] if k]
    assert [event.sequence for event in auditor.events(0, 9)] == [0]
    verb.erase(cards[1], QUARTER, **WHO)
    with pytest.raises(Erased):
        auditor.existing(cards[1], QUARTER)


def test_a_key_that_was_disabled_is_away_and_comes_back(tmp_path: Path, kms_key: str) -> None:
    opened(tmp_path, KmsWrapper(kms_key, CELL)).close()
    service = boto3.client("kms")
    service.disable_key(KeyId=kms_key)
    with pytest.raises(Unavailable, match="disabled") as away:
        opened(tmp_path, KmsWrapper(kms_key, CELL))
    assert away.value.code == CODE
    service.enable_key(KeyId=kms_key)
    opened(tmp_path, KmsWrapper(kms_key, CELL)).close()


def test_what_only_a_person_mends_says_what_to_do(
    tmp_path: Path, kms_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = kms_key.rpartition("/")[0] + "/00000000-0000-0000-0000-000000000000"
    with pytest.raises(Misconfigured, match=r"NotFoundException.*kms:Encrypt"):
        opened(tmp_path, KmsWrapper(nowhere, CELL))
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    KmsWrapper(kms_key, CELL)  # an ARN names its own
    with pytest.raises(Misconfigured, match="AWS_DEFAULT_REGION"):
        KmsWrapper("alias/log", CELL)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(Misconfigured, match="credentials"):
        opened(tmp_path, KmsWrapper(kms_key, CELL))


def test_settings_name_it_and_the_logs_name_is_part_of_it(tmp_path: Path, kms_key: str) -> None:
    def settings(environment: str, wrapper: str) -> Settings:
        where = {"path": str(tmp_path / "keys.sqlite"), "roots": str(tmp_path / "roots.json")}
        return Settings(
            auditor=AuditorSettings(environment=environment, cell="eu"),
            keystore=KeystoreSettings(wrapper=wrapper, **where),
        )

    make_keystore(settings("bank.example", f"kms:{kms_key}"))
    open_keystore(settings("bank.example", f"kms:{kms_key}")).close()
    with pytest.raises(Misconfigured, match=r"not for sluice:cell=test\.example/eu"):
        open_keystore(settings("test.example", f"kms:{kms_key}"))
    for wrapper in ("kms:", "kms", "vault:x"):
        with pytest.raises(Misconfigured, match="no wrapper"):
            open_keystore(settings("bank.example", wrapper))


def test_a_keystore_of_a_file_goes_to_a_kms_and_back_by_the_verb(
    tmp_path: Path,
    kms_key: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    key = tmp_path / "wrapping-key"
    key.write_text("5a" * 32)
    key.chmod(0o600)
    file, kms = f"file:{key}", f"kms:{kms_key}"
    for name, value in {
        "SLUICE_KEYSTORE_PATH": str(tmp_path / "keys.sqlite"),
        "SLUICE_KEYSTORE_ROOTS": str(tmp_path / "roots.json"),
        "SLUICE_KEYSTORE_WRAPPER": file,
        "SLUICE_AUDITOR_ENVIRONMENT": "test",
        "SLUICE_AUDITOR_CELL": "eu",
    }.items():
        monkeypatch.setenv(name, value)
    assert main(["log", "keys", "init"]) == 0
    with keystore(load()[0]) as store:
        subject = store.subject("t", "card-1")
        sealed = store.key(subject, QUARTER).seal(b"text", b"")
    for before, after in ((file, kms), (kms, file)):
        monkeypatch.setenv("SLUICE_KEYSTORE_WRAPPER", after)
        assert main(["log", "keys", "show"]) == 78, "it does not wrap them yet"
        said = ["log", "keys", "rewrap", "--before", before, "--who", "ann", "--case", "ROT-3"]
        assert main(said) == 0
        assert f"{before} wraps the root keys no longer, {after} does" in capsys.readouterr().out
        with keystore(load()[0]) as store:
            assert store.existing(subject, QUARTER).open(sealed, b"") == b"text"
    monkeypatch.setenv("SLUICE_KEYSTORE_WRAPPER", kms)
    assert main(["log", "keys", "show"]) == 78, "what the KMS wrapped is gone"
