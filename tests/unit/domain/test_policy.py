from typing import Any

import numpy as np
import pytest

from sluice.domain.features import catalogue
from sluice.domain.policy.policy import Listing, Policy, Thresholds, Verdicts
from sluice.domain.policy.rules import MAX_RULES
from sluice.domain.records.authorization import Authorization, Channel
from sluice.domain.records.entity import ENTITY_KINDS, mask_of
from sluice.domain.records.outcome import Outcome
from sluice.errors import Misconfigured
from sluice.testing.policy import EUROS, make_policy, make_rule

D0, D1, D2, D3 = range(4)
BLOCKED_CARDS = Listing(
    file="lists/cards.txt",
    entity="card",
    effect="block",
    outcome=Outcome.DECLINE,
    reason="CARD_BLOCKED",
)
ALLOWED_MERCHANTS = Listing(
    file="lists/merchants.txt",
    entity="merchant",
    effect="allow",
    outcome=Outcome.APPROVE,
    reason="ALLOW_LISTED",
)


def make_auth(**fields: Any) -> Authorization:
    given = {
        "authorization_id": "a-1",
        "event_at": 1,
        "card_token": "card-1",
        "merchant_id": "merchant-1",
        "terminal_id": "terminal-1",
        "mcc": "5411",
        "channel": Channel.ECOM,
        "amount_minor": 1,
        "currency": "EUR",
        "merchant_country": "FR",
        "card_country": "FR",
        "region": "eea",
        "tenant": "bank",
    }
    return Authorization(**(given | fields))


def judge(
    policy: Policy,
    *,
    score_ppm: int | None = 0,
    level: int = D0,
    missing: tuple[str, ...] = (),
    auth: Authorization | None = None,
    explain: Any = None,
    **features: int,
) -> Verdicts:
    row = np.zeros((1, catalogue.N), np.int64)
    for name, value in features.items():
        row[0, catalogue.INDEX[name]] = value
    return policy.decide(
        [auth or make_auth()],
        row,
        missing=np.array([mask_of(missing)]),
        level=np.array([level]),
        score_ppm=None if score_ppm is None else np.array([score_ppm]),
        explain=explain,
    )


def said(verdicts: Verdicts) -> tuple[str, list[str]]:
    return str(verdicts.outcome(0)), verdicts.reasons[0]


@pytest.mark.parametrize(
    ("score_ppm", "outcome"),
    [
        (0, "approve"),
        (199_999, "approve"),
        (200_000, "challenge"),
        (500_000, "review"),
        (899_999, "review"),
        (900_000, "decline"),
    ],
)
def test_a_score_reaches_a_threshold_from_its_value_on(score_ppm: int, outcome: str) -> None:
    assert said(judge(make_policy(), score_ppm=score_ppm))[0] == outcome


def test_an_approval_names_no_reason() -> None:
    assert said(judge(make_policy())) == ("approve", [])


def test_expected_loss_is_score_times_amount() -> None:
    policy = make_policy(
        thresholds=Thresholds(score_ppm={}, expected_loss_minor={Outcome.REVIEW: 5_000})
    )
    assert said(judge(policy, score_ppm=50_000, amount_minor=99_999))[0] == "approve"
    assert said(judge(policy, score_ppm=50_000, amount_minor=100_000)) == (
        "review",
        ["EXPECTED_LOSS"],
    )


def test_the_model_gives_its_reasons_only_where_it_did_not_approve() -> None:
    asked = []

    def explain(row: Any) -> list[str]:
        asked.append(int(row[catalogue.INDEX["amount_minor"]]))
        return ["MODEL_PLACE", "MODEL_AMOUNT"]

    judge(make_policy(), score_ppm=10, amount_minor=1, explain=explain)
    verdict = judge(make_policy(), score_ppm=950_000, amount_minor=2, explain=explain)
    assert said(verdict) == ("decline", ["MODEL_PLACE", "MODEL_AMOUNT"])
    assert asked == [2]


def test_a_score_that_no_group_explains_is_still_named() -> None:
    assert said(judge(make_policy(), score_ppm=950_000))[1] == ["HIGH_SCORE"]


def test_rule_and_model_join_on_the_stricter_outcome() -> None:
    policy = make_policy(rules=[make_rule(outcome=Outcome.REVIEW)])
    assert said(judge(policy, amount_minor=100_000)) == ("review", ["HIGH_AMOUNT"])
    assert said(judge(policy, amount_minor=100_000, score_ppm=950_000)) == (
        "decline",
        ["HIGH_AMOUNT", "HIGH_SCORE"],
    )
    assert said(judge(policy, amount_minor=100_000, score_ppm=250_000))[0] == "review"


