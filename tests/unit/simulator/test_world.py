import hashlib
import subprocess
import sys
from datetime import date, timedelta

import numpy as np
import pytest
from sluice_simulator import geography as geo
from sluice_simulator.batch import AUTHORIZATION_FIELDS, Batch
from sluice_simulator.config import Config, Drift
from sluice_simulator.labels import DAY_US, LONGEST_DAYS
from sluice_simulator.rows import CONTACTLESS, ECOM, FRAUD, KIND_INDEX, MOTO, THREE_DS, present
from sluice_simulator.world import World

from sluice.domain.records.authorization import ScaExemption, decode_authorization, encode
from sluice.domain.records.card_numbers import holds_card_number
from sluice.domain.records.currencies import EXPONENTS

START = date(2026, 9, 1)
CAMPAIGNS = dict.fromkeys(FRAUD, 10.0)


@pytest.fixture(scope="module")
def world() -> World:
    return World(Config(cards=4_000, fraud_bp=100, campaigns=CAMPAIGNS), seed=11)


@pytest.fixture(scope="module")
def month(world: World) -> Batch:
    return world.history(START, 40)


def digest(batch: Batch) -> str:
    return hashlib.sha256(batch.rows.tobytes()).hexdigest()


def campaigns(month: Batch, kind: str) -> list[np.ndarray]:
    rows = month.rows[month.rows["kind"] == KIND_INDEX[kind]]
    names = np.unique(rows[["campaign_day", "campaign_no"]])
    return [
        rows[(rows["campaign_day"] == day) & (rows["campaign_no"] == number)]
        for day, number in names.tolist()
        # Whole ones only: started inside, and long enough ago to be over.
        if START.toordinal() <= day + date(1970, 1, 1).toordinal() <= START.toordinal() + 15
    ]


def test_the_same_seed_makes_the_same_bytes_in_another_world_object() -> None:
    config = Config(cards=500, fraud_bp=200)
    assert digest(World(config, 5).history(START, 3)) == digest(World(config, 5).history(START, 3))


def test_another_seed_makes_other_bytes() -> None:
    config = Config(cards=500)
    assert digest(World(config, 5).history(START, 2)) != digest(World(config, 6).history(START, 2))


def test_a_day_is_the_same_whatever_was_made_before_it(world: World) -> None:
    fresh = World(world.config, world.seed)
    later = START + timedelta(days=25)
    assert digest(fresh.day(later)) == digest(world.day(later))


def test_a_history_cut_in_two_is_the_whole_history(world: World, month: Batch) -> None:
    first = world.history(START, 13)
    second = World(world.config, world.seed).history(START + timedelta(days=13), 27)
    both = np.concatenate([first.rows, second.rows])
    assert both.tobytes() == month.rows.tobytes()


def test_rows_are_in_the_order_of_time_and_ids_are_unique(month: Batch) -> None:
    assert (np.diff(month.rows["event_us"]) >= 0).all()
    ids = month.truth()["authorization_id"].to_pylist()
    assert len(set(ids)) == len(ids)


def test_the_columns_are_the_fields_of_an_authorization_and_nothing_else(month: Batch) -> None:
    assert tuple(month.authorizations().column_names) == AUTHORIZATION_FIELDS


def test_every_record_is_accepted_at_the_entrypoint(month: Batch) -> None:
    for auth in Batch(month.world, month.rows[::7]).structs():
        assert decode_authorization(encode(auth)) == auth


def test_structs_and_columns_say_the_same(month: Batch) -> None:
    part = Batch(month.world, month.rows[:500])
    structs = [{f: getattr(a, f) for f in AUTHORIZATION_FIELDS} for a in part.structs()]
    assert structs == part.authorizations().to_pylist()


def test_no_identifier_holds_a_digit(month: Batch) -> None:
    part = Batch(month.world, month.rows[::50]).authorizations()
    for field in ("card_token", "customer_id", "merchant_id", "terminal_id", "device_id"):
        for value in part[field].to_pylist():
            assert value is None or not (holds_card_number(value) or any(map(str.isdigit, value)))


def test_no_authorization_id_can_pass_for_a_card_number(month: Batch) -> None:
    ids = month.authorizations()["authorization_id"].to_pylist()
    assert {value[-1] for value in ids} == set("abcdef")
    assert {value[14] for value in ids} == {"7"}
    assert len(set(ids)) == len(ids)
    assert not any(map(holds_card_number, ids))


def test_currencies_with_no_two_and_three_minor_digits_occur(month: Batch) -> None:
    found = set(month.authorizations()["currency"].to_pylist())
    assert {EXPONENTS[c] for c in found} == {0, 2, 3}


