import hashlib

from sluice.application.redrive import Original, redrive, select
from sluice.domain.clock import SystemClock
from sluice.domain.records.dead_letter import DeadLetter
from sluice.domain.records.decision import Origin

BODY = b'{"v":1}'


def letter(offset: int = 1, code: str = "invalid_json", **changes) -> DeadLetter:
    given = {
        "origin": Origin("authorizations.v1", 3, offset),
        "sha256": hashlib.sha256(BODY).hexdigest(),
        "size_bytes": len(BODY),
        "code": code,
        "error": "no",
        "service": "test",
        "dead_at": offset,
    }
    return DeadLetter(**(given | changes))


class Topic:
    def __init__(self, body: bytes | None = BODY) -> None:
        self.body = body
        self.sent: list[tuple[Origin, Original, bytes]] = []

    def at(self, origin: Origin) -> Original | None:
        return None if self.body is None else Original(b"card-1", self.body, None)

    def send(self, origin: Origin, original: Original, note: bytes) -> None:
        self.sent.append((origin, original, note))


def refusals(letters, chosen, topic, *, dry_run=False) -> list[str]:
    sender = None if dry_run else topic
    return [result.refused for result in redrive(letters, chosen, topic, sender, SystemClock())]


def test_a_message_goes_again_with_its_key_and_bytes_and_is_noted():
    topic = Topic()
    assert refusals([letter()], [letter()], topic) == [""]
    [(origin, original, note)] = topic.sent
    assert (origin, original) == (letter().origin, Original(b"card-1", BODY, None))
    assert b'"code":"redriven"' in note


def test_what_was_sent_before_or_twice_in_one_run_is_not_sent_again():
    topic = Topic()
    noted = letter(code="redriven")
    assert refusals([letter(), noted], [letter()], topic) == ["it was sent again before"]
    assert refusals([letter()], [letter(), letter()], topic) == ["", "it was sent again before"]
    assert len(topic.sent) == 1


def test_a_dry_run_sends_nothing_and_says_the_same():
    topic = Topic()
    assert refusals([letter()], [letter(), letter()], topic, dry_run=True)[0] == ""
    assert topic.sent == []


def test_duplicates_files_expired_and_changed_bytes_are_refused_with_the_reason():
    file = letter(origin=Origin("file:book.csv", 0, 7))
    for chosen, body, reason in (
        (letter(code="duplicate"), BODY, "decided before"),
        (letter(code="redriven"), BODY, "notes"),
        (file, BODY, "publish it again"),
        (letter(), None, "expired"),
        (letter(), b"other", "other bytes"),
    ):
        topic = Topic(body)
        [refused] = refusals([chosen], [chosen], topic)
        assert reason in refused
        assert topic.sent == []


def test_letters_are_selected_by_code_age_and_origin_oldest_first():
    letters = [letter(3), letter(1), letter(2, code="unknown_field")]
    assert [x.dead_at for x in select(letters)] == [1, 2, 3]
    assert [x.dead_at for x in select(letters, code="invalid_json")] == [1, 3]
    assert [x.dead_at for x in select(letters, since_us=2)] == [2, 3]
    assert [x.dead_at for x in select(letters, origin="authorizations.v1/3@2")] == [2]
