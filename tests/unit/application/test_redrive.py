import hashlib

from sluice.application.redrive import Original, redrive, select
from sluice.domain.clock import SystemClock
from sluice.domain.records.dead_letter import DeadLetter
from sluice.domain.records.decision import Origin

BODY = b'{"v":1}'


def dead_letter(offset: int = 1, code: str = "invalid_json", **changes) -> DeadLetter:
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


def refusals(dead_letters, chosen, topic, *, dry_run=False) -> list[str]:
    sender = None if dry_run else topic
    return [
        result.refused for result in redrive(dead_letters, chosen, topic, sender, SystemClock())
    ]


def test_a_message_goes_again_with_its_key_and_bytes_and_is_noted():
    topic = Topic()
    assert refusals([dead_letter()], [dead_letter()], topic) == [""]
    [(origin, original, note)] = topic.sent
    assert (origin, original) == (dead_letter().origin, Original(b"card-1", BODY, None))
    assert b'"code":"redriven"' in note


def test_what_was_sent_before_or_twice_in_one_run_is_not_sent_again():
    topic = Topic()
    noted = dead_letter(code="redriven")
    assert refusals([dead_letter(), noted], [dead_letter()], topic) == ["it was sent again before"]
    assert refusals([dead_letter()], [dead_letter(), dead_letter()], topic) == [
        "",
        "it was sent again before",
    ]
    assert len(topic.sent) == 1


def test_a_dry_run_sends_nothing_and_says_the_same():
    topic = Topic()
    assert refusals([dead_letter()], [dead_letter(), dead_letter()], topic, dry_run=True)[0] == ""
    assert topic.sent == []


def test_duplicates_files_expired_and_changed_bytes_are_refused_with_the_reason():
    file = dead_letter(origin=Origin("file:book.csv", 0, 7))
    for chosen, body, reason in (
        (dead_letter(code="duplicate"), BODY, "decided before"),
        (dead_letter(code="redriven"), BODY, "notes"),
        (file, BODY, "publish it again"),
        (dead_letter(), None, "expired"),
        (dead_letter(), b"other", "other bytes"),
    ):
        topic = Topic(body)
        [refused] = refusals([chosen], [chosen], topic)
        assert reason in refused
        assert topic.sent == []


def test_dead_letters_are_selected_by_code_age_and_origin_oldest_first():
    dead_letters = [dead_letter(3), dead_letter(1), dead_letter(2, code="unknown_field")]
    assert [x.dead_at for x in select(dead_letters)] == [1, 2, 3]
    assert [x.dead_at for x in select(dead_letters, code="invalid_json")] == [1, 3]
    assert [x.dead_at for x in select(dead_letters, since_us=2)] == [2, 3]
    assert [x.dead_at for x in select(dead_letters, origin="authorizations.v1/3@2")] == [2]
