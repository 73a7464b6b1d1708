from datetime import date, timedelta

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sluice_simulator.config import Config
from sluice_simulator.geography import REGIONS
from sluice_simulator.labels import DAY_US
from sluice_simulator.rows import FRAUD
from sluice_simulator.seasons import day_number
from sluice_simulator.world import World

from sluice.domain.records.authorization import decode_authorization, encode
from tests.examples import examples

DAYS = st.dates(date(2015, 1, 1), date(2035, 12, 31))


@st.composite
def configs(draw: st.DrawFn) -> Config:
    regions = draw(st.sets(st.sampled_from(REGIONS), min_size=1))
    kinds = draw(st.sets(st.sampled_from(FRAUD), min_size=1))
    return Config(
        cards=draw(st.integers(100, 400)),
        per_card_day=draw(st.sampled_from([0.2, 1.2, 5.0])),
        fraud_bp=draw(st.sampled_from([0.0, 2.0, 50.0, 1500.0])),
        regions=dict.fromkeys(regions, 1.0),
        campaigns=dict.fromkeys(kinds, 1.0),
        card_churn_month=draw(st.sampled_from([0.0, 0.015, 1.0])),
        merchant_churn_month=draw(st.sampled_from([0.0, 0.01])),
    )


@examples(12)
@given(configs(), st.integers(0, 2**40), DAYS)
def test_any_day_of_any_world_is_valid_ordered_and_inside_the_day(
    config: Config, seed: int, day: date
) -> None:
    batch = World(config, seed).day(day)
    start = day_number(day) * DAY_US
    at = batch.rows["event_us"]
    assert ((at >= start) & (at < start + DAY_US)).all()
    assert (np.diff(at) >= 0).all()
    for auth in batch.structs():
        assert decode_authorization(encode(auth)) == auth
    for label in batch.label_structs():
        assert label.event_at < label.known_at < label.event_at + 121 * DAY_US


@examples(8)
@given(configs(), st.integers(0, 2**40), DAYS, st.integers(1, 3))
def test_where_a_history_is_cut_does_not_matter(
    config: Config, seed: int, day: date, cut: int
) -> None:
    world = World(config, seed)
    whole = world.history(day, 4).rows
    late = World(config, seed).history(day + timedelta(days=cut), 4 - cut).rows
    early = World(config, seed).history(day, cut).rows
    assert np.concatenate([early, late]).tobytes() == whole.tobytes()
