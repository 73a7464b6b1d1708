"""The archive's event history holds what the kept entities' states are made of, and nothing
else."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sluice.adapters.files.history import history_from, labels_from
from sluice.adapters.parquet.archive import ParquetFiles
from sluice.adapters.parquet.damage import LAST
from sluice.adapters.parquet.event_history import ArchiveEventHistory, Bucket, Keys
from sluice.application.backfill import backfill
from sluice.application.ports import Message
from sluice.application.replay import EventHistory, Replay
from sluice.domain.clock import HOUR_US
from sluice.domain.features import catalogue, states
from sluice.domain.features.events import EVENT_US
from sluice.domain.features.kernel import U_KIND, U_KNOWN_US, WITHDRAWN
from sluice.domain.records.authorization import Authorization, encode
from sluice.domain.records.decision import Decision
from sluice.domain.records.entity import ENTITY_KINDS
from sluice.domain.records.label import Label
from sluice.domain.records.outcome import Outcome
from sluice.errors import Rejected
from sluice.testing.factories import NOON_US, make_label
from sluice.testing.history import event_history_of
from sluice.testing.policy import EUROS
from sluice.testing.records import make_decision

FOLDERS = {"decisions.v1": "decisions", "labels.v1": "labels"}
PARTITIONS = 2


def some_decisions(n: int) -> list[tuple[int, int, Decision]]:
    """(partition, offset, decision), a third of the offsets taken by transaction markers."""
    rng = random.Random(3)
    found = []
    for i in range(n):
        decision = make_decision(
            f"a-{i}",
            sequence=i,
            event_at=NOON_US + i * HOUR_US // 4,
            card_token=f"card-{rng.randrange(6)}",
            terminal_id=f"terminal-{rng.randrange(4)}",
            merchant_id=f"merchant-{rng.randrange(3)}",
            device_id=rng.choice([None, "device-1", "device-2"]),
            amount_minor=rng.randrange(100, 90_000),
        )
        outcome = Outcome.DECLINE if rng.random() < 0.3 else Outcome.APPROVE
        changed = msgspec.structs.replace(decision, outcome=outcome, decided_at=NOON_US + i)
        found.append((i % PARTITIONS, i + i // 2, changed))
    return found


def archive(
    root: Path, decided: list[tuple[int, int, Decision]], labels: list[Label], *, a_file: int = 20
) -> None:
    files = ParquetFiles(root, FOLDERS)
    rows = [Message(encode(d), None, "decisions.v1", p, o, None, 0) for p, o, d in decided]
    reported = [Message(encode(x), None, "labels.v1", 0, i, None, 0) for i, x in enumerate(labels)]
    for topic, records in (("decisions.v1", rows), ("labels.v1", reported)):
        for partition in range(PARTITIONS):
            mine = [r for r in records if r.partition == partition]
            for at in range(0, len(mine), a_file):
                files.write((topic, partition), mine[at : at + a_file])


def write_imported(root: Path, kind: str, partition: int, rows: pa.Table) -> None:
    n = len(rows)
    rows = rows.append_column("partition", pa.array(np.full(n, partition, np.int32)))
    rows = rows.append_column("offset", pa.array(np.arange(n)))
    folder = root / kind / "date=2026-01-01"
    folder.mkdir(parents=True)
    rows = rows.replace_schema_metadata({LAST: str(n - 1)})
    pq.write_table(rows, folder / f"part-{partition:05}-{0:020}.parquet")


def keys_of(auth: Authorization | Label) -> tuple[str | None, ...]:
    return auth.card_token, auth.terminal_id, auth.merchant_id, auth.device_id


def all_states(event_history: EventHistory, view: int) -> dict[str, bytes]:
    keys = list(event_history.codes[view])
    made = Replay(event_history).states(ENTITY_KINDS[view], keys, [None] * len(keys))
    return dict(zip(keys, made, strict=True))


@pytest.fixture
def decided() -> list[tuple[int, int, Decision]]:
    return some_decisions(120)


@pytest.fixture
def labels(decided: list[tuple[int, int, Decision]]) -> list[Label]:
    return [
        make_label(d.authorization, known_at=NOON_US + i * HOUR_US, is_fraud=i % 3 > 0)
        for i, (_, _, d) in enumerate(decided[::7])
    ]


@pytest.fixture
def whole(decided: list[tuple[int, int, Decision]], labels: list[Label]) -> EventHistory:
    """The same events without an archive."""
    return event_history_of(
        [(states.source(states.DECISIONS, p), o, d) for p, o, d in decided],
        [
            (states.source(states.LABELS, 0), i, x.is_fraud, x.known_at, keys_of(x))
            for i, x in enumerate(labels)
        ],
    )


def test_states_of_named_entities_are_those_of_the_whole_log(tmp_path, decided, labels, whole):
    archive(tmp_path, decided, labels)
    wanted = {"card": ["card-1", "card-5"], "merchant": ["merchant-2"], "device": ["device-1"]}
    event_history = ArchiveEventHistory(tmp_path).read(Keys(wanted))
    for view, name in enumerate(catalogue.VIEWS):
        expected = {k: s for k, s in all_states(whole, view).items() if k in wanted.get(name, ())}
        assert all_states(event_history, view) == expected
    assert len(event_history.events) < len(whole.events)


def test_a_label_that_changes_nothing_is_no_event(tmp_path, decided, labels, whole):
    more = [
        msgspec.structs.replace(label, uncounted=why)
        for label in labels[:3]
        for why in ("repeats", "outranked")
    ]
    archive(tmp_path, decided, [*labels, *more])
    read = ArchiveEventHistory(tmp_path).read(Bucket(0, 1))
    assert len(read.events) == len(whole.events)


def test_a_label_that_takes_a_fraud_back_is_told_from_other_verdicts(
    tmp_path, decided, labels, whole
):
    back = msgspec.structs.replace(labels[1], is_fraud=False, withdraws=NOON_US + 7)
    archive(tmp_path, decided, [*labels, back])
    read = ArchiveEventHistory(tmp_path).read(Bucket(0, 1))
    assert len(read.events) == len(whole.events) + 1
    taken_back = read.changes[:, U_KIND] == WITHDRAWN
    assert read.events[taken_back, EVENT_US].tolist() == [NOON_US + 7]
    assert read.changes[taken_back, U_KNOWN_US].tolist() == [back.known_at]


def test_buckets_share_all_entities_out_between_them(tmp_path, decided, labels, whole):
    archive(tmp_path, decided, labels)
    event_histories = [ArchiveEventHistory(tmp_path).read(Bucket(number, 3)) for number in range(3)]
    for view in range(len(catalogue.VIEWS)):
        made = [all_states(event_history, view) for event_history in event_histories]
        assert sum(map(len, made)) == len(whole.codes[view])
        assert made[0] | made[1] | made[2] == all_states(whole, view)


def test_an_event_history_says_when_each_authorization_was_decided(tmp_path, decided, labels):
    archive(tmp_path, decided, labels)
    event_history = ArchiveEventHistory(tmp_path).read(Bucket(0, 1))
    assert sorted(event_history.decided_us) == [0] * len(labels) + [
        d.decided_at for _, _, d in decided
    ]


def test_ends_are_the_last_offsets_by_source(tmp_path, decided, labels):
    archive(tmp_path, decided, labels)
    assert ArchiveEventHistory(tmp_path).ends() == {
        states.source(states.DECISIONS, 0): 118 + 59,
        states.source(states.DECISIONS, 1): 119 + 59,
        states.source(states.LABELS, 0): len(labels) - 1,
    }
    assert ArchiveEventHistory(tmp_path).events() == len(decided) + len(labels)


def test_too_many_events_are_refused_before_they_are_held(tmp_path, decided, labels):
    archive(tmp_path, decided, labels)
    with pytest.raises(Rejected, match="more than 50 events") as caught:
        ArchiveEventHistory(tmp_path, events_max=50).read(Bucket(0, 1))
    assert caught.value.code == "too_many_events"


def test_entities_nobody_knows_make_an_empty_event_history(tmp_path, decided, labels):
    archive(tmp_path, decided, labels)
    event_history = ArchiveEventHistory(tmp_path).read(Keys({"card": ["nobody"]}))
    assert Replay(event_history).states("card", ["nobody"], [None]) == [b""]
    assert len(ArchiveEventHistory(tmp_path / "nothing").read(Bucket(0, 1)).events) == 0


def test_an_archived_backfill_makes_the_states_that_the_backfill_left(tmp_path, decided):
    auths = [d.authorization for _, _, d in decided]
    history = pa.Table.from_pylist([msgspec.structs.asdict(a) for a in auths])
    history = history.append_column("declined", pa.array([i % 4 == 0 for i in range(len(auths))]))
    reported = [make_label(a, known_at=a.event_at + HOUR_US) for a in auths[:40:5]]
    labels = pa.Table.from_pylist([msgspec.structs.asdict(x) for x in reported])
    done = backfill(history_from(history), EUROS, labels_from(labels), keep_states=True)

    amounts = [EUROS.to_reference(a.amount_minor, a.currency) for a in auths]
    history = history.append_column("reference_amount_minor", pa.array(amounts))
    write_imported(tmp_path, "history", 0, history)
    write_imported(tmp_path, "history_labels", 1, labels)
    event_history = ArchiveEventHistory(tmp_path).read(Bucket(0, 1))
    for view, name in enumerate(catalogue.VIEWS):
        left = {u.key: u.state for u in done.states if u.entity == name}
        assert all_states(event_history, view) == left