def test_every_region_occurs(month: Batch) -> None:
    assert set(month.authorizations()["region"].to_pylist()) == set(geo.REGIONS)


@pytest.mark.parametrize("bp", [2, 20, 150])
def test_the_share_of_fraud_is_near_the_base_rate(bp: float) -> None:
    batch = World(Config(cards=12_000, fraud_bp=bp), seed=2).history(START, 45)
    assert 10_000 * batch.fraud.mean() == pytest.approx(bp, rel=0.25)


def test_without_fraud_there_is_none() -> None:
    batch = World(Config(cards=500, fraud_bp=0), seed=2).history(START, 5)
    assert not batch.fraud.any()
    assert len(batch.labels()) == 0


def test_the_mix_of_patterns_follows_the_configuration(month: Batch) -> None:
    fraud = month.rows[month.fraud]
    for kind in FRAUD:
        share = (fraud["kind"] == KIND_INDEX[kind]).mean()
        assert share == pytest.approx(1 / len(FRAUD), rel=0.5), kind


def test_weekends_and_nights_differ_from_busy_hours(month: Batch) -> None:
    hour = month.rows["event_us"] % DAY_US // (DAY_US // 24)
    home = month.world.cards.home[month.rows["card"]]
    germany = hour[geo.CODES[home] == "DE"]
    japan = hour[geo.CODES[home] == "JP"]
    busy = lambda hours, of: np.isin(hours, of).mean()  # noqa: E731
    assert busy(germany, [15, 16, 17]) > 4 * busy(germany, [1, 2, 3])
    assert busy(japan, [1, 2, 3]) > 4 * busy(japan, [16, 17, 18])


# Signatures of the campaigns.


def test_card_testing_is_many_small_amounts_in_minutes(month: Batch) -> None:
    found = campaigns(month, "card_testing")
    assert found
    for rows in found:
        tests = rows[rows["event_us"] < rows["event_us"].min() + 60 * 60_000_000]
        eur = tests["amount"] / geo.MINOR_PER_EUR[month.world.merchants.country[tests["merchant"]]]
        small = tests[eur < 4]
        assert len(np.unique(small["card"])) >= 5
        assert len(np.unique(small["merchant"])) <= 3
        assert np.ptp(small["event_us"]) <= 60 * 60_000_000


def test_account_takeover_is_one_card_on_one_new_device_within_six_hours(month: Batch) -> None:
    found = campaigns(month, "account_takeover")
    assert found
    for rows in found:
        assert 3 <= len(rows) <= 8
        assert len(np.unique(rows["card"])) == 1
        devices = np.unique(rows["device"][rows["device"] > 0])
        assert len(devices) <= 1
        others = month.rows[month.rows["campaign_day"] == -1]
        assert not np.isin(devices, others["device"]).any()
        assert np.ptp(rows["event_us"]) <= DAY_US // 4


def test_a_compromised_terminal_defrauds_its_own_regulars(month: Batch) -> None:
    world = month.world
    found = campaigns(month, "compromised_terminal")
    assert found
    for rows in found:
        cards = np.unique(rows["card"])
        shops = np.unique(world.cards.habits_shop[cards, :4])
        common = [s for s in shops if np.isin(cards, world.cards.regulars(int(s))).all()]
        assert common


def test_a_lost_card_is_tapped_below_the_limit_and_then_silent(month: Batch) -> None:
    found = campaigns(month, "lost_stolen")
    assert found
    for rows in found:
        assert present(rows).all()
        assert np.ptp(rows["event_us"]) <= 3 * 3_600_000_000
        card, theft = rows["card"][0], rows["event_us"].min()
        plain = month.rows[(month.rows["card"] == card) & (month.rows["campaign_day"] == -1)]
        after = plain["event_us"] - theft
        assert not ((after >= 0) & (after < 2 * DAY_US)).any()


def test_stolen_card_data_is_spent_remotely_for_two_weeks(month: Batch) -> None:
    found = campaigns(month, "stolen_card_data")
    assert found
    for rows in found:
        assert not present(rows).any()
        assert np.ptp(rows["event_us"]) <= 15 * DAY_US
    assert max(np.ptp(rows["event_us"]) for rows in found) > 5 * DAY_US


