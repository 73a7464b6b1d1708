"""Money, outcome, identifiers, clock, countries, currencies, states: the small values."""

from __future__ import annotations

import itertools
import math
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from sluice.domain.clock import SystemClock, from_datetime, to_datetime
from sluice.domain.features.distance import distance_km, root
from sluice.domain.features.states import DECISIONS, LABELS, PARTITIONS_MAX, etag, source
from sluice.domain.records.countries import CENTRES, COUNTRY_INDEX
from sluice.domain.records.decision import Answer, Decision, States, answer
from sluice.domain.records.identifiers import tag32
from sluice.domain.records.money import CurrencyMismatchError, Money
from sluice.domain.records.outcome import BY_SEVERITY, Outcome
from tests.unit.domain.test_authorization import AUTH


def test_money_adds_compares_and_prints_in_its_own_currency_only() -> None:
    assert Money(1999, "EUR") + Money(1, "EUR") == Money(2000, "EUR")
    assert Money(5, "EUR") - Money(7, "EUR") == Money(-2, "EUR")
    assert Money(1, "EUR") < Money(2, "EUR")
    assert [str(Money(-1999, c)) for c in ("EUR", "JPY", "KWD")] == [
        "-19.99 EUR",
        "-1999 JPY",
        "-1.999 KWD",
    ]
    for meeting in (Money.__add__, Money.__sub__, Money.__lt__):
        with pytest.raises(CurrencyMismatchError):
            meeting(Money(1, "EUR"), Money(1, "USD"))


@pytest.mark.parametrize("minor", [1.0, True, "1"])
def test_money_is_made_of_integers(minor: object) -> None:
    with pytest.raises(TypeError):
        Money(minor, "EUR")  # type: ignore[arg-type]


def test_money_knows_its_currencies() -> None:
    with pytest.raises(ValueError, match="ISO 4217"):
        Money(1, "XYZ")


def test_outcomes_are_a_lattice() -> None:
    assert BY_SEVERITY == (Outcome.APPROVE, Outcome.CHALLENGE, Outcome.REVIEW, Outcome.DECLINE)
    for a, b, c in itertools.product(Outcome, repeat=3):
        assert a.joined(b) == b.joined(a)
        assert a.joined(a) == a
        assert a.joined(b).joined(c) == a.joined(b.joined(c))
        assert a.joined(b).severity == max(a.severity, b.severity)


def test_a_tag_fits_32_bits_is_stable_and_never_zero() -> None:
    tags = [tag32(f"m-{i}") for i in range(1000)]
    assert all(0 < tag < 2**32 for tag in tags)
    assert len(set(tags)) == 1000
    assert tag32("card-1") == 1_693_242_260


def test_time_goes_to_datetime_and_back() -> None:
    moment = datetime(2026, 2, 28, 23, 59, 59, 999_999, tzinfo=UTC)
    assert to_datetime(from_datetime(moment)) == moment
    with pytest.raises(ValueError, match="no time zone"):
        from_datetime(moment.replace(tzinfo=None))
    assert abs(SystemClock().now_us() - from_datetime(datetime.now(UTC))) < 5_000_000
    assert to_datetime(0) + timedelta(microseconds=1) == to_datetime(1)


def test_the_root_is_the_integer_square_root() -> None:
    for value in (0, 1, 2, 3, 4, 99, 2**31 - 1, 2**52 + 1, 2**62 - 1):
        assert root(value) == math.isqrt(value)


def test_distances_are_symmetric_near_the_great_circle_and_0_for_the_unknown() -> None:
    assert (
        distance_km(0, 5) == distance_km(5, 0) == distance_km(10**6, 5) == distance_km(5, -9) == 0
    )
    for a, b in (("PT", "ES"), ("DE", "US"), ("PT", "PE"), ("NZ", "FJ")):
        got = distance_km(COUNTRY_INDEX[a], COUNTRY_INDEX[b])
        assert got == distance_km(COUNTRY_INDEX[b], COUNTRY_INDEX[a])
        (lat_a, lon_a), (lat_b, lon_b) = (
            (math.radians(x) for x in CENTRES[a]),
            (math.radians(x) for x in CENTRES[b]),
        )
        cosine = math.sin(lat_a) * math.sin(lat_b) + math.cos(lat_a) * math.cos(lat_b) * math.cos(
            lon_a - lon_b
        )
        assert got == pytest.approx(6371 * math.acos(cosine), rel=0.15)


def test_a_source_names_its_topic_and_partition() -> None:
    assert source(DECISIONS, 7) == 7
    assert source(LABELS, 7) == PARTITIONS_MAX + 7
    for partition in (-1, PARTITIONS_MAX):
        with pytest.raises(ValueError, match="not in 0"):
            source(DECISIONS, partition)
    assert etag(b"") == b""
    assert etag(b"\x01\x05" + bytes(20)) == b"\x05" + bytes(7)


def test_a_decision_survives_its_encoding_and_the_caller_sees_a_part_of_it() -> None:
    decision = Decision(
        authorization=AUTH,
        entrypoint="sync",
        origin=None,
        emitter="decider-1",
        sequence=0,
        received_at=1,
        decided_at=2,
        reference_amount_minor=1500,
        reference_currency="EUR",
        catalogue="c",
        features=[1, 2],
        states=States(card=[(0, 7)], terminal=None),
        pending=[],
        release=None,
        score_ppm=None,
        policy="p",
        outcome=Outcome.REVIEW,
        reasons=["R1"],
        degradation_level="D2",
        degraded=["model"],
    )
    assert msgspec.json.decode(msgspec.json.encode(decision), type=Decision) == decision
    assert "card-1" not in repr(decision)
    reported = answer(decision)
    assert set(reported.__struct_fields__) == set(Answer.__struct_fields__)
    assert (reported.outcome, reported.reasons, reported.degradation_level) == (
        Outcome.REVIEW,
        ["R1"],
        "D2",
    )
