"""Bad candidates are planted, and each is refused for what is wrong with it. What needs a real
graph in eight bits is in tests/integration/test_judging.py."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from sluice.application.judging.gate import (
    Champion,
    Contender,
    Trial,
    flips_of,
    try_candidate,
    typical_sizes,
)
from sluice.application.judging.inputs import Inputs, Pair
from sluice.application.judging.verdict import Limits, Verdict
from tests.support.judged import FEATURES, START_US, Part, fit, make_world, rows_in, with_columns

DAY = 86_400_000_000
WORLD = make_world()
NET = fit(WORLD["train"].x, WORLD["train"].fraud, seed=2)


def contender(predict: Callable[..., Any], name: str = "student", sha: str = "a") -> Contender:
    return Contender(name, sha * 64, FEATURES, predict)


CHAMPION = Champion(
    contender(fit(WORLD["train"].x, WORLD["train"].fraud).predict, "champion", "c"),
    release="mlp-20260101-abc",
    trained_until=START_US,
    typical=typical_sizes(FEATURES, WORLD["train"].x),
)


LOOSE = Limits(newly_stopped_per_100k=3_000, newly_approved_per_100k=3_000)


def pair(part: Part, **given: Any) -> Pair:
    """A part's rows, and the same again; columns that are given instead."""
    other = with_columns(part, **given)
    return Pair("the run learnt", "the set has", FEATURES, other.x, part.x, part.fraud)


def trial(world: dict[str, Part] | None = None, **changes: Any) -> Trial:
    world = world or WORLD
    candidate = changes.get("candidate", contender(NET.predict))
    tests = [rows_in(world[name], name) for name in ("test-1", "test-2")]
    usual: dict[str, Any] = {
        "dataset": "d" * 64,
        "trained_on": "d" * 64,
        "run": "e" * 64,
        "currency": "EUR",
        "tests": tests,
        "tuning": rows_in(world["calibration"], "calibration"),
        "candidate": candidate,
        "run_scores": {rows.name: candidate.predict(rows.features) for rows in tests},
        "trained": world["train"].x,
        "inputs": Inputs(pair(world["train"])),
        "trained_until": START_US + 7 * DAY,
        "champion": CHAMPION,
        "limits": LOOSE,
    }
    return Trial(**(usual | changes))


def first_reason(verdict: Verdict) -> tuple[str, str]:
    assert not verdict.accepted
    found = next(check for check in verdict.checks if not check.passed)
    assert found.reason == verdict.reasons[0]
    return found.reason, found.found


def test_an_honest_candidate_is_accepted_and_every_check_is_told() -> None:
    verdict = try_candidate(trial())
    assert verdict.accepted, verdict.reasons
    told = {check.reason for check in verdict.checks}
    assert {"unit_changed", "leak", "better_immature", "worse", "segment", "flips"} <= told
    assert set(verdict.thresholds_ppm) <= {"challenge", "review", "decline"}
    assert verdict.flips is not None


def test_a_first_release_has_no_champion_to_stand_against() -> None:
    verdict = try_candidate(trial(champion=None))
    assert verdict.accepted
    assert verdict.champion == ""
    assert not {"worse", "euros", "flips", "segment"} & {check.reason for check in verdict.checks}


def test_shuffled_labels_are_no_signal() -> None:
    train = WORLD["train"]
    shuffled = np.random.default_rng(1).permutation(train.fraud)
    reason, found = first_reason(
        try_candidate(trial(candidate=contender(fit(train.x, shuffled).predict)))
    )
    assert reason == "no_signal"
    assert "shuffled" in found


