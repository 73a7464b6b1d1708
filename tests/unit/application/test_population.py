from dataclasses import dataclass, field

import numpy as np
import pytest

from sluice.application.dry_run import Recent, Rows
from sluice.application.population import LOOK_ROWS, LOOK_S, ROWS_MIN, PopulationCheck
from sluice.application.ports import Ints
from sluice.domain.features import catalogue
from sluice.domain.records.authorization import Channel
from sluice.domain.reference import Column, Comparison, Reference, make_reference
from sluice.testing.factories import make_authorization
from sluice.testing.scorer import FakeScorer
from sluice.testing.store import FakeClock

INPUTS = ("amount_minor", "card_count_1h", "card_count_1d", "terminal_count_1d")
COLUMNS = [catalogue.INDEX[name] for name in INPUTS]
ECOM = make_authorization(channel=Channel.ECOM)


def drawn(n: int, seed: int, scale: float = 1.0) -> Ints:
    rng = np.random.default_rng(seed)
    features = np.zeros((n, catalogue.N), np.int64)
    features[:, COLUMNS[0]] = np.exp(rng.normal(8, 1, n)) * scale
    features[:, COLUMNS[1:]] = rng.poisson(3 * scale, (n, 3))
    return features


def reference(features: Ints, channels: list[str] | None = None) -> Reference:
    rows = features[:, COLUMNS]
    return make_reference(
        rows,
        np.minimum(rows[:, 0], 1_000_000),
        data="0" * 64,
        split="validation",
        since=0,
        until=1,
        segments=[Column("channel", channels)] if channels else [],
    )


@dataclass
class FakeReport:
    begun_: list[tuple[str, int]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    changes: list[bool] = field(default_factory=list)
    worst: list[str] = field(default_factory=list)

    def begun(self, release: str, reference_rows: int) -> None:
        self.begun_.append((release, reference_rows))

    def compared(self, found: Comparison, worst: list[str], out: bool) -> None:
        self.rows.append(found.rows)
        self.worst = worst

    def changed(self, release: str, found: Comparison, worst: list[str], out: bool) -> None:
        self.changes.append(out)


@dataclass
class FakeActive:
    scorer: FakeScorer | None
    recent: Recent = field(default_factory=lambda: Recent(5_000))
    out_of_domain: bool = False

    @property
    def releases(self) -> "FakeActive":
        return self

    def current(self) -> FakeScorer | None:
        return self.scorer


class World:
    def __init__(self, known: Reference | None) -> None:
        self.clock = FakeClock()
        self.report = FakeReport()
        self.active = FakeActive(FakeScorer(columns=INPUTS, reference=known))
        self.check = PopulationCheck(self.active, self.clock, self.report)
        self.check.look()

    def decide(self, features: Ints, *, missing: int = 0, scored: bool = True) -> None:
        n = len(features)
        score = np.minimum(features[:, COLUMNS[0]], 1_000_000) if scored else None
        zeros = np.zeros(n, np.int64)
        self.active.recent.add(Rows([ECOM] * n, features, zeros + missing, zeros, score))

    def minute(self, features: Ints) -> None:
        self.decide(features)
        self.clock.advance(LOOK_S)
        self.check.look()


@pytest.fixture
def world() -> World:
    return World(reference(drawn(20_000, 1)))


def test_the_population_it_was_made_for_is_compared_in_silence(world: World) -> None:
    for minute in range(90):
        world.minute(drawn(100, 10 + minute))
    assert world.report.rows[0] == ROWS_MIN
    assert world.report.changes == []
    assert not world.active.out_of_domain


def test_another_population_is_said_within_an_hour_and_so_is_the_return(world: World) -> None:
    for minute in range(60):
        world.minute(drawn(20, minute, scale=4.0))
    assert world.report.changes == [True]
    assert world.active.out_of_domain
    for minute in range(200):
        world.minute(drawn(40, 100 + minute))
    assert world.report.changes == [True, False]
    assert not world.active.out_of_domain


def test_a_few_decisions_say_nothing(world: World) -> None:
    world.minute(drawn(ROWS_MIN - 1, 2, scale=4.0))
    assert world.report.rows == []
    world.minute(drawn(1, 3, scale=4.0))
    assert world.report.rows == [ROWS_MIN]
    assert world.active.out_of_domain


def test_one_input_in_another_unit_moves_the_score_and_is_named_first(world: World) -> None:
    features = drawn(2_000, 4)
    features[:, COLUMNS[0]] *= 100
    world.minute(features)
    assert world.active.out_of_domain
    assert world.report.worst[0] == "amount_minor"


def test_the_window_is_an_hour_but_at_least_so_many_decisions(world: World) -> None:
    world.minute(drawn(1_500, 5))
    world.clock.advance(7_200)
    world.minute(drawn(1_500, 6))
    assert world.report.rows[-1] == 3_000
    world.clock.advance(7_200)
    world.minute(drawn(1_500, 7))
    assert world.report.rows[-1] == 3_000


def test_a_flood_is_sampled(world: World) -> None:
    for _ in range(3):
        world.decide(drawn(1_500, 8))
    world.minute(drawn(10, 9))
    assert world.report.rows == [LOOK_ROWS]


def test_what_was_decided_without_a_view_or_a_score_is_not_compared(world: World) -> None:
    world.decide(drawn(1_000, 10, scale=4.0), missing=1)
    world.decide(drawn(1_000, 11, scale=4.0), scored=False)
    world.minute(drawn(600, 12))
    assert world.report.rows == [600]
    assert not world.active.out_of_domain


def test_another_release_begins_anew_and_one_without_a_reference_is_not_compared(
    world: World,
) -> None:
    world.minute(drawn(1_000, 13, scale=4.0))
    assert world.active.out_of_domain
    world.active.scorer = FakeScorer(release="next", columns=INPUTS)
    world.minute(drawn(1_000, 14, scale=4.0))
    assert not world.active.out_of_domain
    assert world.report.begun_ == [("fake-1", 20_000), ("next", 0)]
    assert len(world.report.rows) == 1


def test_nothing_happens_without_a_release(world: World) -> None:
    world.active.scorer = None
    world.minute(drawn(1_000, 15, scale=4.0))
    assert world.report.rows == []


def test_one_channel_alone_is_compared_with_that_channel() -> None:
    pos, ecom = drawn(10_000, 16), drawn(10_000, 17, scale=4.0)
    channels = ["pos"] * 10_000 + ["ecom"] * 10_000
    world = World(reference(np.concatenate([pos, ecom]), channels))
    world.minute(drawn(2_000, 18, scale=4.0))
    assert not world.active.out_of_domain
    mixed = World(reference(np.concatenate([pos, ecom])))
    mixed.minute(drawn(2_000, 18, scale=4.0))
    assert mixed.active.out_of_domain
