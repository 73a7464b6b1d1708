from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pytest

from sluice.application.drift import (
    Piece,
    Report,
    SegmentDrift,
    drift,
    reference_of,
    told_at,
)
from sluice.application.judging.measures import Window
from sluice.domain.clock import DAY_US
from sluice.domain.features import catalogue
from sluice.domain.reference import Column, Reference
from sluice.errors import Misconfigured
from sluice.testing.scorer import FakeScorer

AMOUNT, COUNT = (catalogue.INDEX[name] for name in ("amount_minor", "card_count_1d"))
COLUMNS = ("amount_minor", "card_count_1d")
ARRAYS = [name for name in Piece._fields if name != "segments"]
N = 6_000


def piece(
    seed: int, n: int = N, *, hidden: float = 0.0, worth: float = 1.0, **scale: float
) -> Piece:
    """Rows whose score is their amount in ppm, and frauds as likely as that says. scale: of amounts
    by channel. hidden: share of the highest tenth that was declined, and not heard of. worth: share
    of the rows in which the score means something."""
    rng = np.random.default_rng(seed)
    channel = rng.choice(["ecom", "pos"], n)
    features = np.zeros((n, catalogue.N), np.int64)
    factor = np.where(channel == "ecom", scale.get("ecom", 1.0), scale.get("pos", 1.0))
    features[:, AMOUNT] = np.minimum(np.exp(rng.normal(9, 1.5, n)) * factor, 1_000_000)
    features[:, COUNT] = rng.poisson(2, n)
    likely = features[:, AMOUNT] / 1_000_000
    likely = np.where(rng.random(n) < worth, likely, likely.mean())
    fraud = rng.random(n) < likely
    high = features[:, AMOUNT] >= np.quantile(features[:, AMOUNT], 0.9)
    unheard = high & (rng.random(n) < hidden)
    return Piece(
        features=features,
        segments={"channel": channel.tolist()},
        event_us=np.arange(n),
        card=np.arange(n) % 500,
        amount_minor=features[:, AMOUNT],
        fraud=fraud & ~unheard,
        weight=np.where(high & ~unheard, 1 / (1 - hidden), 1.0) * ~unheard,
        mature=np.ones(n, np.bool_),
    )


def window(of: Piece) -> Window:
    return Window(of.fraud, of.amount_minor, of.card, of.event_us, of.weight)


MADE_OF = piece(1, 20_000)
WHERE: Any = {"data": "0" * 64, "split": "test-1", "since": 0, "until": 1}
REFERENCE = reference_of(
    MADE_OF.features[:, [AMOUNT, COUNT]],
    MADE_OF.amount_minor,
    window(MADE_OF),
    [Column("channel", MADE_OF.segments["channel"])],
    **WHERE,
)


@dataclass
class Archive:
    """Pieces, as an archive would give them."""

    held: Sequence[Piece]
    other_catalogue: int = 0

    def pieces(self) -> Iterator[Piece]:
        yield from self.held


def look(*held: Piece, reference: Reference | None = REFERENCE, **more: int) -> Report:
    scorer = FakeScorer(columns=COLUMNS, reference=reference)
    return drift(Archive(held, **more), scorer, 0, 1)


def test_the_same_population_is_as_made_for_and_its_scores_are_worth_the_same() -> None:
    found = look(piece(2), piece(3))
    assert (found.verdict, found.why, found.rows) == ("as_made_for", [], 2 * N)
    assert found.worth is not None
    assert found.worth.now.keys() == found.worth.then.keys()
    assert found.worth.now["average_precision"] == pytest.approx(
        found.worth.then["average_precision"], abs=0.05
    )


def test_pieces_add_up_whatever_the_cut() -> None:
    whole = piece(4)
    halves = [
        whole._replace(
            segments={"channel": whole.segments["channel"][part]},
            **{name: getattr(whole, name)[part] for name in ARRAYS},
        )
        for part in (slice(0, 2_500), slice(2_500, N))
    ]
    assert look(*halves) == look(whole)


def test_one_channel_that_moved_is_named_while_the_other_did_not() -> None:
    found = look(piece(5, ecom=3.0))
    ecom, pos = found.segments
    assert (ecom.value, pos.value) == ("ecom", "pos")
    assert ecom.score_psi > 0.25
    assert pos.score_psi < 0.05
    assert found.verdict == "drifted"
    assert any("channel ecom" in why for why in found.why)
    assert ecom.inputs[0].name == "amount_minor"
    assert ecom.alerts_to_promised > 2


def test_another_population_is_out_of_domain() -> None:
    found = look(piece(6, ecom=8.0, pos=8.0))
    assert found.verdict == "out_of_domain"
    assert [each.name for each in found.inputs] == ["amount_minor", "card_count_1d"]


def test_scores_that_are_worth_less_are_drift_though_nothing_else_moved() -> None:
    found = look(piece(7, 20_000, worth=0.3))
    assert found.score_psi < 0.05
    assert found.verdict == "drifted"
    assert "average precision" in found.why[0]


def test_what_was_declined_and_not_heard_of_is_made_up_for_by_what_was_let_through() -> None:
    found = look(piece(8, 60_000, hidden=0.7))
    truth = look(piece(8, 60_000))
    assert found.worth is not None
    assert truth.worth is not None
    assert found.worth.rows < truth.worth.rows
    for name in ("average_precision", "euros_at_budget"):
        assert found.worth.now[name] == pytest.approx(truth.worth.now[name], abs=0.06)
    assert found.score_psi == truth.score_psi, "the population is of all rows"


def test_rows_too_young_for_labels_are_compared_but_not_judged() -> None:
    young = piece(9)._replace(mature=np.zeros(N, np.bool_))
    assert look(young).worth is None
    assert look(young).rows == N


