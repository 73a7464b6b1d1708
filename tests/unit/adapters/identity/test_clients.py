"""The file that says whose a certificate is."""

from pathlib import Path

import pytest

from sluice.adapters.identity.clients import ClientsFile, read
from sluice.application.access import Scope
from sluice.errors import Misconfigured

GOOD = """
clients:
  - certificate: URI:spiffe://example.org/acquirer-1
    tenants: [bank, other-bank]
    scopes: [authorize, score]
"""


def test_a_client_has_its_tenants_and_scopes(tmp_path: Path) -> None:
    (tmp_path / "clients").write_text(GOOD)
    (identity,) = read(tmp_path / "clients").values()
    assert identity.name == "URI:spiffe://example.org/acquirer-1"
    assert identity.tenants == {"bank", "other-bank"}
    assert identity.scopes == {Scope.AUTHORIZE, Scope.SCORE}


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "[]",
        "clients: 7",
        "clients: [{}]",
        GOOD.replace("URI:", ""),
        GOOD.replace("score", "everything"),
        GOOD.replace("tenants: [bank, other-bank]", "tenants: bank"),
        GOOD + "  more: 1\n",
        GOOD + GOOD.replace("\nclients:", ""),
        "clients: {",
        "[" * 10_000,
    ],
    ids=str,
)
def test_a_wrong_file_is_refused_and_named(tmp_path: Path, wrong: str) -> None:
    (tmp_path / "clients").write_text(wrong)
    with pytest.raises(Misconfigured, match=r"access\.clients_file"):
        read(tmp_path / "clients")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(Misconfigured, match=r"access\.clients_file"):
            read(path)


def test_it_is_followed_and_the_last_good_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "clients"
    path.write_text(GOOD)
    clients = ClientsFile(path)
    first = clients.current()
    assert not clients.poll()
    path.write_text("clients: {")
    with pytest.raises(Misconfigured):
        clients.poll()
    assert not clients.poll(), "the same is not looked at again"
    assert clients.current() is first
    path.write_text("clients: []")
    assert clients.poll()
    assert clients.current() == {}
