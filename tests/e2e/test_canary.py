"""Releases beside the champion on running deciders, one at each entrypoint: who answers, and how
soon a bad one answers nobody any more."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import msgspec
import pytest

from local.kafka.broker import Node
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.adapters.trustfiles import ActivationFile
from sluice.application.told import Change, change_of
from sluice.bootstrap.services import store_at
from sluice.cli import main
from sluice.domain.activation import decode
from sluice.domain.clock import SECOND_US
from sluice.domain.records.decision import Decision
from sluice.domain.records.rollout import Rollout, ShadowScores
from sluice.testing.release import make_release
from sluice.testing.store import declare_ready
from tests.support.canaries import KINDS, SEED, Kind, make_canary
from tests.support.deployment import Deployment, make_deployment
from tests.support.kafka import read_all, wait_until
from tests.support.recount import Ledger, wait_balanced
from tests.support.traffic import Caller, StreamTraffic

pytestmark = pytest.mark.slow

DECIDERS = ("decider-sync", "decider-stream")
CARDS = 20_000
"""So many that one in a hundred of them is near one in a hundred of the traffic."""
RATE, CALLS = 1_200, 60
"""Authorizations a second at the stream processor, and at the sync API."""
BACK_MAX_US = 180 * SECOND_US
"""On a busy machine. What is promised is a minute."""
TOUCHED_MAX = 0.01
CREATED_AT = 1_780_000_000_000_000


@pytest.fixture(scope="module")
def deployment(kafka: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Both deciders on the champion of a folder of releases."""
    folder = tmp_path_factory.mktemp("canary")
    with (
        EmbeddedStore() as store,
        make_deployment(kafka.bootstrap, store.url, folder) as deployment,
    ):
        releases = deployment.release
        shutil.rmtree(releases)
        make_release(releases / "champion", id="champion", seed=SEED, created_at=CREATED_AT)
        for i, kind in enumerate(KINDS):
            make_canary(releases, kind, CREATED_AT + 1 + i)
        assert main(["release", "keygen", "--out", str(folder / "trust" / "ann")]) == 0
        step(deployment, "promote", "champion")
        declare_ready(store_at(store.url))
        deployment.start(*DECIDERS)
        yield deployment


def step(deployment: Deployment, verb: str, *words: str) -> int:
    """Go a step, as somebody who signs. Returns its epoch."""
    assert main(signed(deployment, verb, *words)) == 0
    there = ActivationFile(deployment.release).read()
    assert there is not None
    return decode(there.statement).epoch


def signed(deployment: Deployment, verb: str, *words: str) -> list[str]:
    key = deployment.policy.parent / "trust" / "ann"
    said = ["--key", str(key), "--who", "ann", "--why", "a test"]
    return ["release", verb, str(deployment.release), *words, *said]


def shares(deployment: Deployment, role: str) -> list[float]:
    wanted = f'sluice_decider_beside_share{{role="{role}"}}'
    pages = [deployment.stack.processes[name].metrics() for name in DECIDERS]
    rows = [row for page in pages for row in page.splitlines() if row.startswith(wanted)]
    return [float(row.split()[-1]) for row in rows]


def events(deployment: Deployment, epoch: int) -> list[Rollout]:
    found = read_all(deployment.bootstrap, deployment.topics.rollouts)
    each = [msgspec.json.decode(message.value, type=Rollout) for message in found]
    return [event for event in each if event.epoch == epoch]


def obeyed(deployment: Deployment, epoch: int | None) -> list[Change]:
    """What deciders said of a release by its activation, None of their policy, as the compliance
    log reads it."""
    read = [change_of(m.value) for m in read_all(deployment.bootstrap, deployment.topics.rollouts)]
    return [
        one
        for one in read
        if one is not None and (one.activated.epoch if one.activated else None) == epoch
    ]


def decisions(ledger: Ledger, name: str) -> list[Decision]:
    """Those of one test's traffic."""
    return [d for d in ledger.decisions if d.authorization.authorization_id.startswith(name)]


def recount(deployment: Deployment, caller: Caller) -> Ledger:
    """Each authorization was decided once, and each caller heard what was recorded."""
    ledger = wait_balanced(deployment.bootstrap, deployment.topics, heard=caller.heard)
    assert ledger.unbalanced() == {}
    assert ledger.decided_twice() == []
    answers = ledger.answers()
    assert {key: answers.get(key) for key in caller.heard} == caller.heard
    assert caller.refused.keys() <= {"overloaded", "unrecorded"}, "the machine's, no canary's"
    return ledger


