"""TLS to the online store with real certificates: what is accepted, and what each failure says.

Tried on a server's own TLS, where there is one (:mod:`tests.support.tls_store`), and on a Valkey
with TLS in front of it, as managed stores and stunnel have it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from sluice.application.ports import READY, Arrival, StateUpdate, Store
from sluice.bootstrap.services import featurizer, store, store_trouble
from sluice.domain.features.events import event_row
from sluice.errors import Misconfigured, Unavailable
from sluice.settings import Settings
from sluice.settings import Store as StoreSettings
from sluice.testing.factories import make_authorization
from tests.support import tls_store
from tests.support.certificates import Authority, Pem
from tests.support.debian import MissingError
from tests.support.tls_front import tls_front
from tests.support.tls_store import TlsStore

pytestmark = pytest.mark.integration

HOST = "127.0.0.1"
SECOND = timedelta(seconds=1)
STATE = b"\x01" + (1).to_bytes(8, "little") + b"body"

Listening = Callable[[Pem, Path], AbstractContextManager[TlsStore]]
"""A store with this certificate, for clients of this CA alone."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def ours(authority: Authority) -> Pem:
    return authority.issue("featurizer")


@pytest.fixture(params=["its own TLS", "TLS before Valkey"])
def listening(request: pytest.FixtureRequest, tmp_path: Path) -> Listening:
    if request.param == "its own TLS":
        try:
            found = tls_store.program()
        except MissingError as missing:
            pytest.skip(str(missing))
        return lambda server, ca: tls_store.tls_store(found, server, ca, tmp_path)
    valkey = request.getfixturevalue("valkey")

    @contextmanager
    def front(server: Pem, ca: Path) -> Iterator[TlsStore]:
        with tls_front(valkey.port, server, client_ca=ca) as port:
            yield TlsStore(port, valkey.port)

    return front


def settings_of(port: int, *, ca: Path, pem: Pem | None = None) -> Settings:
    return Settings(
        store=StoreSettings(
            url=f"rediss://{HOST}:{port}/0",
            budget_ms=1000,  # a handshake on a busy machine
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
    listening: Listening, authority: Authority, ours: Pem
) -> None:
    with listening(authority.issue("store", hosts=(HOST,)), authority.ca) as server:
        settings = settings_of(server.port, ca=authority.ca, pem=ours)
        assert store_trouble(settings) == ""
        made = store(settings)
        watermark, states = made.watermark(), made.states()
        assert watermark.initialise()
        place = ("decisions.v1", 0)
        watermark.advance({place: 0}, {place: 7})
        mark = watermark.read()
        assert (mark.state, mark.applied) == (READY, {place: 7})
        asked = make_authorization("a-1")
        card = asked.card_token
        assert states.write([StateUpdate("card", card, b"", STATE, 1)]) == [True]
        assert states.read([("card", card)]) == [STATE]
        online = made.online(batches=False, on_trust=lambda _why: None)
        await online.open()
        (reply,) = await online.observe(
            [Arrival(asked, 1999, event_row(asked, 1999), b"digest-1", 1)]
        )
        assert (reply.card, reply.merchant, reply.unidentified) == (STATE, b"", False)
        await online.close()
        assert states.clear() == 1
        assert states.read([("card", card)]) == [b""]
        states.close()
        watermark.close()


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
    listening: Listening, authority: Authority, ours: Pem, tmp_path: Path, case: str
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
    with listening(server(), authority.ca) as there:
        to = there.plain if case == "no TLS there" else there.port
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
