"""A few would-be declines are approved by chance, and say with what probability."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from sluice.application.let_through import DayBudget, draw_of, refuse_undrawn
from sluice.domain.clock import DAY_US, SECOND_US
from sluice.domain.features import catalogue
from sluice.domain.policy.let_through import Draw, LetThrough, key_of
from sluice.domain.policy.policy import Listing, Policy, Verdicts
from sluice.domain.records.outcome import Outcome
from sluice.errors import Misconfigured
from sluice.testing.counting import Counted
from sluice.testing.factories import NOON_US, make_authorization
from sluice.testing.policy import make_policy, make_rule
from sluice.testing.store import FakeClock

KEY = b"sixteen bytes or"
N = 4_000
TENTH = LetThrough(share_ppm=100_000, amount_max_minor=5_000)
BLOCK = Listing(
    file="lists/cards.txt",
    entity="card",
    effect="block",
    outcome=Outcome.DECLINE,
    reason="CARD_BLOCKED",
)


def decide(
    policy: Policy,
    draw: Draw | None,
    *,
    n: int = N,
    first: int = 0,
    amount: int = 100,
    level: int = 0,
    score_ppm: int = 950_000,
    **auth: Any,
) -> Verdicts:
    """n authorizations that the model would decline."""
    rows = np.zeros((n, catalogue.N), np.int64)
    rows[:, catalogue.INDEX["amount_minor"]] = amount
    return policy.decide(
        [make_authorization(f"a-{first + i}", **auth) for i in range(n)],
        rows,
        missing=np.zeros(n, np.int64),
        level=np.full(n, level),
        score_ppm=np.full(n, score_ppm),
        draw=draw,
    )


def test_about_the_share_is_approved_and_the_rest_stays_declined() -> None:
    said = decide(make_policy(let_through=TENTH), Draw(KEY))
    through = np.flatnonzero(said.severity == 0).tolist()
    assert set(said.severity.tolist()) == {0, Outcome.DECLINE.severity}
    assert set(through) == set(said.let_through)
    assert abs(len(through) - N / 10) < 4 * (N * 0.1 * 0.9) ** 0.5
    assert set(said.let_through.values()) == {100_000}
    assert all(said.reasons[i] == ["LET_THROUGH", "HIGH_SCORE"] for i in through)
    assert len(said.declined) == N - len(through)


def test_a_share_of_a_share_is_among_it_so_that_raising_it_keeps_what_was_drawn() -> None:
    draw = Draw(KEY)
    ids = [f"a-{i}" for i in range(N)]
    small = {one for one in ids if draw.drawn("bank", one, 20_000)}
    assert small
    assert small < {one for one in ids if draw.drawn("bank", one, 100_000)}


def test_the_same_id_draws_the_same_in_any_batch_and_at_any_time() -> None:
    policy = make_policy(let_through=TENTH)
    whole = decide(policy, Draw(KEY), n=300)
    for i in range(300):
        alone = decide(policy, Draw(KEY), n=1, first=i)
        assert (alone.severity[0], alone.reasons[0]) == (whole.severity[i], whole.reasons[i])


def test_another_key_or_tenant_draws_others() -> None:
    policy = make_policy(let_through=TENTH)
    drawn = [
        frozenset(decide(policy, Draw(key), tenant=tenant).let_through)
        for key, tenant in ((KEY, "bank"), (KEY, "other"), (KEY + b"!", "bank"))
    ]
    assert len(set(drawn)) == 3
    assert all(len(one & other) < 120 for one in drawn for other in drawn if one is not other)


def test_an_amount_above_the_bound_is_never_let_through() -> None:
    policy = make_policy(let_through=TENTH)
    assert decide(policy, Draw(KEY), amount=5_000).let_through
    assert not decide(policy, Draw(KEY), amount=5_001).let_through


def test_what_is_declined_without_a_score_or_by_a_block_list_is_never_let_through() -> None:
    rule = make_rule("hard", all=["amount_minor >= 1"], outcome=Outcome.DECLINE)
    policy = make_policy(let_through=TENTH, rules=[rule])
    assert decide(policy, Draw(KEY), level=1).let_through
    for level in (2, 3):
        said = decide(policy, Draw(KEY), level=level)
        assert set(said.severity.tolist()) == {Outcome.DECLINE.severity}
        assert not said.let_through
    blocked = make_policy(let_through=TENTH, lists=[(BLOCK, ["card-1"])])
    assert not decide(blocked, Draw(KEY), card_token="card-1").let_through
    assert decide(blocked, Draw(KEY), card_token="card-2").let_through


def test_what_a_rule_with_a_named_reason_declines_is_never_let_through() -> None:
    rules = [
        make_rule("hard", all=["amount_minor >= 50"], outcome=Outcome.DECLINE, reason="NEW_DEVICE"),
        make_rule("soft", all=["amount_minor >= 1"], outcome=Outcome.DECLINE),
    ]
    limits = msgspec.structs.replace(TENTH, never=["NEW_DEVICE"])
    policy = make_policy(let_through=limits, rules=rules)
    assert decide(policy, Draw(KEY), amount=49, score_ppm=0).let_through
    assert not decide(policy, Draw(KEY), amount=50, score_ppm=0).let_through
    with pytest.raises(Misconfigured, match="no rule of this pack has the reason CARD_TESTING"):
        make_policy(let_through=msgspec.structs.replace(TENTH, never=["CARD_TESTING"]))


def test_less_than_a_decline_is_not_drawn() -> None:
    said = decide(make_policy(let_through=TENTH), Draw(KEY), score_ppm=899_999)
    assert set(said.severity.tolist()) == {Outcome.REVIEW.severity}
    assert not said.let_through


def test_a_policy_without_it_and_a_decider_without_a_draw_let_none_through() -> None:
    assert not decide(make_policy(), Draw(KEY)).let_through
    assert not decide(make_policy(let_through=TENTH), None).let_through


def test_a_pack_without_it_has_the_digest_that_it_had_before() -> None:
    assert "let_through" not in msgspec.json.encode(make_policy().pack).decode()
    assert make_policy().digest != make_policy(let_through=TENTH).digest


def test_the_days_budget_bounds_number_and_amount_and_begins_anew_at_midnight() -> None:
    clock, count = FakeClock(NOON_US), Counted()
    limits = msgspec.structs.replace(TENTH, count_per_day=3, amount_per_day_minor=700)
    policy = make_policy(let_through=limits)
    draw = Draw(KEY, DayBudget(clock, count).spend)
    said = decide(policy, draw, amount=200)
    drawn = list(said.let_through.values())
    assert drawn[:3] == [100_000] * 3
    assert len(drawn) > 100
    assert set(drawn[3:]) == {0}
    spent = [row for row, ppm in said.let_through.items() if not ppm]
    assert all(said.outcome(row) is Outcome.DECLINE for row in spent)
    assert "LET_THROUGH" not in said.reasons[spent[0]]
    clock.advance(DAY_US / SECOND_US)
    assert list(decide(policy, draw, amount=300).let_through.values())[:3] == [100_000, 100_000, 0]
    assert count["sluice_decider_let_through_total approved"] == 5
    assert count["sluice_decider_let_through_total spent"] > 100
    assert count["sluice_decider_let_through_minor_total"] == 1_200


def test_a_policy_that_lets_through_needs_a_key_that_is_one() -> None:
    refuse_undrawn(make_policy(), "")
    refuse_undrawn(make_policy(let_through=TENTH), "secret")
    with pytest.raises(Misconfigured, match="no key to draw by"):
        refuse_undrawn(make_policy(let_through=TENTH), "")
    for bad in ("short", "x" * 65):
        with pytest.raises(Misconfigured, match="16 to 64 are needed"):
            key_of(bad)
    assert draw_of("", FakeClock(NOON_US)) is None