@pytest.mark.parametrize(
    ("condition", "below", "at", "above"),
    [
        ("amount_minor < 10", True, False, False),
        ("amount_minor <= 10", True, True, False),
        ("amount_minor > 10", False, False, True),
        ("amount_minor >= 10", False, True, True),
        ("amount_minor == 10", False, True, False),
        ("amount_minor != 10", True, False, True),
    ],
)
def test_an_operator_means_what_it_says(condition: str, below: bool, at: bool, above: bool) -> None:
    policy = make_policy(rules=[make_rule(all=[condition])])
    fired = [bool(said(judge(policy, amount_minor=v))[1]) for v in (9, 10, 11)]
    assert fired == [below, at, above]


def test_all_and_any_in_one_rule_must_both_hold() -> None:
    policy = make_policy(
        rules=[make_rule(all=["is_ecom == 1"], any=["card_count_1h > 5", "card_count_1d > 9"])]
    )
    assert not said(judge(policy, is_ecom=1))[1]
    assert not said(judge(policy, card_count_1h=6))[1]
    assert said(judge(policy, is_ecom=1, card_count_1h=6))[1]
    assert said(judge(policy, is_ecom=1, card_count_1d=10))[1]


def test_reasons_are_at_most_four_lists_first_then_the_strictest_rules() -> None:
    policy = make_policy(
        rules=[
            make_rule("a", outcome=Outcome.CHALLENGE, reason="CARD_VELOCITY"),
            make_rule("b", outcome=Outcome.DECLINE, reason="CARD_TESTING"),
            make_rule("c", outcome=Outcome.CHALLENGE, reason="NEW_DEVICE"),
            make_rule("d", outcome=Outcome.DECLINE, reason="CARD_TESTING"),
            make_rule("e", outcome=Outcome.CHALLENGE, reason="NEW_COUNTRY"),
        ],
        lists=[(BLOCKED_CARDS, ["card-1"])],
    )
    assert said(judge(policy, amount_minor=100_000, score_ppm=990_000)) == (
        "decline",
        ["CARD_BLOCKED", "CARD_TESTING", "CARD_VELOCITY", "NEW_DEVICE"],
    )


def test_the_last_rule_that_fits_fires_too() -> None:
    rules = [make_rule(f"r-{i}", all=[f"amount_minor == {i}"]) for i in range(MAX_RULES)]
    policy = make_policy(rules=rules)
    assert all(said(judge(policy, amount_minor=i))[1] for i in range(MAX_RULES))


def test_a_rule_whose_view_is_missing_does_not_fire_and_is_named() -> None:
    policy = make_policy(
        rules=[
            make_rule("of-card", all=["card_count_1h >= 0"]),
            make_rule("of-terminal", any=["terminal_count_5m >= 0", "amount_minor >= 0"]),
            make_rule("of-amount", all=["amount_minor >= 0"], reason="CARD_TESTING"),
        ]
    )
    verdict = judge(policy, missing=("card", "terminal"), level=D1)
    assert verdict.silenced == [("of-card", "of-terminal")]
    assert said(verdict)[1] == ["CARD_TESTING"]
    assert judge(policy, missing=("device",), level=D1).silenced == [()]


def test_fallback_rules_are_asked_only_without_a_model() -> None:
    policy = make_policy(fallback=[make_rule("fallback", reason="NEW_DEVICE")])
    assert said(judge(policy, amount_minor=100_000)) == ("approve", [])
    assert said(judge(policy, amount_minor=100_000, level=D2, score_ppm=None)) == (
        "review",
        ["NEW_DEVICE"],
    )


def test_a_score_is_not_read_on_the_degradation_levels_that_have_none() -> None:
    assert said(judge(make_policy(), level=D2, score_ppm=999_999)) == ("approve", [])


def test_a_row_that_should_have_a_score_must_have_one() -> None:
    with pytest.raises(ValueError, match="has no score"):
        judge(make_policy(), level=D1, score_ppm=None)


def test_without_features_and_model_the_table_of_amount_and_channel_decides() -> None:
    policy = make_policy()
    everything = ENTITY_KINDS
    small = judge(policy, level=D3, score_ppm=None, missing=everything, amount_minor=9_999)
    large = judge(policy, level=D3, score_ppm=None, missing=everything, amount_minor=100_000)
    assert said(small) == ("approve", [])
    assert said(large) == ("decline", ["AMOUNT_AND_CHANNEL"])


@pytest.mark.parametrize("level", [D0, D2, D3])
def test_a_blocked_card_is_declined_on_every_degradation_level(level: int) -> None:
    policy = make_policy(lists=[(BLOCKED_CARDS, ["card-1"])])
    missing = ENTITY_KINDS if level == D3 else ()
    assert said(judge(policy, level=level, missing=missing))[0] == "decline"
    other = make_auth(card_token="card-2")
    assert said(judge(policy, level=level, missing=missing, auth=other))[0] == "approve"