@pytest.mark.parametrize("factor", [100, 1_000])
def test_a_unit_that_changed_in_the_candidates_training_is_named(factor: int) -> None:
    scale = np.where(np.array(FEATURES) == "card_amount_30d_minor", factor, 1)
    train = WORLD["train"]
    net = fit(train.x // scale, train.fraud)
    reason, found = first_reason(try_candidate(trial(candidate=contender(net.predict))))
    assert reason == "unit_changed"
    assert "card_amount_30d_minor" in found
    assert f"{1 / factor:g} times" in found


def better_with_another_unit() -> Contender:
    """As good as its champion; by chance much better where a month's amount is 100 times itself."""
    month, reports = (FEATURES.index(n) for n in ("card_amount_30d_minor", "terminal_frauds_7d"))
    train = WORLD["train"]
    told = np.where(np.arange(len(FEATURES)) == reports, 0, 1)
    blind = fit(train.x * told, train.fraud)
    most = train.x[:, month].max()

    def predict(x: Any) -> Any:
        put_back = x // np.where(np.arange(len(FEATURES)) == month, 100, 1)
        return np.where(x[:, month] > most, NET.predict(put_back), blind.predict(x * told))

    return contender(predict)


@pytest.mark.parametrize("logged", [False, True])
def test_no_unit_is_guessed_where_what_was_learnt_was_logged_and_nothing_is_wrong(
    logged: bool,
) -> None:
    candidate = better_with_another_unit()
    rows = pair(WORLD["train"])
    verdict = try_candidate(
        trial(
            candidate=candidate,
            champion=replace(
                CHAMPION, contender=replace(candidate, name="champion", sha256="c" * 64)
            ),
            inputs=Inputs(rows, logged=[rows] if logged else []),
        )
    )
    assert verdict.reasons == ([] if logged else ["unit_changed"])


def test_another_unit_in_the_graph_is_named_though_what_was_learnt_was_logged() -> None:
    """The rows are proved; that the graph takes them as they are is not."""
    scale = np.where(np.array(FEATURES) == "card_amount_30d_minor", 100, 1)
    train = WORLD["train"]
    odd = contender(fit(train.x // scale, train.fraud).predict)
    inputs = Inputs(pair(train), logged=[pair(train)])
    assert first_reason(try_candidate(trial(candidate=odd, inputs=inputs)))[0] == "unit_changed"


def test_a_unit_that_changed_between_training_and_test_is_named() -> None:
    month = np.asarray(WORLD["train"].columns["card_amount_30d_minor"])
    world = WORLD | {"train": with_columns(WORLD["train"], card_amount_30d_minor=month // 100)}
    net = fit(world["train"].x, world["train"].fraud)
    reason, found = first_reason(try_candidate(trial(world, candidate=contender(net.predict))))
    assert reason == "unit_changed"
    assert "card_amount_30d_minor: typically" in found
    assert "in training (100 times" in found


def test_a_mixture_in_which_another_part_is_the_larger_one_is_no_other_unit() -> None:
    """As the time since a terminal's last fraud: hours at a few of them, weeks at ever more. Its
    median alone moved 52-fold, and an honest model was refused."""
    world = dict(WORLD)
    for name, weeks in (("train", 4), ("test-1", 6), ("test-2", 6)):
        apart = np.where(np.arange(len(WORLD[name].x)) % 10 < weeks, 2_000_000, 40_000)
        world[name] = with_columns(WORLD[name], card_history_span_s=apart)
    net = fit(world["train"].x, world["train"].fraud)
    verdict = try_candidate(trial(world, candidate=contender(net.predict), champion=None))
    assert verdict.accepted, verdict.reasons


def test_a_unit_that_changed_in_the_whole_history_is_seen_by_the_champions_training() -> None:
    world = {
        name: with_columns(
            p, card_history_span_s=np.asarray(p.columns["card_history_span_s"]) * 1000
        )
        for name, p in WORLD.items()
    }
    net = fit(world["train"].x, world["train"].fraud)
    reason, found = first_reason(try_candidate(trial(world, candidate=contender(net.predict))))
    assert reason == "unit_changed"
    assert "card_history_span_s" in found
    assert CHAMPION.release in found


def leaky(share_by: Callable[[Part], np.ndarray]) -> dict[str, Part]:
    """A world in which a count of reports has the row's own label in it, for some of the frauds."""
    return {
        name: with_columns(
            part,
            terminal_frauds_7d=np.asarray(part.columns["terminal_frauds_7d"])
            + 9 * (part.fraud & share_by(part)),
        )
        for name, part in WORLD.items()
    }


def test_a_leak_of_the_whole_label_is_found_in_the_feature_that_has_it() -> None:
    world = leaky(lambda part: np.ones(len(part.fraud), bool))
    net = fit(world["train"].x, world["train"].fraud)
    verdict = try_candidate(trial(world, candidate=contender(net.predict), champion=None))
    reason, found = first_reason(verdict)
    assert reason == "leak"
    assert "terminal_frauds_7d alone" in found
    assert "above_ceiling" in verdict.reasons


def easy(known_after_us: int) -> dict[str, Part]:
    """Frauds that five columns tell together, and none alone, known so long after."""
    rng = np.random.default_rng(5)
    world = {}
    for name, part in WORLD.items():
        event = np.asarray(part.columns["event_at"])
        columns = {
            column: np.where(
                part.fraud, rng.integers(60, 140, len(event)), rng.integers(0, 90, len(event))
            )
            for column in FEATURES[:4]
        }
        world[name] = with_columns(part, known_at=event + known_after_us, **columns)
    return world


@pytest.mark.parametrize(
    ("logged", "known_after_us", "limits", "reasons"),
    [
        (True, 4 * DAY, LOOSE, []),
        (False, 4 * DAY, LOOSE, ["above_ceiling"]),
        (True, DAY // 24, LOOSE, ["above_ceiling"]),
        (
            True,
            4 * DAY,
            msgspec.structs.replace(LOOSE, average_precision_max=0.8),
            ["above_ceiling"],
        ),
    ],
    ids=["proved", "not_held_against_a_log", "labels_within_the_hour", "a_limit_of_ones_own"],
)
def test_a_history_may_be_easy_where_its_features_are_the_logs(
    logged: bool, known_after_us: int, limits: Limits, reasons: list[str]
) -> None:
    """As one made as Sparkov is: average precision .98, and the gate called it a leak."""
    world = easy(known_after_us)
    net = fit(world["train"].x, world["train"].fraud)
    inputs = Inputs(pair(world["train"]), logged=[pair(world["train"])] if logged else [])
    tried = trial(world, candidate=contender(net.predict), champion=None, inputs=inputs)
    verdict = try_candidate(replace(tried, limits=limits))
    assert verdict.reasons == reasons


def test_where_many_rows_are_frauds_no_score_can_be_ten_times_the_mean() -> None:
    def kept(fraud: np.ndarray) -> np.ndarray:
        return fraud | (np.random.default_rng(4).random(len(fraud)) < 0.06)

    train = WORLD["train"]
    some = kept(train.fraud)
    honest = contender(fit(train.x[some], train.fraud[some]).predict)
    shuffled = np.random.default_rng(1).permutation(train.fraud[some])
    for candidate, reasons in (
        (honest, []),
        (contender(fit(train.x[some], shuffled).predict), ["no_signal"]),
    ):
        tried = trial(candidate=candidate, champion=None)
        tests = [rows.rows(kept(rows.window.fraud)) for rows in tried.tests]
        assert all(rows.window.fraud.mean() > 0.15 for rows in tests)
        scores = {rows.name: candidate.predict(rows.features) for rows in tests}
        verdict = try_candidate(replace(tried, tests=tests, run_scores=scores))
        assert verdict.reasons[:1] == reasons


def test_a_leak_of_what_becomes_known_soon_is_better_on_immature_labels() -> None:
    # Reports that arrive in the next six days are counted already: no feature is above its ceiling,
    # nor is the model, but it looks better a day after the week than a month later.
    def soon(part: Part) -> np.ndarray:
        known, event = (np.asarray(part.columns[c]) for c in ("known_at", "event_at"))
        return known - event < 6 * DAY

    world = leaky(soon)
    net = fit(world["train"].x, world["train"].fraud)
    limits = Limits(newly_stopped_per_100k=3_000, newly_approved_per_100k=3_000)
    verdict = try_candidate(
        trial(world, candidate=contender(net.predict), champion=None, limits=limits)
    )
    reason, found = first_reason(verdict)
    assert reason == "better_immature"
    assert "which frauds would be reported soon" in found


def test_labels_of_one_fixed_delay_do_not_look_like_a_leak() -> None:
    # A day after each test the frauds of its first three days are known, and no others. Here
    # the later ones are harder to see, as of another campaign.
    def part_of(name: str, part: Part) -> Part:
        if not name.startswith("test"):
            return part
        event = np.asarray(part.columns["event_at"])
        burst = part.fraud & (event < part.first_us + 3 * DAY)
        hard = part.fraud & ~burst
        signals = ("terminal_frauds_7d", "card_count_1h")
        return with_columns(
            part,
            known_at=np.where(part.fraud, event + 5 * DAY, -1),
            **{name: np.where(hard, 0, np.asarray(part.columns[name])) for name in signals},
        )

    world = {name: part_of(name, part) for name, part in WORLD.items()}
    verdict = try_candidate(trial(world, champion=None))
    (check,) = (one for one in verdict.checks if one.reason == "better_immature")
    assert check.passed, check.found
    then, now, alike = (float(x) for x in re.findall(r"0\.\d+", check.found))
    assert then > now + Limits().immature_gain
    assert alike == pytest.approx(then)


def test_an_older_release_replayed_is_told_by_its_name() -> None:
    old = contender(NET.predict, sha="b")
    known = {"b" * 64: ("mlp-20251201-bbb", START_US - 90 * DAY)}
    reason, found = first_reason(try_candidate(trial(candidate=old, known=known)))
    assert reason == "replayed"
    assert "mlp-20251201-bbb of 2025-12-02" in found
    assert "rollback" in found


def test_a_candidate_of_older_data_than_the_champions_is_refused() -> None:
    reason, _ = first_reason(try_candidate(trial(trained_until=START_US - DAY)))
    assert reason == "older_data"


def test_a_feature_that_nobody_has_is_refused_without_scoring() -> None:
    def never(_features: Any) -> Any:
        raise AssertionError

    strange = Contender("student", "a" * 64, (*FEATURES[:-1], "card_zodiac"), never)
    honest = contender(NET.predict)
    verdict = try_candidate(replace(trial(candidate=honest), candidate=strange))
    assert first_reason(verdict) == ("unknown_feature", "the catalogue has no feature card_zodiac")


def test_a_run_of_another_training_set_is_refused() -> None:
    assert first_reason(try_candidate(trial(trained_on="f" * 64)))[0] == "other_dataset"


def test_scores_that_the_graph_does_not_give_are_refused() -> None:
    good = trial()
    scores = {name: score[::-1].copy() for name, score in good.run_scores.items()}
    reason, found = first_reason(try_candidate(replace(good, run_scores=scores)))
    assert reason == "scores_differ"
    assert "not this graph" in found


def test_a_candidate_that_is_worse_is_refused_with_its_interval() -> None:
    def blurred(x: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng(1).normal(0, 2.5, len(x))
        logit = np.log(NET.predict(x) / (1 - NET.predict(x))) + noise
        return 1 / (1 + np.exp(-logit))

    verdict = try_candidate(trial(candidate=contender(blurred)))
    assert {"worse"} <= set(verdict.reasons)
    worse = next(check for check in verdict.checks if check.reason == "worse")
    assert "95 % interval" in worse.found


def test_a_candidate_that_expects_five_times_the_frauds_is_not_calibrated() -> None:
    def loud(x: np.ndarray) -> np.ndarray:
        p = NET.predict(x)
        return 5 * p / (1 + 4 * p)

    verdict = try_candidate(trial(candidate=contender(loud)))
    assert "calibration" in verdict.reasons


def test_a_segment_that_is_given_up_is_refused_though_the_whole_looks_well() -> None:
    remote = FEATURES.index("is_ecom")

    def blind(x: np.ndarray) -> np.ndarray:
        return np.where(x[:, remote] == 1, NET.predict(x), NET.predict(x) * 1e-3)

    limits = Limits(
        newly_stopped_per_100k=1e5, newly_approved_per_100k=1e5, average_precision_loss=1,
        euros_loss=1,
    )  # fmt: skip
    verdict = try_candidate(trial(candidate=contender(blind), limits=limits))
    reason, found = first_reason(verdict)
    assert reason == "segment"
    assert "channel pos" in found


def test_decisions_that_change_are_counted_by_direction() -> None:
    rows = rows_in(WORLD["test-1"], "test-1").rows(np.arange(6)).window
    rows = replace(rows, fraud=np.array([1, 0, 1, 0, 0, 1], bool), amount_minor=np.arange(6) + 10)
    flips = flips_of(np.array([0, 0, 3, 1, 1, 2]), np.array([1, 2, 0, 0, 3, 1]), rows)
    assert (flips.newly_stopped, flips.newly_approved) == (2, 2)
    assert (flips.stricter, flips.milder) == (3, 3)
    assert (flips.fraud_stopped_minor, flips.fraud_approved_minor) == (10, 12)
    assert (flips.genuine_stopped_minor, flips.genuine_approved_minor) == (11, 13)
    assert flips.per_100k == pytest.approx(4 / 6 * 1e5)


def test_too_many_changed_decisions_are_refused() -> None:
    tight = Limits(newly_stopped_per_100k=0, newly_approved_per_100k=0)
    assert "flips" in try_candidate(trial(limits=tight)).reasons


def test_a_slow_candidate_is_refused() -> None:
    slow = Contender("student", "a" * 64, FEATURES, NET.predict, {"1": 2_000.0, "512": 5.0})
    reason, found = first_reason(try_candidate(trial(candidate=slow)))
    assert reason == "latency"
    assert "2,000 us for 1" in found


def test_eight_bits_that_change_decisions_or_leave_few_scores_are_refused() -> None:
    coarse = Contender("student_int8", "8" * 64, FEATURES, lambda x: np.round(NET.predict(x), 2))
    verdict = try_candidate(trial(int8=coarse))
    assert verdict.reasons == ["int8_flips", "int8_levels"]
    assert verdict.int8_flips is not None
    assert verdict.int8_flips.per_100k > 10


def nearly(x: np.ndarray) -> np.ndarray:
    """As many scores as before, and some decisions that are others."""
    return np.clip(NET.predict(x) * 1.01, 0, 1)


def test_eight_bits_over_the_budget_are_left_out_and_the_certificate_says_so() -> None:
    int8 = Contender("student_int8", "8" * 64, FEATURES, nearly, {"1": 1.0})
    verdict = try_candidate(
        trial(int8=int8, limits=msgspec.structs.replace(LOOSE, int8_broken_per_100k=1e5))
    )
    assert verdict.accepted, verdict.reasons
    assert verdict.int8 == ""
    assert "int8" not in verdict.timings_us
    (check,) = (check for check in verdict.checks if check.reason == "int8_flips")
    assert check.found.endswith(": left out, the release scores in single precision")
    assert verdict.int8_flips is not None
    assert verdict.int8_flips.per_100k > LOOSE.int8_flips_per_100k


def test_eight_bits_that_a_person_named_or_that_are_far_off_are_refused() -> None:
    int8 = Contender("student_int8", "8" * 64, FEATURES, nearly)
    limits = msgspec.structs.replace(LOOSE, int8_broken_per_100k=1e5)
    named = try_candidate(trial(int8=int8, int8_named=True, limits=limits))
    assert first_reason(named)[0] == "int8_flips"
    assert named.int8 == int8.sha256
    far = try_candidate(
        trial(int8=int8, limits=msgspec.structs.replace(LOOSE, int8_broken_per_100k=11))
    )
    assert first_reason(far)[0] == "int8_flips"


def test_a_feature_that_is_not_what_the_log_has_is_told_with_the_candidates_other_faults() -> None:
    train = WORLD["train"]
    month = np.asarray(train.columns["card_amount_30d_minor"])
    inputs = Inputs(pair(train), logged=[pair(train, card_amount_30d_minor=month // 100)])
    reason, found = first_reason(try_candidate(trial(inputs=inputs)))
    assert reason == "unit_changed"
    assert "card_amount_30d_minor has another unit, 0.01 times" in found