def test_a_colluding_merchant_takes_even_amounts_faster_and_faster(month: Batch) -> None:
    found = campaigns(month, "merchant_collusion")
    assert found
    early = late = 0
    for rows in found:
        assert len(np.unique(rows["merchant"])) == 1
        country = int(month.world.merchants.country[rows["merchant"][0]])
        assert (rows["amount"] % (5 * geo.WHOLE_UNIT[country]) == 0).all()
        middle = (int(rows["campaign_day"][0]) * DAY_US + rows["event_us"].max()) / 2
        early += int((rows["event_us"] <= middle).sum())
        late += int((rows["event_us"] > middle).sum())
    assert late > 1.5 * early


def test_a_new_account_is_emptied_in_its_first_days(month: Batch) -> None:
    found = campaigns(month, "new_account")
    assert found
    ages = []
    for rows in found:
        assert len(np.unique(rows["card"])) == 1
        age = month.world.cards.age_days(int(rows["campaign_day"][0]))[rows["card"][0]]
        ages.append(int(age))
        assert np.ptp(rows["event_us"]) <= 7 * DAY_US
    assert np.mean(np.array(ages) <= 3) > 0.9


def test_impossible_travel_is_card_present_in_another_region(month: Batch) -> None:
    found = campaigns(month, "impossible_travel")
    assert found
    for rows in found:
        assert present(rows).all()
        home = geo.REGION_OF[month.world.cards.home[rows["card"]]]
        there = geo.REGION_OF[month.world.merchants.country[rows["merchant"]]]
        assert (home != there).all()


def test_low_and_slow_testing_stays_below_every_merchants_counter(month: Batch) -> None:
    found = campaigns(month, "low_and_slow")
    assert found
    for rows in found:
        tests = rows[rows["event_us"] < rows["event_us"].min() + 2 * DAY_US]
        _, tries = np.unique(tests["merchant"], return_counts=True)
        assert np.median(tries) <= 3


@pytest.mark.parametrize("kind", ["holiday_travel", "new_phone", "false_claim", "unlucky_terminal"])
def test_innocent_rows_that_look_like_fraud_occur(month: Batch, kind: str) -> None:
    rows = month.rows[month.rows["kind"] == KIND_INDEX[kind]]
    assert len(rows)
    truth = Batch(month.world, rows[:5]).truth()
    assert truth["is_fraud"].to_pylist() == [False] * len(truth)


# Labels.


def test_delays_follow_the_mixture_and_a_share_is_never_reported() -> None:
    config = Config(cards=20_000, fraud_bp=300)
    month = World(config, seed=4).history(START, 40)
    fraud = month.rows[month.fraud]
    for rows, delay in (
        (fraud[present(fraud)], config.present_delay),
        (fraud[~present(fraud)], config.remote_delay),
    ):
        n = len(rows)
        assert n > 1000
        days = (rows["known_us"] - rows["event_us"])[rows["way"] > 0] / DAY_US
        assert (rows["known_us"][rows["way"] == 0] == 0).all()
        assert (rows["way"] == 0).sum() / n == pytest.approx(delay.never, abs=0.015)
        assert (days <= 0.5).sum() / n == pytest.approx(delay.hours, abs=0.03)
        assert (rows["way"] == 2).sum() / n == pytest.approx(delay.days, abs=0.03)
        weeks = ((rows["known_us"] - rows["event_us"]) / DAY_US)[rows["way"] == 3]
        assert np.median(weeks) == pytest.approx(30, abs=3)
        assert np.log(weeks).std() == pytest.approx(0.6, abs=0.06)
        assert weeks.max() <= LONGEST_DAYS


def test_labels_come_by_known_at_and_always_after_the_authorization(month: Batch) -> None:
    labels = month.label_structs()
    assert labels
    assert [x.known_at for x in labels] == sorted(x.known_at for x in labels)
    assert all(x.known_at > x.event_at for x in labels)
    auths = {a.authorization_id: a for a in month.structs()}
    for label in labels:
        auth = auths[label.authorization_id]
        for field in ("card_token", "merchant_id", "terminal_id", "device_id", "tenant"):
            assert getattr(label, field) == getattr(auth, field)


def test_a_stream_hears_of_frauds_before_its_start(world: World, month: Batch) -> None:
    cut = START + timedelta(days=30)
    reported = world.reported(cut, START)
    history = month.rows[month.rows["event_us"] < (cut - date(1970, 1, 1)).days * DAY_US]
    expected = history[history["known_us"] >= (cut - date(1970, 1, 1)).days * DAY_US]
    assert set(reported.rows["low"].tolist()) == set(expected["low"].tolist())


# Truth must not leak.