def test_an_allow_list_lowers_the_model_and_nothing_else() -> None:
    policy = make_policy(
        rules=[make_rule()], lists=[(ALLOWED_MERCHANTS, ["merchant-1"]), (BLOCKED_CARDS, ["bad"])]
    )
    assert said(judge(policy, score_ppm=999_999)) == ("approve", ["ALLOW_LISTED"])
    assert said(judge(policy, score_ppm=999_999, amount_minor=100_000)) == (
        "review",
        ["HIGH_AMOUNT", "ALLOW_LISTED"],
    )
    assert said(judge(policy, score_ppm=999_999, auth=make_auth(card_token="bad")))[0] == "decline"


def test_an_authorization_without_a_device_is_on_no_device_list() -> None:
    devices = Listing(
        file="lists/devices.txt",
        entity="device",
        effect="block",
        outcome=Outcome.DECLINE,
        reason="DEVICE_BLOCKED",
    )
    policy = make_policy(lists=[(devices, ["device-1"])])
    assert said(judge(policy))[0] == "approve"
    assert said(judge(policy, auth=make_auth(device_id="device-1")))[0] == "decline"


def test_a_row_gets_the_same_verdict_alone_and_in_a_batch() -> None:
    rng = np.random.default_rng(7)
    n = 300
    policy = make_policy(
        rules=[
            make_rule("a", all=["card_count_1h >= 2", "amount_minor >= 50"]),
            make_rule("b", any=["terminal_count_5m == 1"], outcome=Outcome.DECLINE),
        ],
        fallback=[make_rule("c", all=["amount_minor >= 10"], reason="NEW_CARD_SPREE")],
    )
    features = rng.integers(0, 4, (n, catalogue.N))
    features[:, catalogue.INDEX["amount_minor"]] = rng.integers(0, 200_000, n)
    missing, level = rng.integers(0, 16, n), rng.integers(0, 4, n)
    score = rng.integers(0, 1_000_001, n)
    auths = [make_auth()] * n

    whole = policy.decide(auths, features, missing=missing, level=level, score_ppm=score)
    assert len({*whole.severity.tolist()}) == 4
    for i in range(n):
        at = slice(i, i + 1)
        one = policy.decide(
            auths[at], features[at], missing=missing[at], level=level[at], score_ppm=score[at]
        )
        assert one.severity[0] == whole.severity[i]
        assert one.reasons[0] == whole.reasons[i]
        assert one.silenced[0] == whole.silenced[i]


def test_no_rows_get_no_verdicts() -> None:
    none = np.zeros(0, np.int64)
    verdicts = make_policy().decide(
        [], np.zeros((0, catalogue.N), np.int64), missing=none, level=none, score_ppm=none
    )
    assert verdicts.reasons == []


def test_the_id_changes_with_what_the_pack_means_and_with_nothing_else() -> None:
    base = make_policy(lists=[(BLOCKED_CARDS, ["x", "y"])])
    assert base.id == f"test@{base.digest[:12]}"
    assert make_policy(lists=[(BLOCKED_CARDS, ["y", "x", "x"])]).id == base.id
    assert make_policy(lists=[(BLOCKED_CARDS, ["x"])]).id != base.id
    assert make_policy(rules=[make_rule()], lists=[(BLOCKED_CARDS, ["x", "y"])]).id != base.id


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rules": [make_rule(all=["card_cuont_1h > 1"])]}, "unknown feature card_cuont_1h"),
        ({"rules": [make_rule(all=["amount_minor => 1"])]}, "is not a condition"),
        ({"rules": [make_rule(all=["amount_minor > 1.5"])]}, "is not a condition"),
        ({"rules": [make_rule(all=[f"amount_minor > {2**63}"])]}, "does not fit in 64 bits"),
        ({"rules": [make_rule(all=["amount_minor > 1"] * 17)]}, "17 conditions"),
        ({"rules": [make_rule(reason="BAD_VIBES")]}, "unknown reason code BAD_VIBES"),
        ({"rules": [make_rule(outcome=Outcome.APPROVE)]}, "cannot approve"),
        ({"rules": [make_rule("a"), make_rule("a")]}, "used twice"),
        ({"rules": [make_rule("a")], "fallback": [make_rule("a")]}, "used twice"),
        ({"rules": [make_rule(f"r{i}") for i in range(MAX_RULES + 1)]}, "63 rules"),
        ({"table": {Channel.POS: {}}}, "no steps for contactless, ecom, moto, atm"),
        (
            {"thresholds": Thresholds(score_ppm={Outcome.CHALLENGE: 5, Outcome.DECLINE: 4})},
            "do not rise",
        ),
        ({"features": catalogue.FEATURES[1:]}, "no amount_minor"),
    ],
)
def test_a_wrong_pack_is_refused_and_the_place_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(Misconfigured, match=says):
        make_policy(**change)


