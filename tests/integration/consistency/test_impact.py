"""What another policy or release would have said of an archive, against what was said."""

from __future__ import annotations

import shutil

import msgspec
import numpy as np
import pytest

from sluice import cli
from sluice.adapters.parquet.impact import ArchiveImpactLog
from sluice.adapters.policyfiles import read_policy
from sluice.application.impact import Impact, impact
from sluice.application.ports import Ints
from sluice.bootstrap.library import FolderLibrary
from sluice.domain.features import catalogue
from sluice.domain.records.decision import Decision
from sluice.domain.records.outcome import Outcome
from sluice.errors import Rejected
from tests.integration.consistency.little import traffic
from tests.integration.consistency.mixed import Mixed

N = 800
FOREVER = 2**62
_decision = msgspec.json.Decoder(Decision)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Mixed:
    root = tmp_path_factory.mktemp("impact")
    mixed = Mixed(root=root)
    mixed.run_now(traffic(N))
    mixed.archive(root / "archive")
    return mixed


def said(mixed: Mixed) -> list[Decision]:
    return [_decision.decode(m.value) for m in mixed.log if m.topic == "decisions.v1"]


def judged(mixed: Mixed, pack: str) -> Impact:
    log = ArchiveImpactLog(mixed.root / "archive")
    policy = read_policy(mixed.policies / pack, catalogue.FEATURES)
    return impact(log.pieces(0, FOREVER), policy)


def test_the_figures_are_those_of_a_count_by_hand(mixed):
    """Each decision judged alone, by the policy's own verdict, and added up in plain Python."""
    found = judged(mixed, "strict")
    policy = read_policy(mixed.policies / "strict", catalogue.FEATURES)
    flips: dict[tuple[str, str], list[int]] = {}
    now: dict[str, int] = dict.fromkeys(Outcome, 0)
    for d in said(mixed):
        level = int(d.degradation_level[1])
        missing = sum(1 << i for i, view in enumerate(catalogue.VIEWS) if d.states.of(view) is None)
        outcome = policy.decide(
            [d.authorization],
            np.array([d.features], np.int64),
            missing=_ints(missing),
            level=_ints(level),
            score_ppm=None if d.score_ppm is None else _ints(d.score_ppm),
        ).outcome(0)
        now[outcome] += 1
        was = Outcome.DECLINE if d.let_through_ppm else d.outcome
        if was != outcome:
            counted = flips.setdefault((was, outcome), [0, 0])
            counted[0] += 1
            counted[1] += d.reference_amount_minor
    assert found.decisions == N
    assert found.would_be.outcomes == now
    assert {(f.was, f.becomes): [f.decisions, f.amount_minor] for f in found.flips} == flips
    assert found.flipped == found.stricter + found.milder == sum(n for n, _ in flips.values()) > 50
    assert sum(after for _, _, after in found.queue) == now["review"]
    assert found.would_be.queue_max == max(after for _, _, after in found.queue)
    assert found.frauds_known > 10
    assert found.left_out > 10
    side = found.would_be
    assert side.fraud_stopped_minor + side.fraud_missed_minor == (
        found.was.fraud_stopped_minor + found.was.fraud_missed_minor
    )
    assert found.worst is not None
    assert found.worst.stricter_ppm == max(s.stricter_ppm for s in found.segments)
    channel = [s for s in found.segments if s.by == "channel"]
    assert all(s.decisions >= 200 for s in found.segments)
    assert channel


def _ints(value: int) -> Ints:
    return np.array([value], np.int64)


def test_the_policy_that_decided_flips_nothing_but_what_the_breaker_left_out(tmp_path):
    mixed = Mixed(root=tmp_path, steady=True)
    mixed.run_now(traffic(300))
    mixed.archive(tmp_path / "archive")
    found = judged(mixed, "default")
    assert (found.decisions, found.flipped, found.left_out) == (300, 0, 0)
    assert found.was == found.would_be


def test_a_release_scores_what_had_no_score(mixed):
    held = FolderLibrary([], [mixed.releases], mixed.trust)
    scorer = held.scorer("test-2", "sync")
    policy = read_policy(mixed.policies / "default", catalogue.FEATURES)
    log = ArchiveImpactLog(mixed.root / "archive")
    found = impact(log.pieces(0, FOREVER), policy, scorer)
    assert found.release == "test-2"
    assert found.without_score == 0
    assert found.flipped > 0


def test_only_the_days_asked_for_are_judged(mixed):
    times = sorted(d.decided_at for d in said(mixed))
    log = ArchiveImpactLog(mixed.root / "archive")
    assert log.newest_us() == times[-1]
    policy = read_policy(mixed.policies / "default", catalogue.FEATURES)
    half = times[N // 2]
    inside = sum(half <= at < times[-1] for at in times)
    found = impact(log.pieces(half, times[-1]), policy)
    assert found.decisions == inside
    assert (found.since, found.until) == (half, max(at for at in times if at < times[-1]))
    with pytest.raises(Rejected, match="no decision of that time"):
        impact(log.pieces(1, 2), policy)


def test_the_verb_writes_a_page_for_people_and_one_for_programs(mixed, tmp_path, capsys):
    pack = tmp_path / "next"
    shutil.copytree(mixed.policies / "strict", pack)
    report = tmp_path / "impact.json"
    told = ["impact", "--archive", str(mixed.root / "archive"), "--policy", str(pack)]
    assert cli.main([*told, "--days", "365", "--json", str(report)]) == 0
    page = capsys.readouterr().out
    found = msgspec.json.decode(report.read_bytes(), type=Impact)
    assert page.startswith("## Impact of next@")
    assert f"**{found.flipped:,} would have another outcome**" in page
    assert "Worst segment:" in page
    assert f"| review | {found.was.outcomes['review']:,} |" in page
    assert cli.main([*told, "--days", "365", "--flips-max-ppm", "10"]) == 3
    assert cli.main([*told, "--days", "365", "--flips-max-ppm", "1000000"]) == 0