@pytest.mark.parametrize(
    ("kind", "reasons"),
    [
        ("inverted", {"declines", "agreement"}),
        ("constant", {"agreement", "approvals"}),
        ("slow", {"latency"}),
        ("failing", {"errors"}),
    ],
)
def test_a_bad_canary_goes_back_without_a_person(
    deployment: Deployment, kind: Kind, reasons: set[str]
) -> None:
    step(deployment, "shadow", kind)
    epoch = step(deployment, "canary", kind, "--share-ppm", "10000")
    wait_until(lambda: shares(deployment, "canary") == [0.01, 0.01], "both have the canary")
    stack, topics = deployment.stack, deployment.topics
    traffic = StreamTraffic(
        deployment.bootstrap, topics.authorizations, f"{kind}-s", rate=RATE, cards=CARDS
    )
    caller = Caller(stack.port, f"{kind}-c", rate=CALLS, cards=CARDS)
    with traffic, caller:
        wait_until(lambda: shares(deployment, "canary") == [0, 0], "both have taken it out")
        until = max(3_000, traffic.sent * 3 // 2)
        wait_until(lambda: traffic.sent >= until, "traffic goes on")
    decided = decisions(recount(deployment, caller), f"{kind}-")

    written = wait_until(
        lambda: [e for e in events(deployment, epoch) if e.step == "returned"], "it is written"
    )
    began = min(e.at for e in events(deployment, epoch) if e.step == "began" and e.role == "canary")
    assert {event.reason for event in written} <= reasons
    assert max(event.at for event in written) - began < BACK_MAX_US
    touched = [d for d in decided if d.release == kind]
    assert len(touched) <= TOUCHED_MAX * len(decided)
    assert {d.release for d in decided} <= {"champion", kind}
    # Where it gave no score, the champion's was there.
    assert {d.degradation_level for d in decided} == {"D0"}
    listed = stack.verb("release", "list", str(deployment.release), "--returns", "--json")
    assert listed.returncode == 1
    assert {event["release"] for event in json.loads(listed.stdout)["returned"]} == {kind}
    # It cannot become the champion.
    done = stack.verb(*signed(deployment, "promote", kind, "--held-s", "0"))
    assert done.returncode == 78
    assert "went back by itself" in done.stderr
    step(deployment, "rollback")


def test_a_slow_shadow_is_in_no_answer_and_what_it_scores_is_recorded(
    deployment: Deployment,
) -> None:
    epoch = step(deployment, "shadow", "slow")
    wait_until(lambda: shares(deployment, "shadow") == [1, 1], "both have the shadow")
    wait_until(lambda: len(obeyed(deployment, epoch)) == 2, "both say by whose word they decide")
    assert {one.activated.act for one in obeyed(deployment, epoch) if one.activated} == {"shadow"}
    policies = [one.thresholds for one in obeyed(deployment, None)]
    assert len(policies) == len(DECIDERS)
    assert all(policies)
    topics = deployment.topics
    traffic = StreamTraffic(
        deployment.bootstrap, topics.authorizations, "shadow-s", rate=RATE, cards=CARDS
    )
    caller = Caller(deployment.stack.port, "shadow-c", rate=CALLS, cards=CARDS)
    with traffic, caller:
        wait_until(lambda: traffic.sent >= 3_000 and len(caller.heard) >= 100, "some traffic")
    decided = decisions(recount(deployment, caller), "shadow-")
    assert {(d.release, d.degradation_level) for d in decided} == {("champion", "D0")}

    records = read_all(deployment.bootstrap, topics.shadow_scores)
    scored = [msgspec.json.decode(message.value, type=ShadowScores) for message in records]
    served = {d.authorization.authorization_id: d.score_ppm for d in decided}
    mine = {
        name: (ppm, ours)
        for record in scored
        if record.release == "slow"
        for name, ppm, ours in zip(
            record.authorization_ids, record.score_ppm, record.served_ppm, strict=True
        )
        if name in served
    }
    assert mine
    # Its weights are the champion's.
    assert mine == {name: (served[name], served[name]) for name in mine}
    step(deployment, "rollback")


def test_a_good_canary_answers_the_same_cards_everywhere_and_becomes_the_champion(
    deployment: Deployment,
) -> None:
    step(deployment, "shadow", "good")
    step(deployment, "canary", "good")
    step(deployment, "canary", "good", "--share-ppm", "300000")
    wait_until(lambda: shares(deployment, "canary") == [0.3, 0.3], "both have the canary")
    topics = deployment.topics
    traffic = StreamTraffic(
        deployment.bootstrap, topics.authorizations, "good-s", rate=RATE, cards=200
    )
    caller = Caller(deployment.stack.port, "good-c", rate=CALLS, cards=200)
    with traffic, caller:
        wait_until(lambda: traffic.sent >= 3_000 and len(caller.heard) >= 200, "some traffic")
    decided = decisions(recount(deployment, caller), "good-")
    by_card: dict[str, set[str | None]] = {}
    for decision in decided:
        by_card.setdefault(decision.authorization.card_token, set()).add(decision.release)
    both = {d.authorization.card_token for d in decided if d.entrypoint == "sync"}
    assert len(both & by_card.keys()) > 100
    assert {len(releases) for releases in by_card.values()} == {1}
    assert 0.15 < sum(d.release == "good" for d in decided) / len(decided) < 0.45

    done = deployment.stack.verb(*signed(deployment, "promote", "good", "--held-s", "0"))
    assert done.returncode == 0, done.stderr
    wait_until(lambda: deciding(deployment) == ["good", "good"], "both have the new champion")
    step(deployment, "rollback")
    wait_until(lambda: deciding(deployment) == ["champion"] * 2, "both have the former one")


def deciding(deployment: Deployment) -> list[str]:
    pages = [deployment.stack.processes[name].metrics() for name in DECIDERS]
    rows = [
        row
        for page in pages
        for row in page.splitlines()
        if row.startswith("sluice_decider_release_info{")
    ]
    return [row.split('"')[1] for row in rows]
