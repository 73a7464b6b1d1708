"""A fleet of two versions: every reader takes records of the release before and after its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest

from local.demo import __main__ as demo
from sluice import cli
from sluice.adapters.kafka.consumer import Message
from sluice.adapters.kafka.redrive import read_dead_letters
from sluice.adapters.parquet.archive import Archive
from sluice.adapters.parquet.event_history import ArchiveEventHistory, Keys
from sluice.adapters.parquet.samples import MILLION, ArchiveSampleSource
from sluice.application.consistency import Checked, check, newest
from sluice.application.decide import Decided, Replayed, content_digest, recorded_digest
from sluice.application.fill_states import remember
from sluice.application.ports import Arrival, StateStore
from sluice.application.rebuild import states_of
from sluice.application.redrive import Original, redrive
from sluice.cli.contracts import RECORDS
from sluice.domain.clock import SystemClock
from sluice.domain.records.authorization import (
    Authorization,
    Id,
    Received,
    decode_authorization,
    encode,
)
from sluice.domain.records.dead_letter import DeadLetter, dead_letter_of
from sluice.domain.records.decision import Answer, Decision, Origin, Pending
from sluice.domain.records.label import Label
from sluice.domain.records.observation import Observations
from sluice.domain.records.rollout import Rollout, ShadowScores
from sluice.errors import Rejected
from sluice.testing.factories import NOON_US, make_arrival, make_authorization, make_label
from sluice.testing.records import make_decision
from tests.integration.consistency.little import Little, traffic
from tests.support import recount
from tests.support.versions import UNKNOWN, grown, shrunk

N = 150
OF_TOPIC = {"decisions.v1": Decision, "observations.v1": Observations, "labels.v1": Label}
SAMPLES: dict[str, msgspec.Struct] = {
    "authorizations.v1": make_authorization(device_id="d-1", customer_id="c-1"),
    "decisions.v1": make_decision(),
    "observations.v1": Observations(
        entity=["card"],
        key=["card-1"],
        source=[1],
        offset=[2],
        kind=[0],
        at_us=[3],
        amount_minor=[4],
        card_tag=[5],
        declined=[0],
    ),
    "labels.v1": make_label(make_authorization(device_id="d-1"), known_at=NOON_US + 9),
    "dead-letters.v1": dead_letter_of(
        b"{}", Origin("authorizations.v1", 3, 7), Rejected("no", code="x"), service="t", now_us=1
    ),
    "rollouts.v1": Rollout(
        at=NOON_US,
        emitter="decider-0/1-1",
        step="returned",
        role="canary",
        release="r-1",
        digest="ab" * 32,
        epoch=NOON_US,
        share_ppm=10_000,
        who="ann",
        why="a test",
        reason="errors",
        detail="2 runs gave no score",
    ),
    "shadow-scores.v1": ShadowScores(
        at=NOON_US,
        emitter="decider-0/1-1",
        release="r-1",
        digest="ab" * 32,
        epoch=NOON_US,
        tenants=["test"],
        authorization_ids=["a-1"],
        event_at=[NOON_US],
        score_ppm=[3],
        served_ppm=[-1],
        outcomes=[0],
        served_outcomes=[3],
    ),
    "answer.v1": Answer(
        authorization_id="a-1",
        outcome=make_decision().outcome,
        reasons=[],
        score_ppm=None,
        degradation_level="D1",
        degraded=[],
        release=None,
        policy="p",
        decided_at=1,
    ),
}


class Newer(Authorization, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """What release N+1 knows of an authorization."""

    acquirer_id: Id | None = None


class NewerReceived(Newer, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """The same at an entrypoint of release N+1."""


@dataclass
class Mixed(Little):
    """The main path, with all that lies in topics written by another release."""

    release: str = "N"

    def _put(self, topic: str, partition: int, value: bytes) -> Message:
        if self.release == "N+1":
            value = grown(value)
        if self.release == "N-1":
            value = shrunk(value, OF_TOPIC[topic])
        return super()._put(topic, partition, value)


async def ran(release: str, root: Path) -> Mixed:
    """Decide, featurize and archive the same traffic. N-1 knew no device: nobody sends one."""
    auths = traffic(N)
    if release != "N+1":
        auths = [without_optional(a) for a in auths]
    bank = Mixed(release=release)
    await bank.run(auths)
    bank.archive(root)
    return bank


def without_optional(auth: Authorization) -> Authorization:
    return msgspec.json.decode(shrunk(encode(auth), Authorization), type=Authorization)


def consistency(root: Path) -> Checked:
    sample_source = ArchiveSampleSource(root)
    ends = sample_source.ends()
    return check(sample_source, newest(sample_source, MILLION, 10 * N, ends), ends)


# Every record.


def test_there_is_a_sample_of_every_record():
    assert SAMPLES.keys() == RECORDS.keys()


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_with_more_fields_reads_as_the_record_without_them(name):
    written = grown(encode(SAMPLES[name]))
    assert UNKNOWN.encode() in written
    assert msgspec.json.decode(written, type=RECORDS[name]) == SAMPLES[name]


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_without_any_optional_field_is_read(name):
    written = shrunk(encode(SAMPLES[name]), RECORDS[name])
    read = msgspec.json.decode(written, type=RECORDS[name])
    for one in msgspec.structs.fields(RECORDS[name]):
        if one.required and not isinstance(getattr(read, one.name), Authorization):
            assert getattr(read, one.name) == getattr(SAMPLES[name], one.name)


def test_an_entrypoint_refuses_what_readers_pass_over():
    with pytest.raises(Rejected) as caught:
        decode_authorization(grown(encode(make_authorization())))
    assert caught.value.code == "unknown_field"
    assert msgspec.structs.fields(Received) == msgspec.structs.fields(Authorization)


def test_a_pending_entry_that_grew_at_its_end_is_read_from_the_store():
    entry = make_decision().pending[0]
    written = msgspec.msgpack.encode([*msgspec.structs.astuple(entry), "more"])
    assert msgspec.msgpack.decode(written, type=Pending) == entry


# Every reader: featurizer, archiver, consistency check, explain, rebuild, dead letters, demo.


@pytest.mark.parametrize("release", ["N+1", "N-1"])
async def test_featurizer_archiver_consistency_check_and_rebuild_read_another_release(
    release, tmp_path
):
    bank = await ran(release, tmp_path / "other")
    same = Mixed()  # the same traffic, all of it written and read by this release
    await same.run(traffic(N) if release == "N+1" else [without_optional(a) for a in traffic(N)])
    assert bank.store.states == same.store.states
    assert len(bank.store.states) > N / 2

    rows = Archive(tmp_path / "other").read()
    kept = {m.value for m in bank.log if m.topic == "decisions.v1"}
    assert set(rows["record"].to_pylist()) == kept  # with what nobody here understands
    if release == "N+1":
        assert all(UNKNOWN.encode() in value for value in kept)

    tally = consistency(tmp_path / "other").tally
    assert (tally.compared, tally.differing) == (N, 0)

    history = ArchiveEventHistory(tmp_path / "other")
    cards = {a.card_token for a in traffic(N)}
    made = [u for some in states_of(history.read(Keys({"card": cards}))) for u in some]
    assert {u.key for u in made if u.entity == "card"}.issubset(cards)
    assert made


def test_explain_shows_what_only_the_newer_release_knows(tmp_path, capsys):
    message = Message(
        grown(encode(make_decision(customer_id="c-77", ip_prefix="10.0.0.0/8"))),
        None,
        "decisions.v1",
        1,
        4,
        None,
        NOON_US // 1000,
    )
    bank = Little()
    bank.log.append(message)
    bank._ends["decisions.v1", 1] = 4
    bank.archive(tmp_path)
    assert cli.main(["explain", "--archive", str(tmp_path), "a-1"]) == 0
    page = capsys.readouterr().out
    assert re.search(r"^customer_id +c-77$", page, re.MULTILINE)
    assert re.search(rf"^{UNKNOWN} ", page, re.MULTILINE)
    assert cli.main(["explain", "--archive", str(tmp_path), "--json", "a-1"]) == 0
    assert msgspec.json.decode(capsys.readouterr().out) == msgspec.json.decode(message.value)


class Reader:
    """A topic in memory."""

    def __init__(self, values: Sequence[bytes]) -> None:
        self.values = values

    def records(self, topic: str) -> list[Message]:
        return [Message(v, None, topic, 0, i, None, 0) for i, v in enumerate(self.values)]


class Topic:
    """Where dead messages lie, and go."""

    def __init__(self) -> None:
        self.sent: list[Origin] = []

    def at(self, origin: Origin) -> Original:
        return Original(b"card-1", b"{}", None)

    def send(self, origin: Origin, original: Original, note: bytes) -> None:
        self.sent.append(origin)


@pytest.mark.parametrize("other", [grown, lambda value: shrunk(value, DeadLetter)])
def test_dead_letters_of_another_release_are_listed_and_redriven(other):
    sample = SAMPLES["dead-letters.v1"]
    found = list(read_dead_letters(Reader([other(encode(sample))]), "dead-letters.v1"))
    assert found == [sample]
    topic = Topic()
    [result] = redrive(found, found, topic, topic, SystemClock())
    assert (result.refused, topic.sent) == ("", [sample.origin])


@pytest.mark.parametrize("release", ["N+1", "N-1"])
def test_the_demo_and_the_recount_read_another_release(release):
    def other(name: str) -> bytes:
        value = encode(SAMPLES[name])
        return grown(value) if release == "N+1" else shrunk(value, RECORDS[name])

    assert demo._decoder.decode(other("decisions.v1")).outcome == make_decision().outcome
    decided = recount._decision(other("decisions.v1"))
    assert decided.authorization == make_decision().authorization
    assert recount._dead_letter(other("dead-letters.v1")) == SAMPLES["dead-letters.v1"]
    assert recount._label(other("labels.v1")).card_token == "card-1"


# One id, two versions: neither makes a conflict of a repeat, nor a repeat of a conflict.


def test_an_optional_field_that_is_absent_changes_no_digest():
    auth = make_authorization(device_id="d-1")
    newer = Newer(**msgspec.structs.asdict(auth))
    assert encode(newer) == encode(auth)
    assert content_digest(newer) == content_digest(auth)
    assert content_digest(msgspec.structs.replace(newer, acquirer_id="x")) != content_digest(auth)


def test_the_digest_of_an_authorization_is_frozen():
    # Fails where a field changed its name, place, default or encoding: all ids of a rolling
    # upgrade would be conflicts. Fields are only added, after these, and optional.
    full = make_authorization(
        customer_id="c-1", device_id="d-1", ip_prefix="10.0.0.0/8", three_ds="challenged"
    )
    assert content_digest(make_authorization()).hex() == "66e9c82345005fd7"
    assert content_digest(full).hex() == "3c1cb268aef038f4"


@pytest.mark.parametrize("acquirer", [None, "acq-1"])
async def test_a_repeat_at_a_newer_decider_is_one_though_an_older_featurizer_remembered(acquirer):
    bank = Little()
    bank._wait_for(NOON_US)
    auth = Newer(**msgspec.structs.asdict(make_authorization()), acquirer_id=acquirer)
    taken = msgspec.json.decode(encode(auth), type=NewerReceived)
    arrival = msgspec.structs.replace(make_arrival(), auth=taken, digest=content_digest(taken))
    [first] = await bank.decider.decide([arrival])
    assert isinstance(first, Decided)
    bank.featurize()  # of this release: it knows no acquirer_id, and remembers the answer anew
    assert recorded_digest(encode(first.decision)) == arrival.digest
    [again] = await bank.decider.decide([arrival])
    assert isinstance(again, Replayed)
    assert again.answer == first.answer
    other = msgspec.structs.replace(taken, acquirer_id="acq-2")
    [conflict] = await bank.decider.decide(
        [msgspec.structs.replace(arrival, auth=other, digest=content_digest(other))]
    )
    assert type(conflict).__name__ == "Conflict"


async def test_a_rebuild_remembers_the_digest_of_what_the_newer_decider_took(tmp_path):
    bank = Little()
    bank._wait_for(NOON_US)
    taken = Newer(**msgspec.structs.asdict(make_authorization()), acquirer_id="acq-1")
    arrival: Arrival = msgspec.structs.replace(
        make_arrival(), auth=taken, digest=content_digest(taken)
    )
    [first] = await bank.decider.decide([arrival])
    bank.archive(tmp_path)
    kept: list[tuple[str, str, bytes, bytes]] = []
    store = cast(StateStore, SimpleNamespace(remember=kept.extend))
    remember([(held.decision, held.record) for held in Archive(tmp_path).decided_since(0)], store)
    [(tenant, key, digest, said)] = kept
    assert (tenant, key) == ("test", "a-1")
    assert digest == arrival.digest
    assert said == first.answer
