import json

import msgspec
import pytest

from sluice.adapters.kafka.producer import EventProducer
from sluice.cli import main
from sluice.domain.records.authorization import encode
from sluice.domain.records.dead_letter import DeadLetter, dead_letter_of
from sluice.domain.records.decision import Origin
from sluice.errors import Rejected
from tests.support.kafka import read_all, wait_ended

pytestmark = pytest.mark.integration
BODIES = [b'{"broken"', b'{"unknown":1}', b'{"again":1}']
CODES = ["invalid_json", "unknown_field", "duplicate"]


@pytest.fixture
def buried(apache, monkeypatch):
    """Three messages of one card, each with its dead letter, and one line of a file."""
    producer = EventProducer(apache.bootstrap, client_id="test")
    for body in BODIES:
        producer.produce(apache.topics.authorizations, body, key=b"card-1")
    producer.flush(60)
    messages = read_all(apache.bootstrap, apache.topics.authorizations)
    origins = [Origin(m.topic, m.partition, m.offset) for m in messages]
    dead_letters = [(m.value, o, c) for m, o, c in zip(messages, origins, CODES, strict=True)]
    dead_letters.append((b"a;b", Origin("file:book.csv", 0, 7), "bad_format"))
    for raw, origin, code in dead_letters:
        made = dead_letter_of(raw, origin, Rejected("no", code=code), service="test", now_us=1)
        producer.produce(apache.topics.dead_letters, encode(made))
    producer.flush(60)
    monkeypatch.setenv("SLUICE_KAFKA_BOOTSTRAP", apache.bootstrap)
    prefix = apache.topics.authorizations.removesuffix("authorizations.v1")
    monkeypatch.setenv("SLUICE_KAFKA_TOPIC_PREFIX", prefix)
    return origins


def test_dead_letters_are_listed_with_code_and_origin(buried, capsys):
    assert main(["dead-letters", "list"]) == 0
    out = capsys.readouterr().out
    assert all(f"{code} " in out for code in CODES)
    assert str(buried[0]) in out
    assert main(["dead-letters", "list", "--code", "unknown_field", "--json"]) == 0
    [line] = capsys.readouterr().out.splitlines()
    assert json.loads(line)["origin"]["offset"] == buried[1].offset


def test_a_strangers_text_acts_on_no_terminal(apache, monkeypatch, capsys):
    hostile = "a\x1b[2J\x1b]0;owned\x07\r\n2026 forged line \x9b31m\u202e\x7f"
    made = DeadLetter(
        origin=Origin(f"file:{hostile}", 0, 7),
        sha256="0" * 64,
        size_bytes=1,
        code=f"bad{hostile}",
        error=hostile,
        service="another writer",
        dead_at=1,
    )
    producer = EventProducer(apache.bootstrap, client_id="test")
    producer.produce(apache.topics.dead_letters, msgspec.json.encode(made))
    producer.produce(apache.topics.dead_letters, b"\xff\xfe no dead letter")
    producer.flush(60)
    monkeypatch.setenv("SLUICE_KAFKA_BOOTSTRAP", apache.bootstrap)
    prefix = apache.topics.authorizations.removesuffix("authorizations.v1")
    monkeypatch.setenv("SLUICE_KAFKA_TOPIC_PREFIX", prefix)
    for arguments in (
        ["list"],
        ["list", "--json"],
        ["redrive", "--origin", str(made.origin), "--who", "ann"],
    ):
        main(["dead-letters", *arguments])
        said = capsys.readouterr()
        lines = said.out.split("\n")[:-1]
        assert len(lines) == 1, arguments
        assert all(line.isascii() and line.isprintable() for line in lines)
        assert all(line.isprintable() for line in said.err.split("\n"))
    assert main(["dead-letters", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["error"] == hostile


def test_a_redriven_message_comes_again_once_with_its_key_and_where_it_lay(apache, buried, capsys):
    topic = apache.topics.authorizations
    assert main(["dead-letters", "redrive", "--code", "invalid_json", "--dry-run"]) == 0
    assert len(read_all(apache.bootstrap, topic)) == 3
    assert main(["dead-letters", "redrive", "--code", "invalid_json", "--who", "ann"]) == 0
    wait_ended(apache.bootstrap, topic)
    again = read_all(apache.bootstrap, topic)[3:]
    assert [(m.key, m.value) for m in again] == [(b"card-1", BODIES[0])]
    capsys.readouterr()
    assert main(["dead-letters", "redrive", "--code", "invalid_json", "--who", "ann"]) == 1
    assert "sent again before" in capsys.readouterr().out
    assert len(read_all(apache.bootstrap, topic)) == 4


def test_redriving_everything_leaves_duplicates_out_and_refuses_files(apache, buried, capsys):
    assert main(["dead-letters", "redrive", "--who", "ann"]) == 1
    out = capsys.readouterr().out
    assert "refused  file:book.csv/0@7: its origin is a file" in out
    wait_ended(apache.bootstrap, apache.topics.authorizations)
    assert len(read_all(apache.bootstrap, apache.topics.authorizations)) == 5


def test_one_origin_can_be_named(apache, buried):
    assert main(["dead-letters", "redrive", "--origin", str(buried[1]), "--who", "ann"]) == 0
    wait_ended(apache.bootstrap, apache.topics.authorizations)
    assert read_all(apache.bootstrap, apache.topics.authorizations)[3].value == BODIES[1]
