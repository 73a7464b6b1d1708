"""What each bundled mapping makes of a row of its table."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sluice.adapters.files.mapping import Mapper, bundled, load_labels, load_mapping
from sluice.adapters.files.tables import Table
from sluice.adapters.files.tokens import token
from sluice.domain.records.authorization import Authorization, decode_authorization
from sluice.domain.records.label import Label
from tests.support.shapes import FRAUDS, ROWS, SHAPES, TOKEN_KEY, Shape

KEY = TOKEN_KEY.strip().encode()
BY_NAME = {shape.name: shape for shape in SHAPES}


@dataclass
class Read:
    auths: list[Authorization]
    labels: list[Label]
    wanted: set[str]


def read(shape: Shape, folder: Path) -> Read:
    table = Table(shape.write(folder))
    labels = load_labels(f"{shape.name}-labels")
    mapper = Mapper(load_mapping(shape.name), labels, table.columns, shape.file, key=KEY)
    (batch,) = table.batches(mapper.wanted)
    result = mapper.apply(batch)
    assert not result.bad, [str(row.error) for row in result.bad]
    assert result.left_out == shape.left_out
    return Read(list(map(decode_authorization, result.values)), result.labels, mapper.wanted)


def at(auth: Authorization) -> str:
    return f"{datetime.fromtimestamp(auth.event_at / 1e6, UTC):%Y-%m-%d %H:%M:%S}"


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_every_row_is_an_authorization_and_every_fraud_has_its_label(
    shape: Shape, tmp_path: Path
) -> None:
    found = read(shape, tmp_path)
    assert len({auth.authorization_id for auth in found.auths}) == ROWS - shape.left_out
    assert len(found.labels) == shape.labels
    assert sum(label.is_fraud for label in found.labels) == len(FRAUDS)
    leaks = {"TX_FRAUD_SCENARIO", "isFlaggedFraud", "unix_time", "scenario"}
    assert not found.wanted & leaks


def test_tabformer(tmp_path: Path) -> None:
    swiped, online, abroad, texan = read(BY_NAME["tabformer"], tmp_path).auths[:4]
    assert (swiped.authorization_id, swiped.card_token, swiped.customer_id) == (
        "tabformer-2", "card-0-0", "user-0",
    )  # fmt: skip
    assert (at(swiped), at(online)) == ("2019-09-01 06:01:00", "2019-09-01 07:02:00")
    assert (swiped.amount_minor, online.amount_minor, abroad.amount_minor) == (0, 101, 202)
    assert (swiped.mcc, online.mcc) == ("0742", "5301")
    assert (swiped.channel, online.channel, abroad.channel) == ("pos", "ecom", "pos")
    countries = [auth.merchant_country for auth in (swiped, online, abroad, texan)]
    assert countries == ["US", "US", "IT", "US"]
    assert swiped.merchant_id.startswith("mer_")
    assert len({a.merchant_id for a in (swiped, online, abroad, texan)}) == 4


def test_paysim(tmp_path: Path) -> None:
    auths = read(BY_NAME["paysim"], tmp_path).auths
    paid, transferred, withdrawn, debited = auths[:4]
    assert (at(paid), at(auths[30])) == ("2017-01-01 01:00:00", "2017-01-02 08:00:00")
    assert (paid.card_token, paid.merchant_id) == ("account-C1231006815", "receiver-M1979787155")
    assert [a.mcc for a in (paid, transferred, withdrawn, debited)] == [
        "5999", "4829", "6011", "6012",
    ]  # fmt: skip
    assert withdrawn.channel == "atm"
    assert auths[5].amount_minor == 9_244_551_664


def test_sparkov(tmp_path: Path) -> None:
    first, second = read(BY_NAME["sparkov"], tmp_path).auths[:2]
    assert first.card_token == "tok_" + token(KEY, "4111111111111111")
    assert first.merchant_id == "mer_" + token(KEY, "fraud_Rippin, Kub and Mann 0")
    assert at(first) == "2019-01-01 00:00:18"
    assert (first.mcc, first.channel, second.mcc, second.channel) == (
        "5999", "ecom", "5411", "pos",
    )  # fmt: skip
    assert (first.amount_minor, first.currency) == (497, "USD")


def test_ulb_has_no_card_so_each_row_is_one(tmp_path: Path) -> None:
    found = read(BY_NAME["ulb"], tmp_path)
    assert len({auth.card_token for auth in found.auths}) == ROWS
    assert at(found.auths[139]) == "2013-09-02 03:46:40"
    assert found.wanted == {"Time", "Amount", "Class"}


def test_the_handbooks_own_tables(tmp_path: Path) -> None:
    first = read(BY_NAME["handbook-raw"], tmp_path).auths[0]
    assert (first.authorization_id, first.card_token) == ("handbook-0", "card-596")
    assert (at(first), first.amount_minor) == ("2018-04-01 00:00:31", 5716)


def test_each_mapping_comes_with_labels_and_a_test() -> None:
    names = {name for name in bundled() if not name.endswith("-labels")}
    assert names == {*BY_NAME, "handbook"}
    assert {f"{name}-labels" for name in names} == set(bundled()) - names
