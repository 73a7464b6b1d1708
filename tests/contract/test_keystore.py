"""A keystore's promises to the auditor, which the fake and every adapter keep."""

from pathlib import Path
from typing import Any

import pytest

from sluice.adapters.keystore.kms import KmsWrapper
from sluice.adapters.keystore.roots import KeyWrapper, NoWrapper, RootFile
from sluice.adapters.keystore.sqlite import SqliteKeystore
from sluice.application.ports import Keystore
from sluice.application.sealing import Erased
from sluice.domain.clock import SystemClock
from sluice.errors import Corrupt
from sluice.testing.keystore import MemoryKeystore


def _erase(store: Any, subject: str, through: str) -> int:
    if isinstance(store, MemoryKeystore):
        return store.erase(subject, through)
    return len(store.erase(subject, through, who="ann", case="GDPR-1").periods)


@pytest.fixture(params=["memory", "sqlite", pytest.param("kms", marks=pytest.mark.integration)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "memory":
        return MemoryKeystore()
    wrapper: KeyWrapper = NoWrapper()
    if request.param == "kms":
        wrapper = KmsWrapper(request.getfixturevalue("kms_key"), {"sluice:cell": "test/eu"})
    roots = RootFile(tmp_path / "roots" / "roots.json", wrapper)
    path = tmp_path / "keys" / "keys.sqlite"
    SqliteKeystore.make(path, roots)
    return SqliteKeystore(path, roots, SystemClock(), None)


def test_a_key_is_made_once(store: Keystore) -> None:
    card = store.subject("t", "c")
    first, other, again = store.keys([(card, "2026Q4"), (card, "2027Q1"), (card, "2026Q4")])
    assert first
    assert other
    assert again
    assert first.commitment == again.commitment != other.commitment
    assert store.key(card, "2026Q4").commitment == first.commitment
    sealed = first.seal(b"personal", b"header")
    assert store.existing(card, "2026Q4").open(sealed, b"header") == b"personal"


def test_two_cards_have_two_keys_and_two_pseudonyms(store: Keystore) -> None:
    cards = [store.subject("t", "c"), store.subject("t", "d"), store.subject("u", "c")]
    found = store.keys([(card, "2026Q4") for card in cards])
    assert len({key.commitment for key in found if key}) == 3


def test_opening_makes_no_key(store: Keystore) -> None:
    card = store.subject("t", "c")
    for _ in range(2):
        with pytest.raises(Erased):
            store.existing(card, "2026Q4")


def test_an_erased_key_is_never_made_again(store: Any) -> None:
    card, other = store.subject("t", "c"), store.subject("t", "d")
    store.keys([(card, "2026Q3"), (card, "2026Q4"), (other, "2026Q4")])
    assert _erase(store, card, "2026Q4") == 2
    for period in ("2025Q1", "2026Q3", "2026Q4"):
        with pytest.raises(Erased):
            store.key(card, period)
        with pytest.raises(Erased):
            store.existing(card, period)
    after = store.keys([(card, "2026Q4"), (other, "2026Q4"), (card, "2027Q1")])
    assert [key is None for key in after] == [True, False, False]
    assert store.existing(other, "2026Q4")


def test_events_are_read_from_where_the_log_ends(store: Any) -> None:
    assert store.events(0, 10) == []
    with pytest.raises(Corrupt, match=r"fewer events|had 0 events"):
        store.events(1, 10)
    assert store.emitter