def test_no_single_field_tells_fraud_from_honest_traffic(month: Batch) -> None:
    """Identifiers, sub-second time and price endings: a fraud's are like everyone's."""
    table, fraud = month.authorizations(), month.fraud
    sample = np.concatenate([np.flatnonzero(fraud), np.flatnonzero(~fraud)[::20]])
    is_fraud = fraud[sample]
    rows = month.rows[sample]

    def separation(score: np.ndarray) -> float:
        order = np.argsort(np.argsort(score, kind="stable"), kind="stable")
        n1, n0 = is_fraud.sum(), (~is_fraud).sum()
        auc = (order[is_fraud].sum() - n1 * (n1 - 1) / 2) / (n1 * n0)
        return abs(auc - 0.5)

    assert separation(rows["event_us"] % 1000) < 0.03
    for field in ("authorization_id", "device_id"):
        values = table[field].take(sample).to_pylist()
        tails = np.array([0 if v is None else int.from_bytes(v[-4:].encode()) for v in values])
        known = np.array([v is not None for v in values])
        is_fraud = fraud[sample][known]
        assert separation(tails[known]) < 0.05
        assert {len(v) for v in values if v is not None} == {len(v) for v in values if v}


def test_kinds_of_fraud_share_channels_merchants_and_networks_with_honest_traffic(
    month: Batch,
) -> None:
    fraud, honest = month.rows[month.fraud], month.rows[~month.fraud]
    for field in ("channel", "three_ds"):
        assert set(np.unique(fraud[field])) <= set(np.unique(honest[field]))
    shared = np.isin(fraud["ip"][fraud["ip"] > 0], honest["ip"]).mean()
    assert shared > 0.4
    busy = np.isin(fraud["merchant"], honest["merchant"]).mean()
    assert busy > 0.9


def test_payments_without_strong_authentication_have_the_exemption_that_the_law_names(
    month: Batch,
) -> None:
    rows, world = month.rows, month.world
    told = month.authorizations()["sca_exemption"].to_pylist()
    assert [one.sca_exemption for one in Batch(world, rows[:500]).structs()] == told[:500]
    shares = {word: told.count(word) / len(told) for word in set(told)}
    assert set(shares) == {None, *ScaExemption} - {"own_accounts"}  # a card pays somebody else
    assert shares["contactless"] > shares["transaction_risk_analysis"] > shares["recurring"] > 0.001
    eur = rows["amount"] / geo.MINOR_PER_EUR[world.merchants.country[rows["merchant"]]]
    words = np.array([str(one) for one in told])
    assert set(rows["channel"][words == "contactless"]) == {CONTACTLESS}
    assert eur[words == "contactless"].max() <= 50
    assert set(rows["channel"][words == "moto"]) == {MOTO}
    risky = words == "transaction_risk_analysis"
    assert set(rows["channel"][risky]) == {ECOM}
    assert eur[risky].max() <= 500
    challenged = rows["three_ds"] == THREE_DS.index("challenged")
    assert set(words[challenged]) == {"None", "one_leg"}


# Drift and churn.


def test_drift_changes_the_mix_after_its_date_and_not_before() -> None:
    since = START + timedelta(days=20)
    drift = [
        Drift(since=since, kind="low_and_slow", weight=40),
        Drift(since=since, kind="lost_stolen", weight=0),
    ]
    plain = World(Config(cards=4_000, fraud_bp=100), seed=3)
    drifting = World(Config(cards=4_000, fraud_bp=100, drift=drift), seed=3)
    assert digest(plain.history(START, 20)) == digest(drifting.history(START, 20))
    after = drifting.history(since, 30)
    kinds = after.rows["kind"][after.fraud]
    assert (kinds == KIND_INDEX["low_and_slow"]).sum() > 0.15 * len(kinds)
    assert (kinds == KIND_INDEX["lost_stolen"]).sum() == 0
    assert after.fraud.mean() > 1.1 * plain.history(since, 30).fraud.mean()


def test_cards_are_replaced_at_the_monthly_rate() -> None:
    world = World(Config(cards=20_000, card_churn_month=0.02), seed=1)
    slots, day = world.cards.slot, 20_000
    changed = world.cards.generation(slots, day) != world.cards.generation(slots, day + 30)
    assert changed.mean() == pytest.approx(0.02, rel=0.3)


def test_authorizations_can_be_made_without_pandas_which_loads_pyarrows_functions() -> None:
    """A loader's pod has none."""
    made = """
import importlib.abc, sys

class Without(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "pandas":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Without())
import numpy as np
from sluice_simulator import identifiers as ids

absent = np.array([True, False])
print(ids.letters("d_", np.arange(2, dtype=np.uint64), absent).null_count)
"""
    done = subprocess.run([sys.executable, "-c", made], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("1\n", "")
