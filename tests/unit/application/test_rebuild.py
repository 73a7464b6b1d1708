"""A rebuild's plan, its order of steps, and the states that it makes of an event history."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest
from msgspec import structs

from sluice.application.ports import CATCHING_UP, READY, REBUILDING, STORE_LOST, Offsets, Watermark
from sluice.application.rebuild import (
    LEAVE_MAX_S,
    Rebuild,
    TopicNames,
    check_archive,
    starts,
    states_of,
)
from sluice.application.replay import EventHistory, Replay
from sluice.domain.features import catalogue
from sluice.domain.records.authorization import Channel
from sluice.domain.records.outcome import Outcome
from sluice.errors import Misconfigured, Unavailable
from sluice.testing.factories import NOON_US
from sluice.testing.history import event_history_of
from sluice.testing.records import make_decision

D, L, SEEN = "decisions.v1", "labels.v1", "observations.v1"
NAMES = TopicNames(D, L, SEEN)
SPANS = {(D, 0): (10, 90), (D, 1): (0, 50), (L, 0): (0, 7), (SEEN, 0): (400, 900)}


def test_an_archive_of_a_topic_that_was_made_again_is_refused():
    check_archive({D: {"one", ""}, L: set()}, {D: "one", L: "two"})
    check_archive({D: {"one"}}, {})  # the embedded broker gives no ids
    with pytest.raises(Misconfigured, match="another topic of this name"):
        check_archive({D: {"one", "before"}}, {D: "one"})


def test_featurizers_read_on_behind_the_archive_and_make_observations_again():
    assert starts(SPANS, {(D, 0): 60, (D, 1): 50, (L, 0): 3}, SEEN) == {
        (D, 0): 60,
        (D, 1): 50,
        (L, 0): 3,
        (SEEN, 0): 900,
    }


def test_a_partition_that_was_never_archived_is_read_from_its_beginning():
    assert starts(SPANS, {(D, 0): 60}, SEEN)[D, 1] == 0


def test_without_an_archive_everything_that_is_left_is_read():
    assert starts(SPANS, {}, SEEN) == {(D, 0): 10, (D, 1): 0, (L, 0): 0, (SEEN, 0): 900}


def test_records_that_neither_archive_nor_topic_holds_are_refused_by_name_unless_accepted():
    archived = {(D, 0): 4, (D, 1): 50, (L, 0): 3}
    with pytest.raises(Misconfigured, match=r"decisions\.v1/0: 4 to 9"):
        starts(SPANS, archived, SEEN)
    assert starts(SPANS, archived, SEEN, accept_gaps=True)[D, 0] == 10


def test_an_archive_of_another_topic_is_refused():
    with pytest.raises(Misconfigured, match="ends at offset 90, the topic at 89"):
        starts(SPANS, {(D, 0): 91}, SEEN, accept_gaps=True)


class Harness:
    """Marker, group, log and store of one rebuild. Featurizers apply when somebody waits."""

    def __init__(self, *, members: int = 1, apply: bool = True) -> None:
        self.did: list[str] = []
        self.mark = Watermark("old", READY, {})
        self.waits = 0
        self._members = members
        self._apply = apply

    def read(self) -> Watermark:
        return self.mark

    def begin(self) -> str:
        self.did.append("begin")
        self.mark = Watermark("new", REBUILDING, {})
        return "new"

    def move(self, watermark_id: str, state: str, applied: Offsets | None = None) -> None:
        self.did.append(state)
        self.mark = Watermark(watermark_id, state, dict(self.mark.applied) | dict(applied or {}))

    def members(self) -> list[str]:
        return ["featurizer-1"] * self._members if self.mark.state == REBUILDING else []

    def reset(self, offsets: Offsets) -> None:
        assert not self.members()
        self.did.append("reset")

    def spans(self, topic: str) -> Mapping[int, tuple[int, int]]:
        return {number: span for (of, number), span in SPANS.items() if of == topic}

    def ends(self, topic: str) -> Mapping[int, int]:
        return {number: end - 1 for number, (_, end) in self.spans(topic).items()}

    def clear(self) -> int:
        self.did.append("clear")
        return 0

    def fill(self) -> None:
        self.did.append("fill")

    def wait(self, _seconds: float) -> None:
        self.waits += 1
        self._members = max(0, self._members - 1)
        if self._apply and self.mark.state == CATCHING_UP:
            ends = {place: end for place, (_, end) in SPANS.items()}
            self.mark = Watermark(self.mark.id, CATCHING_UP, ends)

    def rebuild(self, archived: Offsets) -> None:
        Rebuild(
            watermark=self,
            group=self,
            log=self,
            topics=NAMES,
            clear=self.clear,
            fill=self.fill if archived else None,
            archived=archived,
            wait=self.wait,
        ).run()


def test_the_store_is_ready_only_once_the_featurizers_have_caught_up():
    harness = Harness(members=3)
    harness.rebuild({(D, 0): 60})
    assert harness.did == ["begin", "clear", "fill", "reset", CATCHING_UP, READY]
    assert harness.waits == 4


def test_a_rebuild_that_had_written_the_archive_only_waits_again():
    harness = Harness()
    harness.mark = Watermark("half-way", CATCHING_UP, {})
    harness.rebuild({(D, 0): 60})
    assert harness.did == [READY]
    assert harness.mark.id == "half-way"


def test_nothing_is_touched_when_the_plan_is_refused():
    harness = Harness()
    with pytest.raises(Misconfigured):
        harness.rebuild({(D, 0): 4})
    assert harness.did == []


def test_featurizers_that_stay_stop_the_rebuild_before_anything_is_removed():
    harness = Harness(members=int(LEAVE_MAX_S) * 10)
    with pytest.raises(Unavailable, match="featurizer-1"):
        harness.rebuild({})
    assert harness.did == ["begin"]


def test_a_store_lost_again_while_it_catches_up_is_never_declared_ready():
    harness = Harness(apply=False)
    lost = Watermark("new", "lost", {})
    harness.wait = lambda _seconds: setattr(harness, "mark", lost)  # type: ignore[method-assign]
    harness.mark = Watermark("new", CATCHING_UP, {})
    with pytest.raises(Unavailable) as caught:
        harness.rebuild({})
    assert caught.value.code == STORE_LOST
    assert harness.did == []


def some_event_history() -> EventHistory:
    rng = random.Random(3)
    decisions = []
    for n in range(400):
        ecom = rng.random() < 0.5
        decision = make_decision(
            f"a-{n}",
            event_at=NOON_US + rng.randrange(40 * 86_400) * 1_000_000,
            card_token=f"card-{rng.randrange(30)}",
            merchant_id=f"merchant-{rng.randrange(5)}",
            terminal_id=f"terminal-{rng.randrange(9)}",
            device_id=f"device-{rng.randrange(4)}" if ecom else None,
            channel=Channel.ECOM if ecom else Channel.POS,
        )
        if rng.random() < 0.2:
            decision = structs.replace(decision, outcome=Outcome.DECLINE)
        decisions.append((n % 3, n // 3, decision))
    labels = [
        (4096, n, n % 2 == 0, NOON_US + n, (f"card-{n}", f"terminal-{n % 9}", "merchant-1", None))
        for n in range(20)
    ]
    return event_history_of(decisions, labels)


@pytest.mark.parametrize("chunk", [1, 50, 100_000])
def test_every_state_of_an_event_history_is_what_a_replay_makes(chunk):
    event_history = some_event_history()
    replay = Replay(event_history)
    made = [update for piece in states_of(event_history, chunk) for update in piece]
    for view, kind in enumerate(catalogue.VIEWS):
        keys = list(event_history.codes[view])
        again = replay.states(kind, keys, [None] * len(keys))
        mine = {u.key: u.state for u in made if u.entity == kind}
        assert mine == dict(zip(keys, again, strict=True))
    assert {u.etag for u in made} == {b""}
