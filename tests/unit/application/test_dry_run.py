"""The dry run: a candidate judges the decisions just made, and may not move their outcomes far."""

from __future__ import annotations

import numpy as np
import pytest

from sluice.application.dry_run import (
    ROWS_MIN,
    Recent,
    Rows,
    check_policy,
    check_release,
    severities,
)
from sluice.domain.features import catalogue
from sluice.domain.policy.policy import Policy, Thresholds
from sluice.domain.records.outcome import Outcome
from sluice.errors import Misconfigured, Unavailable
from sluice.testing.factories import make_authorization
from sluice.testing.policy import STEPS, make_policy, make_rule
from sluice.testing.scorer import FakeScorer

AUTH = make_authorization("a")
BOUND = 5_000
DECLINES = 300_000


def rows(n: int = 1000, *, scored: bool = True) -> Rows:
    """Amounts from 0 in steps of 1,000, which are their scores too: 2 in 1,000 pass 900,000."""
    features = np.zeros((n, catalogue.N), np.int64)
    amounts = np.linspace(0, 902_000, n).astype(np.int64)
    features[:, catalogue.INDEX["amount_minor"]] = amounts
    level = np.zeros(n, np.int64) if scored else np.full(n, 2)
    return Rows([AUTH] * n, features, np.zeros(n, np.int64), level, amounts if scored else None)


def above(minor: int, outcome: Outcome = Outcome.DECLINE, name: str = "x") -> Policy:
    rule = make_rule(name, all=[f"amount_minor >= {minor}"], outcome=outcome)
    return make_policy(rules=[rule])


def test_a_policy_that_declines_everything_is_refused_with_the_figures() -> None:
    with pytest.raises(Misconfigured, match=r"decline from 0\.3% to 100\.0%") as refused:
        check_policy(above(0), make_policy(), rows(), BOUND)
    assert refused.value.code == "dry_run_shift"
    assert "over the last 1000 decisions" in str(refused.value)


def test_a_policy_that_challenges_or_reviews_more_is_refused_too() -> None:
    active = above(890_000)
    for outcome in (Outcome.CHALLENGE, Outcome.REVIEW):
        with pytest.raises(Misconfigured, match=f"{outcome} from"):
            check_policy(above(0, outcome), active, rows(), BOUND)


def test_a_policy_that_declines_nothing_any_more_is_refused() -> None:
    active = above(880_000)  # 2.5 % of them
    lax = make_policy(thresholds=Thresholds(score_ppm=STEPS | {Outcome.DECLINE: None}))
    with pytest.raises(Misconfigured, match=r"decline from 2\.\d% to 0\.0%"):
        check_policy(lax, active, rows(), BOUND)


def test_a_share_may_move_by_half_of_itself_and_by_the_bound() -> None:
    active = above(812_000)  # 10 %
    check_policy(above(764_000), active, rows(), BOUND)  # 15.3 %
    with pytest.raises(Misconfigured, match="decline"):
        check_policy(above(757_000), active, rows(), BOUND)  # 16 %


def test_severities_are_those_of_decide() -> None:
    rng = np.random.default_rng(3)
    n = 500
    policy = make_policy(
        rules=[make_rule("a", any=["terminal_count_5m == 1"], outcome=Outcome.DECLINE)],
        fallback=[make_rule("b", all=["amount_minor >= 10"])],
    )
    features = rng.integers(0, 4, (n, catalogue.N))
    features[:, catalogue.INDEX["amount_minor"]] = rng.integers(0, 200_000, n)
    missing, level = rng.integers(0, 16, n), rng.integers(0, 4, n)
    score = rng.integers(0, 1_000_001, n)
    auths = [AUTH] * n
    found = policy.decide(auths, features, missing=missing, level=level, score_ppm=score)
    given = Rows(auths, features, missing, level, score)
    assert severities(policy, given).tolist() == found.severity.tolist()


def test_a_constant_model_is_refused_whatever_it_says() -> None:
    for constant in (0, 950_000):
        with pytest.raises(Misconfigured, match="it moves") as refused:
            check_release(FakeScorer(constant), above(880_000), rows(), BOUND, DECLINES)
        assert refused.value.where == "fake-1"


def test_a_model_that_says_the_same_is_not_refused() -> None:
    check_release(FakeScorer(), make_policy(), rows(), BOUND, DECLINES)


def test_a_first_model_may_decline_what_the_breaker_lets_it() -> None:
    without = rows(scored=False)
    check_release(FakeScorer(), make_policy(), without, BOUND, DECLINES)
    with pytest.raises(Misconfigured, match="declines 1000 of the last 1000"):
        check_release(FakeScorer(950_000), make_policy(), without, BOUND, DECLINES)


def test_rows_that_had_no_score_are_left_out_of_a_models_comparison() -> None:
    given = rows()
    level = np.where(np.arange(1000) % 2 == 0, 2, 0)
    check_release(FakeScorer(), make_policy(), given._replace(level=level), BOUND, DECLINES)


def test_a_model_that_fails_on_a_row_is_refused() -> None:
    broken = FakeScorer()
    broken.down = True
    with pytest.raises(Unavailable):
        check_release(broken, make_policy(), rows(), BOUND, DECLINES)


def test_the_last_decisions_are_kept_and_no_more() -> None:
    recent = Recent(1000)
    for i in range(50):
        batch = rows(100)
        recent.add(batch._replace(missing=np.full(100, i)))
    kept = recent.batch()
    assert kept is not None
    assert len(recent) == len(kept.auths) == 1000
    assert kept.missing.tolist() == [i for i in range(40, 50) for _ in range(100)]


def test_too_few_decisions_say_nothing() -> None:
    recent = Recent(1000)
    recent.add(rows(ROWS_MIN - 1))
    assert recent.batch() is None
    recent.add(rows(1, scored=False))
    assert recent.batch() is not None


def test_none_are_kept_where_none_are_wanted() -> None:
    recent = Recent(0)
    recent.add(rows(300))
    assert recent.batch() is None
