"""`sluice publish` and `sluice simulate stream` against a real broker."""

import gzip
import json
import re
from datetime import date
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest
from sluice_simulator.config import Config
from sluice_simulator.world import World

from local.kafka.broker import Node
from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.kafka.topics import Topics
from sluice.cli import main
from sluice.domain.records.authorization import decode_authorization
from sluice.domain.records.dead_letter import DeadLetter
from sluice.domain.records.label import Label
from sluice.errors import Unavailable
from tests.support.kafka import read_all

pytestmark = pytest.mark.integration

MAPPING = """
authorization_id: {column: id}
event_at: {column: time, format: "%d/%m/%Y %H:%M", zone: Europe/Lisbon}
card_token: {template: "card-{customer}"}
merchant_id: {column: shop}
terminal_id: {template: "{shop}-1"}
mcc: {constant: "5411"}
channel: {constant: pos}
amount: {column: euros, unit: major, decimal_mark: ","}
currency: {constant: EUR}
merchant_country: {constant: PT}
card_country: {constant: PT}
region: {constant: eea}
tenant: {constant: bank}
delimiter: ";"
"""
ROWS = [f"a{n};{1 + n % 28:02d}/07/2026 12:00;{n % 9};s{n % 5};{n},50;{n % 4}" for n in range(500)]


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    (tmp_path / "m.yaml").write_text(MAPPING)
    labels = "{column: fraud, fraud: [3], not_fraud: [0, 1, 2], delay_days: 2, source: bank}"
    (tmp_path / "l.yaml").write_text(labels)
    bad = {100: "x;01/07/2026 12:00;1;s1;1,005;0", 300: "only;two"}
    lines = [bad.get(n, row) for n, row in enumerate(ROWS)]
    (tmp_path / "bank.csv").write_text("\n".join(["id;time;customer;shop;euros;fraud", *lines]))
    return tmp_path


@pytest.fixture
def prefix(topics: Topics, monkeypatch: pytest.MonkeyPatch) -> Topics:
    name = topics.authorizations.removesuffix("authorizations.v1")
    monkeypatch.setenv("SLUICE_KAFKA_TOPIC_PREFIX", name)
    return topics


def publish(bank: Path, kafka: Node, *flags: str) -> int:
    return publish_to(kafka.bootstrap, bank, *flags)


def publish_to(bootstrap: str, bank: Path, *flags: str) -> int:
    file, mapping = str(bank / "bank.csv"), str(bank / "m.yaml")
    return main(["publish", file, "--mapping", mapping, "--bootstrap", bootstrap, *flags])


def test_a_file_is_published_with_its_labels_and_bad_rows_are_buried(
    bank: Path, kafka: Node, prefix: Topics, capsys: pytest.CaptureFixture[str]
) -> None:
    assert publish(bank, kafka, "--labels", str(bank / "l.yaml")) == 1
    out = capsys.readouterr()
    assert "500 rows, 498 published" in out.out
    assert "bank.csv:102: column euros: more decimals than EUR has: 2" in out.err
    assert "bank.csv:302: the row has 2 cells, the header 6" in out.err

    messages = read_all(kafka.bootstrap, prefix.authorizations)
    auths = [decode_authorization(m.value) for m in messages]
    assert sorted(a.authorization_id for a in auths) == sorted(
        f"a{n}" for n in range(500) if n not in (100, 300)
    )
    assert all(m.key == a.card_token.encode() for m, a in zip(messages, auths, strict=True))
    labels = [
        msgspec.json.decode(m.value, type=Label) for m in read_all(kafka.bootstrap, prefix.labels)
    ]
    assert {x.authorization_id for x in labels} == {f"a{n}" for n in range(3, 500, 4)}
    dead_letters = [
        msgspec.json.decode(m.value, type=DeadLetter)
        for m in read_all(kafka.bootstrap, prefix.dead_letters)
    ]
    assert [(x.origin.topic, x.origin.offset) for x in dead_letters] == [
        ("file:bank.csv", 102),
        ("file:bank.csv", 302),
    ]


def test_a_run_can_be_cut_and_resumed(bank: Path, kafka: Node, prefix: Topics) -> None:
    assert publish(bank, kafka, "--limit", "200", "--allow-bad", "1") == 0
    assert publish(bank, kafka, "--from-line", "202", "--allow-bad", "2") == 0
    ids = [
        decode_authorization(m.value).authorization_id
        for m in read_all(kafka.bootstrap, prefix.authorizations)
    ]
    assert len(ids) == len(set(ids)) == 498


def ids(bootstrap: str, topic: str) -> list[str]:
    return [decode_authorization(m.value).authorization_id for m in read_all(bootstrap, topic)]


