"""Served vectors come out of the archive again, bit for bit; a planted mistake does not."""

from __future__ import annotations

from pathlib import Path

import msgspec

from sluice import cli
from sluice.adapters.parquet.event_history import ArchiveEventHistory
from sluice.adapters.parquet.samples import MILLION, ArchiveSampleSource
from sluice.application.consistency import ConsistencyCheck, Report, Tally, check, newest
from sluice.application.ports import Arrival
from sluice.domain.clock import HOUR_US, SECOND_US
from sluice.domain.features import catalogue
from sluice.domain.records.authorization import encode
from sluice.domain.records.decision import Decision
from sluice.domain.records.observation import COLUMNS, Observations
from sluice.testing.factories import make_authorization
from tests.integration.consistency.little import Little, traffic

N = 1_200
_decision = msgspec.json.Decoder(Decision)


def measure(root: Path, *, sample_ppm: int = MILLION, count: int = 10 * N) -> Tally:
    sample_source = ArchiveSampleSource(root)
    ends = sample_source.ends()
    return check(sample_source, newest(sample_source, sample_ppm, count, ends), ends).tally


async def run(little: Little, root: Path) -> Tally:
    await little.run(traffic(N))
    little.archive(root)
    return measure(root)


def a_tile_late(seen: Observations) -> Observations:
    """Authorizations in the tile after their own."""
    at_us = [us + HOUR_US * (not kind) for us, kind in zip(seen.at_us, seen.kind, strict=True)]
    return msgspec.structs.replace(seen, at_us=at_us)


def entities(tally: Tally) -> set[str]:
    """Whose features differ."""
    of = {f.name: f.entity for f in catalogue.FEATURES}
    return {of[name] for name in tally.features}


async def test_every_vector_of_a_messy_run_comes_out_again(tmp_path):
    found = (await run(Little(), tmp_path)).report()
    assert (found.compared, found.differing, found.parity) == (N, 0, 1.0)
    assert found.worst is None
    assert found.pending.mattered > 0
    assert found.levels.keys() == {"D2", "D3"}  # there is no model in this world
    assert found.freshness["device"].missing > found.freshness["card"].missing > 0
    assert found.freshness["card"].held > 0
    assert found.freshness["merchant"].behind > 0
    assert found.freshness["merchant"].behind_ms_p99 > 0
    assert found.defaulted["terminal_count_1h"] > 0


async def test_a_window_off_by_one_tile_is_named(tmp_path):
    found = await run(Little(at_observations=a_tile_late), tmp_path)
    assert found.parity is not None
    assert found.parity < 1
    assert entities(found) <= {"terminal", "merchant", "device"}
    assert {"terminal_count_1h", "terminal_count_6h", "merchant_count_1h"} <= found.features.keys()
    assert found.worst is not None
    assert found.examples[0].features


async def test_arrival_time_in_the_place_of_event_time_is_named(tmp_path):
    def arrived(arrival: Arrival) -> Arrival:
        row = (arrival.received_at, *arrival.row[1:])
        return msgspec.structs.replace(arrival, row=row)

    found = await run(Little(at_sync_api=arrived), tmp_path)
    assert found.parity is not None
    assert found.parity < 0.5
    assert {"card_since_last_s", "terminal_since_last_s"} <= found.features.keys()
    assert found.worst is not None


async def test_a_redelivery_counted_twice_is_named(tmp_path):
    def twice(seen: Observations) -> Observations:
        # Under another offset nobody can know that it is the same one.
        rows = [
            (i, earlier)
            for i, offset in enumerate(seen.offset)
            for earlier in ((1, 0) if offset % 20 == 0 and seen.kind[i] == 0 else (0,))
        ]
        changed = {
            column: [held[i] for i, _ in rows]
            for column in COLUMNS
            if (held := getattr(seen, column)) is not None
        }
        changed["offset"] = [seen.offset[i] - earlier for i, earlier in rows]
        return msgspec.structs.replace(seen, **changed)

    found = await run(Little(at_observations=twice), tmp_path)
    assert found.parity is not None
    assert found.parity < 1
    assert "terminal_count_30d" in found.features
    assert "card" not in entities(found)  # a card's ring knows each authorization by its id
    assert found.worst is not None