def test_the_rates_are_the_packs_own() -> None:
    assert make_policy().fx is EUROS


def test_severities_alone_are_those_of_the_verdict_lists_included() -> None:
    rng = np.random.default_rng(11)
    n = 400
    policy = make_policy(
        rules=[make_rule("a", any=["terminal_count_5m == 1"], outcome=Outcome.DECLINE)],
        fallback=[make_rule("b", all=["amount_minor >= 10"], reason="NEW_CARD_SPREE")],
        lists=[(BLOCKED_CARDS, ["card-1"]), (ALLOWED_MERCHANTS, ["merchant-1"])],
    )
    auths = [
        make_auth(card_token=f"card-{rng.integers(4)}", merchant_id=f"merchant-{rng.integers(3)}")
        for _ in range(n)
    ]
    features = rng.integers(0, 4, (n, catalogue.N))
    features[:, catalogue.INDEX["amount_minor"]] = rng.integers(0, 200_000, n)
    missing, level = rng.integers(0, 16, n), rng.integers(0, 4, n)
    given = {"missing": missing, "level": level, "score_ppm": rng.integers(0, 1_000_001, n)}
    whole = policy.decide(auths, features, **given)
    assert len({*whole.severity.tolist()}) == 4
    assert policy.severities(auths, features, **given).tolist() == whole.severity.tolist()


def test_a_decline_names_everything_that_asked_for_it() -> None:
    policy = make_policy(
        rules=[
            make_rule("one", all=["amount_minor >= 1"], outcome=Outcome.DECLINE),
            make_rule("two", all=["amount_minor >= 1"], outcome=Outcome.DECLINE),
            make_rule("mild", all=["amount_minor >= 1"], outcome=Outcome.CHALLENGE),
        ],
        lists=[(BLOCKED_CARDS, ["card-1"])],
    )
    ((row, mask),) = judge(policy, amount_minor=1, score_ppm=950_000).declined
    assert (row, policy.causes(mask)) == (0, ["rule one", "rule two", "lists", "model"])
    assert judge(policy, auth=make_auth(card_token="card-2")).declined == []


def test_a_decline_of_the_table_alone_has_no_cause() -> None:
    verdict = judge(make_policy(), level=D3, score_ppm=None, amount_minor=200_000)
    assert (verdict.outcome(0), verdict.declined) == (Outcome.DECLINE, [])


def test_a_rule_left_out_for_a_tenant_does_not_fire_and_is_named() -> None:
    policy = make_policy(
        rules=[
            make_rule("hard", all=["card_count_1h >= 0"], outcome=Outcome.DECLINE),
            make_rule("mild", all=["amount_minor >= 0"], outcome=Outcome.CHALLENGE),
        ],
        fallback=[make_rule("only-without-model", all=["amount_minor >= 0"])],
    )
    features = np.zeros((2, catalogue.N), np.int64)
    zeros = np.zeros(2, np.int64)
    left_out = {"bank": frozenset({"rule hard", "rule only-without-model"})}
    auths = [make_auth(), make_auth(tenant="shop")]

    def decide(level: int, missing: int = 0) -> Verdicts:
        return policy.decide(
            auths,
            features,
            missing=zeros + missing,
            level=zeros + level,
            score_ppm=zeros,
            left_out=left_out,
        )

    complete = decide(D0)
    assert [complete.outcome(i) for i in (0, 1)] == [Outcome.CHALLENGE, Outcome.DECLINE]
    assert complete.silenced == [("hard",), ()]
    assert complete.declined == [(1, 1)]
    assert decide(D2).silenced == [("hard", "only-without-model"), ()]
    assert decide(D0, mask_of(("card",))).silenced == [("hard",), ("hard",)]


def test_severities_alone_know_what_is_left_out() -> None:
    hard = make_rule("hard", all=["amount_minor >= 0"], outcome=Outcome.DECLINE)
    mild = make_rule("mild", all=["amount_minor >= 0"], outcome=Outcome.CHALLENGE)
    policy = make_policy(rules=[hard, mild])
    zeros = np.zeros(2, np.int64)
    found = policy.severities(
        [make_auth(), make_auth(tenant="shop")],
        np.zeros((2, catalogue.N), np.int64),
        missing=zeros,
        level=zeros,
        score_ppm=zeros,
        left_out={"bank": frozenset({"rule hard"})},
    )
    assert found.tolist() == [Outcome.CHALLENGE.severity, Outcome.DECLINE.severity]