def test_a_segment_that_did_not_occur_and_one_that_is_new_are_told() -> None:
    moved = piece(10)
    channels = ["moto" if c == "pos" else c for c in moved.segments["channel"]]
    found = look(moved._replace(segments={"channel": channels}))
    assert found.missing_segments == ["channel pos"]
    new = next(each for each in found.segments if each.value == "moto")
    assert new.share_then == 0


def in_moto(of: Piece, rows: int, factor: float = 0.1) -> Piece:
    """The same, of which some rows are a channel of its own, with smaller amounts."""
    channel, features = np.array(of.segments["channel"], dtype=object), of.features.copy()
    at = np.random.default_rng(19).permutation(len(channel))[:rows]
    channel[at] = "moto"
    features[at, AMOUNT] = features[at, AMOUNT] * factor
    return of._replace(segments={"channel": channel.tolist()}, features=features)


def reference_with_moto(rows: int) -> Reference:
    made_of = in_moto(MADE_OF, rows)
    return reference_of(
        made_of.features[:, [AMOUNT, COUNT]],
        made_of.features[:, AMOUNT],
        window(made_of),
        [Column("channel", made_of.segments["channel"])],
        **WHERE,
    )


def moto(found: Report) -> SegmentDrift:
    (one,) = (each for each in found.segments if each.value == "moto")
    return one


def test_a_channel_of_which_the_reference_has_too_few_rows_is_no_alarm() -> None:
    found = look(in_moto(piece(15, 12_000), 540), reference=reference_with_moto(900))
    one = moto(found)
    assert (one.rows, one.reference_rows, one.share_then) == (540, 0, 0)
    assert one.score_psi > 1, "all rows are others than these"
    assert (found.verdict, found.why) == ("as_made_for", [])


def test_one_that_it_has_enough_rows_of_is_compared_with_its_own() -> None:
    reference = reference_with_moto(1_000)
    found = look(in_moto(piece(16, 12_000), 600), reference=reference)
    one = moto(found)
    assert one.reference_rows == 1_000
    assert one.score_psi < one.score_psi_by_chance < 0.2
    assert (found.verdict, found.why) == ("as_made_for", [])
    found = look(in_moto(piece(16, 12_000), 600, 0.3), reference=reference)
    assert found.verdict == "drifted"
    assert "channel moto" in found.why[0]


def test_a_channel_of_few_cards_may_move_further_by_chance() -> None:
    """As a subscription of the same amount, which is one purchase and not as many as its rows."""
    own = in_moto(piece(17, 12_000), 600)
    at = np.flatnonzero(np.array(own.segments["channel"]) == "moto")
    card, features = own.card.copy(), own.features.copy()
    card[at] = 1_000 + np.arange(600) // 30
    features[at, AMOUNT] = features[at, AMOUNT][np.arange(600) // 30 * 30]
    few = own._replace(card=card, features=features)
    reference = reference_with_moto(1_000)
    many, fewer = (moto(look(one, reference=reference)) for one in (own, few))
    assert fewer.score_psi > 0.25
    assert fewer.score_psi_by_chance > 10 * many.score_psi_by_chance
    assert look(few, reference=reference).verdict == "as_made_for"


def test_much_traffic_of_a_channel_that_it_was_not_made_for_is_drift() -> None:
    found = look(in_moto(piece(18), 600))
    assert found.verdict == "drifted"
    assert found.why == [
        "10.0% of the rows are of a channel that it was not made for, moto; 0.0% were"
    ]


def test_few_rows_say_nothing_and_what_was_passed_over_is_counted() -> None:
    found = look(piece(11, 499), other_catalogue=7)
    assert (found.verdict, found.other_catalogue) == ("too_few", 7)
    assert look().verdict == "too_few"


def test_a_release_without_a_reference_is_refused() -> None:
    with pytest.raises(Misconfigured, match="no reference"):
        look(piece(12), reference=None)


def test_a_report_is_json() -> None:
    found = look(piece(13))
    assert msgspec.json.decode(msgspec.json.encode(found), type=Report) == found


def test_a_reference_without_performance_says_nothing_of_worth_then() -> None:
    bare = msgspec.structs.replace(REFERENCE, performance={})
    found = look(piece(14, 20_000, worth=0.3), reference=bare)
    assert found.worth is not None
    assert found.worth.then == {}
    assert found.verdict == "as_made_for"


WEEK = 7 * DAY_US


def night(n: int, verdict: str = "drifted", release: str = "r1", told: int | None = None) -> Report:
    """Of the n-th night. told: the night that told it before."""
    return msgspec.structs.replace(
        look(piece(2)),
        verdict=verdict,
        release=release,
        until=n * DAY_US,
        told_at=None if told is None else told * DAY_US,
    )


def test_drift_that_goes_on_is_told_once_a_week() -> None:
    kept: list[Report] = []
    for n in range(1, 17):
        now = night(n)
        kept.append(msgspec.structs.replace(now, told_at=told_at(now, kept, WEEK)))
    assert [n for n, one in enumerate(kept, 1) if one.told_at is None] == [1, 8, 15]
    assert kept[9].told_at == 8 * DAY_US


def test_a_night_made_again_says_what_it_said() -> None:
    kept = [night(1), night(2, told=1)]
    assert told_at(night(1), kept, WEEK) is None
    assert told_at(night(2), kept, WEEK) == DAY_US


@pytest.mark.parametrize("now", [night(3, release="r2"), night(3, verdict="out_of_domain")])
def test_another_release_or_a_worse_verdict_is_told_at_once(now: Report) -> None:
    assert told_at(now, [night(1), night(2, told=1)], WEEK) is None