def test_a_cut_file_is_sent_up_to_there_and_gone_on_with_by_the_line_that_is_named(
    bank: Path, kafka: Node, prefix: Topics, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = gzip.compress((bank / "bank.csv").read_bytes())
    (bank / "bank.csv").write_bytes(whole[: len(whole) // 2])
    assert publish(bank, kafka, "--allow-bad", "2", "--labels", str(bank / "l.yaml")) == 1
    said = capsys.readouterr()
    assert "it is cut" in said.err
    line = int(re.search(r"go on with --from-line (\d+)", said.err)[1])
    sent = ids(kafka.bootstrap, prefix.authorizations)
    assert f" {len(sent)} published" in said.out
    assert 0 < len(sent) < 498

    (bank / "bank.csv").write_bytes(whole)
    more = ("--from-line", str(line), "--allow-bad", "2", "--labels", str(bank / "l.yaml"))
    assert publish(bank, kafka, *more) == 0
    sent = ids(kafka.bootstrap, prefix.authorizations)
    assert len(sent) == len(set(sent)) == 498
    assert len(read_all(kafka.bootstrap, prefix.labels)) == 125


def test_too_many_bad_rows_stop_it_before_they_are_sent(
    bank: Path, kafka: Node, prefix: Topics, capsys: pytest.CaptureFixture[str]
) -> None:
    good = (bank / "bank.csv").read_text().splitlines()
    wrong = [row.replace(",50;", ".50;") for row in good[1:]] * 10
    (bank / "bank.csv").write_text("\n".join([*good, *wrong]))
    assert publish(bank, kafka, "--allow-bad", "9999") == 1
    said = capsys.readouterr()
    assert "rows are bad, over 10%; the first: column euros" in said.err
    assert read_all(kafka.bootstrap, prefix.dead_letters) == []
    assert publish(bank, kafka, "--allow-bad", "9999", "--bad-share", "100") == 0


def test_records_that_a_broker_never_took_are_counted_by_topic(kafka: Node, prefix: Topics) -> None:
    producer = EventProducer(kafka.bootstrap, client_id="test")
    for number in range(10):
        producer.produce(prefix.authorizations, b"{}", key=str(number))
    producer.flush(60)
    assert producer.undelivered() == {}
    lost = EventProducer("127.0.0.1:1", client_id="test")
    for number in range(10):
        lost.produce(prefix.labels if number % 5 else prefix.authorizations, b"{}")
    with pytest.raises(Unavailable, match="10 records were not delivered"):
        lost.flush(0.2)
    assert lost.undelivered() == {prefix.labels: 8, prefix.authorizations: 2}


def test_without_a_broker_it_fails_and_says_where_to_go_on(
    bank: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sluice.application.publish.FLUSH_MAX_S", 0.5)
    assert publish_to("127.0.0.1:1", bank, "--limit", "5") == 1
    said = capsys.readouterr()
    assert "go on with --from-line 2" in said.err
    assert "5 rows, 0 published" in said.out


def test_a_stream_reaches_a_real_broker_whole(
    kafka: Node, prefix: Topics, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = tmp_path / "truth.parquet"
    flags = (
        f"--bootstrap {kafka.bootstrap} --cards 600 --seed 5 --fraud-bp 300 --rate 1000 "
        f"--duration 1 --start 2026-10-01 --labels 2026-09-01 --truth {truth}"
    )
    status = main(["simulate", "stream", *flags.split()])
    summary = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert status == 0
    assert (summary["sent"], summary["errors"], summary["ok"]) == (1000, {}, True)
    assert summary["delivered"] == 1000 + summary["labels"]
    found = {
        decode_authorization(m.value).authorization_id
        for m in read_all(kafka.bootstrap, prefix.authorizations)
    }
    world = World(Config(cards=600, fraud_bp=300), seed=5)
    expected = world.history(date(2026, 10, 1), 2).structs()[:1000]
    assert found == {a.authorization_id for a in expected}
    assert set(pq.read_table(truth)["authorization_id"].to_pylist()) == found
    assert len(read_all(kafka.bootstrap, prefix.labels)) == summary["labels"] > 0


def test_without_a_broker_a_stream_counts_what_was_lost_and_ends_with_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sluice_simulator.stream.FLUSH_S", 0.5)
    flags = "--bootstrap 127.0.0.1:1 --cards 200 --rate 50 --duration 0.2"
    assert main(["simulate", "stream", *flags.split()]) == 1
    assert json.loads(capsys.readouterr().out)["errors"] == {"undelivered": 10}
