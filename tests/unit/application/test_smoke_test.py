"""A smoke test names the step that a deployment does not reach."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sluice.application.ports import Message
from sluice.application.smoke_test import Heard, Seen, smoke_test
from sluice.domain.clock import SECOND_US
from sluice.domain.records.authorization import Authorization
from sluice.domain.records.outcome import Outcome
from sluice.errors import Corrupt, Unavailable
from sluice.testing.factories import make_authorization

AUTH = make_authorization("smoke-test-1")


class Deployment:
    """Time, and what there is to see from when on: seconds after the start, None for never."""

    def __init__(
        self,
        answers: float | None = 0,
        records: float | None = 0,
        states: float | None = 0,
        recorded: Outcome = Outcome.APPROVE,
        of: Authorization = AUTH,
    ) -> None:
        self.now = 0.0
        self._times = {"answer": answers, "record": records, "state": states}
        self._recorded, self._of = recorded, of

    def now_us(self) -> int:
        return int(self.now * SECOND_US)

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def _there(self, what: str) -> bool:
        since = self._times[what]
        return since is not None and self.now >= since

    def ask(self, auth: Authorization) -> Heard:
        if not self._there("answer"):
            raise Unavailable("the sync API says 503")
        return Heard(auth.authorization_id, Outcome.APPROVE, "D0")

    def since(self) -> list[Message]:
        if not self._there("record"):
            return []
        record: dict[str, Any] = {
            "authorization": self._of, "reference_amount_minor": 1, "outcome": self._recorded,
            "reasons": [], "score_ppm": None, "degradation_level": "D0", "degraded": [],
            "release": None, "policy": "p", "decided_at": 1,
        }  # fmt: skip
        return [
            Message(b'{"smoke-test-1":"not a decision"}', None, "decisions.v1", 2, 6, None),
            Message(msgspec.json.encode(record), None, "decisions.v1", 2, 7, None),
        ]

    def read(self, entities: list[tuple[str, str]]) -> list[bytes]:
        return [b"state" if self._there("state") else b"" for _ in entities]


def run(at: Deployment) -> Seen:
    return smoke_test(
        AUTH, api=at, decisions=at, states=at, clock=at, wait=at.wait, timeout_s=10
    )  # fmt: skip


def test_it_waits_for_each_part_and_says_where_the_record_lies():
    seen = run(Deployment(answers=1, records=2, states=3))
    assert (seen.place, seen.state_bytes) == ("decisions.v1/2@7", 5)
    assert 3 <= seen.seconds < 4


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("answers", "no answer within 10 s: the sync API says 503"),
        ("records", "no record in decisions.v1 within 10 s"),
        ("states", "no state of the card in the store within 10 s"),
    ],
)
def test_it_names_the_step_that_was_not_reached(missing: str, said: str):
    with pytest.raises(Unavailable, match=said):
        run(Deployment(**{missing: None}))


def test_another_outcome_in_the_record_than_in_the_answer_is_corrupt():
    with pytest.raises(Corrupt, match="heard approve, the record says decline"):
        run(Deployment(recorded=Outcome.DECLINE))


def test_the_record_of_another_tenants_id_is_not_ours():
    other = make_authorization("smoke-test-1", tenant="other")
    with pytest.raises(Unavailable, match="no record"):
        run(Deployment(of=other))
