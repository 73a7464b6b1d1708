"""Whole decisions come out of the archive again, bit for bit; a planted mistake does not."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from sluice import cli
from sluice.adapters.parquet.samples import MILLION, ArchiveSampleSource
from sluice.adapters.policyfiles import read_policy
from sluice.application.consistency import ConsistencyCheck, Report, gate
from sluice.application.what_if import Case, Change, Replayed, open_case, parse_change, what_if
from sluice.bootstrap.library import FolderLibrary
from sluice.domain.features import catalogue
from sluice.domain.records.authorization import encode
from sluice.domain.records.decision import Decision, MadeBy
from sluice.errors import Misconfigured, Rejected
from sluice.testing.factories import make_authorization
from tests.integration.consistency.little import traffic
from tests.integration.consistency.mixed import Mixed

N = 1_000
_decision = msgspec.json.Decoder(Decision)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Mixed:
    root = tmp_path_factory.mktemp("mixed")
    mixed = Mixed(root=root)
    mixed.run_now(traffic(N))
    mixed.archive(root / "archive")
    return mixed


def library(mixed: Mixed) -> FolderLibrary:
    return FolderLibrary([mixed.policies], [mixed.releases], mixed.trust)


def replay(mixed: Mixed, archive: Path | None = None) -> Report:
    source = ArchiveSampleSource(archive or mixed.root / "archive")
    return gate(source, MILLION, N, N, library(mixed)).report


def test_every_decision_of_a_mixed_run_replays_to_the_bit(mixed):
    found = replay(mixed)
    assert found.replayed == {"equal": N}, (found.fields, found.replay_examples, found.why)
    said = [_decision.decode(m.value) for m in mixed.log if m.topic == "decisions.v1"]
    # The run was mixed indeed.
    assert len({(d.entrypoint, d.release, d.policy) for d in said}) == 2 * 3 * 2
    levels = Counter(d.degradation_level for d in said)
    assert set(levels) == {"D0", "D1", "D2", "D3"}
    outcomes = Counter(d.outcome for d in said)
    assert min(outcomes.values()) > 20, outcomes
    assert {d.let_through_ppm for d in said} == {None, 0, 100_000}
    assert any(d.silenced and d.degradation_level == "D0" for d in said)  # the breaker's
    assert any(d.reference_amount_minor != d.authorization.amount_minor for d in said)


def test_a_planted_mistake_is_named(mixed, tmp_path):
    """A score off by one, another reason, a rate that was another one: each by its field."""
    spoiled = {
        1: {"score_ppm": 1},
        2: {"reasons": ["HIGH_SCORE"]},
        3: {"reference_amount_minor": 77},
        4: {"silenced": ["card-velocity"], "degraded": ["terminal"]},
    }
    log, seen = mixed.log[:], 0
    for i, record in enumerate(log):
        if record.topic != "decisions.v1":
            continue
        d = _decision.decode(record.value)
        if d.degradation_level != "D0" or d.outcome != "approve" or d.score_ppm == 1:
            continue
        seen += 1
        if changes := spoiled.get(seen):
            log[i] = msgspec.structs.replace(
                record, value=encode(msgspec.structs.replace(d, **changes))
            )
    kept, mixed.log = mixed.log, log
    try:
        mixed.archive(tmp_path)
    finally:
        mixed.log = kept
    found = replay(mixed, tmp_path)
    # An amount that is another one is in the states of those that came after it, too.
    assert 4 <= found.replayed["differing"] < 20
    assert sum(found.replayed.values()) == N
    assert set(found.fields) >= {"score_ppm", "reasons", "reference_amount_minor", "degraded"}
    assert gate(ArchiveSampleSource(tmp_path), MILLION, N, N, library(mixed)).status == 1


def test_what_no_folder_holds_is_counted_apart_and_never_as_equal(mixed, tmp_path):
    held = FolderLibrary([mixed.policies / "default"], [mixed.releases / "test-1"], mixed.trust)
    found = gate(ArchiveSampleSource(mixed.root / "archive"), MILLION, N, N, held)
    assert found.status == 2
    assert set(found.report.replayed) == {"equal", "no_policy", "no_release"}
    assert sum(found.report.replayed.values()) == N
    assert any("no pack here has the digest of strict@" in why for why in found.report.why)
    assert any("no release here is test-2" in why for why in found.report.why)


def recorded(mixed: Mixed, wanted: Callable[[Decision], bool]) -> Decision:
    """The first decision of which that holds."""
    said = (_decision.decode(m.value) for m in mixed.log if m.topic == "decisions.v1")
    return next(d for d in said if wanted(d))


def case_of(mixed: Mixed, d: Decision) -> Case:
    source = ArchiveSampleSource(mixed.root / "archive")
    return open_case(source, d, source.ends(), library(mixed))


def judged(d: Decision) -> bool:
    """Plainly: by a model, in euros, with every view."""
    euros = d.authorization.currency == d.reference_currency
    return d.degradation_level == "D0" and not d.silenced and not d.let_through_ppm and euros


def test_another_amount_moves_the_vector_as_if_it_had_been_asked(mixed):
    d = recorded(mixed, judged)
    held = library(mixed)
    told = what_if(case_of(mixed, d), held, change=parse_change(["amount=123.45"], d.authorization))
    assert told.was.outcome == d.outcome
    assert told.was.score_ppm == d.score_ppm
    assert told.changed == {"amount_minor": [str(d.authorization.amount_minor), "12345"]}
    assert told.features["amount_minor"] == [d.authorization.amount_minor, 12345]
    moved = told.features["card_amount_1h_minor"]
    assert moved[1] - moved[0] == 12345 - d.authorization.amount_minor
    nothing = what_if(case_of(mixed, d), held)
    assert nothing.was == nothing.would_be
    assert not nothing.features


def test_the_smallest_change_flips_and_one_unit_less_does_not(mixed):
    """The promise of a counterfactual: what it names is the edge."""
    held = library(mixed)
    said = (_decision.decode(m.value) for m in mixed.log if m.topic == "decisions.v1")
    first = {d.outcome: d for d in said if judged(d)}
    assert len(first) > 2
    seen = 0
    for d in first.values():
        case = case_of(mixed, d)
        told = what_if(case, held, flips=True)
        assert told.flips is not None
        ratios = [flip.ratio for flip in told.flips if flip.ratio is not None]
        assert ratios == sorted(ratios)
        for flip in told.flips:
            assert flip.outcome != told.was.outcome
            number = flip.becomes.split()[0].replace(".", "")
            if flip.ratio is None or flip.name == "amount":
                name = "amount_minor" if flip.name == "amount" else flip.name
                value = number if flip.name == "amount" else flip.becomes.replace("none", "")
                change = parse_change([f"{name}={value}"], d.authorization)
                assert what_if(case, held, change=change).would_be.outcome == flip.outcome
                before = d.authorization.amount_minor
            else:
                name, before = flip.name, int(flip.was)
                change = Change(features={name: int(number)})
                assert what_if(case, held, change=change).would_be.outcome == flip.outcome
            if flip.ratio is None:
                continue
            nearer = int(number) + (1 if int(number) < before else -1)
            of = parse_change([f"{name}={nearer}"], d.authorization)
            assert what_if(case, held, change=of).would_be.outcome == told.was.outcome
            seen += 1
    assert seen > 8


def test_a_change_is_looked_for_in_each_currency_as_far_as_amounts_go(mixed):
    """The largest amount of a strong currency is more than the reference takes."""
    held = library(mixed)
    said = (_decision.decode(m.value) for m in mixed.log if m.topic == "decisions.v1")
    first = {d.authorization.currency: d for d in said if d.degradation_level == "D0"}
    strong = [c for c in first if held.policy(first[c].policy).fx.to_reference(100, c) > 100]
    assert strong
    for currency in strong:
        assert what_if(case_of(mixed, first[currency]), held, flips=True).flips is not None


def test_another_policy_or_release_is_judged_in_the_place_of_its_own(mixed):
    held = library(mixed)
    d = recorded(mixed, lambda d: judged(d) and d.policy.startswith("strict"))
    case = case_of(mixed, d)
    other = read_policy(mixed.policies / "default", catalogue.FEATURES)
    told = what_if(case, held, policy=other)
    assert told.was.policy == d.policy
    assert told.would_be.policy == other.id
    assert told.would_be.score_ppm == d.score_ppm
    scorer = held.scorer("test-1" if d.release == "test-2" else "test-2", d.entrypoint)
    told = what_if(case, held, scorer=scorer)
    assert told.would_be.release == scorer.release
    features = case.recomputed.features
    assert told.would_be.score_ppm == int(scorer.score(features).ppm[0])
    # What had no score has one by a release that is named.
    d = recorded(mixed, lambda d: d.degraded == ["model"] and d.degradation_level == "D2")
    assert what_if(case_of(mixed, d), held).would_be.score_ppm is None
    told = what_if(case_of(mixed, d), held, scorer=scorer)
    assert told.would_be.degradation_level == "D0"
    assert told.would_be.score_ppm is not None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("card_token=other", "names an entity"),
        ("amount=12.345", "no amount in EUR"),
        ("amount=-1", "no amount"),
        ("colour=red", "neither a field"),
        ("card_count_1h=many", "no integer"),
        ("amount", "NAME=VALUE"),
    ],
)
def test_what_cannot_be_changed_is_told(change, says):
    with pytest.raises(Misconfigured, match=says):
        parse_change([change], make_authorization())


def test_a_changed_field_is_held_to_what_an_entrypoint_takes():
    for change in ("currency=XXQ", "mcc=12", "channel=pigeon", "three_ds=maybe"):
        with pytest.raises(Rejected):
            parse_change([change], make_authorization())


def test_the_verb_says_what_it_found_and_its_status(mixed, capsys):
    folders = ["--archive", str(mixed.root / "archive"), "--policies", str(mixed.policies)]
    folders += ["--releases", str(mixed.releases), "--trust", str(mixed.trust)]
    d = recorded(mixed, judged)
    name = d.authorization.authorization_id
    assert cli.main(["replay", name, *folders]) == 0
    said = capsys.readouterr().out
    assert "the same bits: 143 features" in said
    assert cli.main(["replay", name, *folders, "--flips", "--set", "amount=9", "--json"]) == 0
    found = msgspec.json.decode(capsys.readouterr().out, type=Replayed)
    assert found.result == "equal"
    assert found.counterfactual is not None
    assert found.counterfactual.flips
    assert cli.main(["replay", "--random", "50", *folders]) == 0
    assert "50 of 50 are the same bits" in capsys.readouterr().out
    assert cli.main(["replay", "--random", "5000", *folders]) == 2
    capsys.readouterr()
    assert cli.main(["replay", "nobody", *folders]) == 3
    assert "no decision of nobody" in capsys.readouterr().err
    other = [*folders[:2], "--policies", str(mixed.trust.parent / "none"), *folders[4:]]
    assert cli.main(["replay", name, *other]) == 3
    assert "no pack here has the digest" in capsys.readouterr().out
    assert cli.main(["replay", *folders]) == 64


def test_a_decision_of_another_catalogue_cannot_be_replayed(mixed):
    d = msgspec.structs.replace(recorded(mixed, judged), catalogue="other")
    with pytest.raises(Rejected) as refused:
        case_of(mixed, d)
    assert refused.value.code == "other_catalogue"


def test_a_pack_that_was_replaced_is_still_known_to_who_saw_it(mixed, tmp_path):
    """The consistency check runs on while risk edits its pack."""
    pack = tmp_path / "default"
    shutil.copytree(mixed.policies / "default", pack)
    held = FolderLibrary([pack], [], mixed.trust)
    first = read_policy(pack, catalogue.FEATURES)
    assert held.policy(first.id).digest == first.digest
    shutil.copy(mixed.policies / "strict" / "policy.yaml", pack / "policy.yaml")
    second = read_policy(pack, catalogue.FEATURES)
    assert second.digest != first.digest
    assert held.policy(second.id).digest == second.digest
    assert held.policy(first.id).digest == first.digest


def test_the_consistency_check_judges_again_what_it_recomputes(mixed):
    check = ConsistencyCheck(
        ArchiveSampleSource(mixed.root / "archive"),
        mixed.clock,
        sample_ppm=MILLION // 4,
        settle_s=0,
        lookback_s=1e9,
        library=library(mixed),
    )
    found = check.round()
    assert found.compared > N // 8
    assert found.replayed == {"equal": found.compared}


def test_a_pack_of_another_digest_than_the_record_names_is_told(mixed):
    """The id holds the first digits of the digest alone; where a record has all, all are held."""
    d = recorded(mixed, judged)
    policy = library(mixed).policy(d.policy)
    for digest, result in ((policy.digest, "equal"), (policy.digest[:12] + "0" * 52, "differing")):
        made_by = MadeBy(
            policy_digest=digest,
            policy_version=1,
            score_ppm=[None] * 3,
            expected_loss_minor=[None] * 3,
            build="test",
        )
        again = case_of(mixed, msgspec.structs.replace(d, made_by=made_by)).again
        assert again.result == result
        assert ("made_by" in again.differences) == (result == "differing")