async def test_what_the_archive_does_not_hold_yet_waits_and_is_compared_later(tmp_path):
    little = Little()
    await little.run(traffic(400))
    cut = {p: max(m.offset for m in little.log if m.partition == p) // 2 for p in range(3)}
    little.archive(tmp_path, without=lambda m: m.partition == 1 and m.offset > cut[1])
    check = ConsistencyCheck(
        ArchiveSampleSource(tmp_path), little.clock, sample_ppm=MILLION, settle_s=0, lookback_s=1e8
    )
    first = check.round()
    assert first.waiting > 0
    assert first.compared + first.waiting < 400
    assert first.differing == 0
    assert check.oldest_waiting_s() > 0
    assert check.round().compared == 0  # nothing new to be told of
    little.archive(tmp_path)
    second = check.round()
    assert first.compared + second.compared == 400
    assert (second.differing, second.waiting, check.oldest_waiting_s()) == (0, 0, 0.0)


async def test_decisions_that_are_too_young_are_looked_at_later(tmp_path):
    little = Little()
    await little.run(traffic(100))
    little.archive(tmp_path)
    check = ConsistencyCheck(
        ArchiveSampleSource(tmp_path),
        little.clock,
        sample_ppm=MILLION,
        settle_s=1e8,
        lookback_s=1e8,
    )
    assert check.round().compared == 0
    little.clock.advance(1e8)
    assert check.round().compared == 100
    assert check.round().compared == 0


async def test_an_event_missing_in_the_archive_does_not_pass(tmp_path):
    little = Little()
    await little.run(traffic(400))
    lost = next(m for m in little.log if m.topic == "decisions.v1" and m.offset > 40)
    little.archive(tmp_path, without=lambda m: m is lost)
    found = measure(tmp_path)
    assert found.compared == 399
    assert found.differing > 0


async def test_decisions_of_another_catalogue_are_counted_apart(tmp_path):
    little = Little()
    await little.run(traffic(60))
    for i, record in enumerate(little.log[:]):
        if record.topic == "decisions.v1" and i % 3 == 0:
            other = msgspec.structs.replace(_decision.decode(record.value), catalogue="other")
            little.log[i] = msgspec.structs.replace(record, value=encode(other))
    little.archive(tmp_path)
    found = measure(tmp_path)
    assert found.other_catalogue > 0
    assert found.compared == 60 - found.other_catalogue
    assert found.differing == 0


class Narrow(ArchiveSampleSource):
    """An archive whose journals hold few events."""

    def __init__(self, root: Path, events_max: int) -> None:
        super().__init__(root)
        self._event_history = ArchiveEventHistory(root, events_max=events_max)


async def test_busy_entities_are_recomputed_in_smaller_groups_or_counted(tmp_path):
    little = Little()
    await little.run(traffic(300))
    little.archive(tmp_path)
    sample_source = Narrow(tmp_path, 8)
    ends = sample_source.ends()
    found = check(sample_source, newest(sample_source, MILLION, 300, ends), ends).tally
    assert found.compared > 0
    assert found.too_large > 0
    assert found.compared + found.too_large == 300
    assert found.differing == 0


async def test_a_sample_is_the_same_whoever_draws_it(tmp_path):
    little = Little()
    await little.run(traffic(600))
    little.archive(tmp_path)
    sample_source = ArchiveSampleSource(tmp_path)
    ends = sample_source.ends()
    tenth = newest(sample_source, MILLION // 10, 600, ends)
    assert 30 < len(tenth) < 90
    assert set(tenth) <= set(newest(sample_source, MILLION // 5, 600, ends))
    last = newest(sample_source, MILLION, 50, ends)
    everything = newest(sample_source, MILLION, 600, ends)
    assert min(d.decided_at for d in last) >= sorted(d.decided_at for d in everything)[-50]


async def test_freshness_is_the_age_of_the_oldest_decision_not_seen(tmp_path):
    little = Little()

    async def decide(name: str, card: str, after_s: float) -> None:
        little.clock.advance(after_s)
        auth = make_authorization(name, event_at=little.clock.now_us(), card_token=card)
        assert await little.decide([auth])

    little.clock.advance(make_authorization().event_at / SECOND_US)
    await decide("a-1", "card-1", 0)
    little.featurize()
    await decide("a-2", "card-1", 1)  # its state holds a-1
    await decide("a-3", "card-2", 2)  # the terminal's state lacks a-2, 2 s old
    await decide(
        "a-4", "card-1", 4
    )  # the terminal's lacks a-2, 6 s old; for the card it is pending
    little.archive(tmp_path)
    found = measure(tmp_path)
    assert sorted(found.behind_us["terminal"]) == [0, 0, 2 * SECOND_US, 6 * SECOND_US]
    assert found.behind_us["card"] == [0, 0, 0, 0]
    assert (found.with_pending, found.pending_mattered) == (1, 1)


async def test_the_verb_gives_a_gate_its_verdict_and_a_report(tmp_path, capsys):
    archive, report = tmp_path / "archive", tmp_path / "report.json"
    arguments = ["consistency", "--archive", str(archive), "--report", str(report)]
    assert cli.main(arguments) == 2  # nothing to compare
    assert msgspec.json.decode(report.read_bytes(), type=Report).parity is None

    little = Little()
    await little.run(traffic(200))
    little.archive(archive)
    assert cli.main(arguments) == 0
    assert "100.0000 % of 200 vectors" in capsys.readouterr().out
    assert cli.main([*arguments, "--at-least", "201"]) == 2

    little.at_observations = a_tile_late
    await little.run(
        [
            msgspec.structs.replace(a, authorization_id=f"again-{i}")
            for i, a in enumerate(traffic(400)[200:])
        ]
    )
    little.archive(archive)
    assert cli.main(arguments) == 1
    found = msgspec.json.decode(report.read_bytes(), type=Report)
    assert found.differing == found.compared - found.equal > 0
    said = capsys.readouterr().out
    assert found.worst is not None
    assert found.worst in said
    assert found.examples[0].authorization_id in said
