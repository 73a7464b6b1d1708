"""A history through the kernel makes what the stream would have made."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sluice.adapters.arrow import COLUMNS, tag_texts
from sluice.adapters.files.history import history_from, labels_from, need
from sluice.application.backfill import backfill
from sluice.domain.clock import DAY_US, HOUR_US
from sluice.domain.features.events import event_row, event_rows
from sluice.domain.features.kernel import Kernel
from sluice.domain.records.authorization import Authorization
from sluice.domain.records.identifiers import tag32
from sluice.errors import Rejected
from sluice.testing.factories import NOON_US, make_authorization, make_label
from sluice.testing.policy import EUROS

RNG = np.random.default_rng(5)


def some_authorizations(n: int) -> list[Authorization]:
    return [
        make_authorization(
            f"a-{i}",
            event_at=NOON_US + int(at),
            card_token=f"card-{RNG.integers(6)}",
            terminal_id=f"terminal-{RNG.integers(4)}",
            merchant_id=f"merchant-{RNG.integers(3)}",
            device_id=[None, "device-1"][RNG.integers(2)],
            currency=["EUR", "USD", "JPY"][RNG.integers(3)],
            amount_minor=int(RNG.integers(100, 90_000)),
        )
        for i, at in enumerate(np.sort(RNG.integers(0, 20 * DAY_US, n)))
    ]


def table(rows: list[msgspec.Struct]) -> pa.Table:
    return pa.Table.from_pylist([msgspec.structs.asdict(row) for row in rows])


def test_features_equal_those_of_an_entity_never_seen_for_the_first_row() -> None:
    auth = make_authorization("a-1", currency="USD", amount_minor=11_600)
    done = backfill(history_from(table([auth])), EUROS)
    served = Kernel().finalise(event_rows([event_row(auth, 10_000)]), [[b""] * 4], [()])
    np.testing.assert_array_equal(done.features, served.features)


@pytest.mark.parametrize("threads", [1, 3])
def test_any_number_of_threads_makes_the_same_bits(threads: int) -> None:
    auths = some_authorizations(300)
    labels = [make_label(a, known_at=a.event_at + HOUR_US) for a in auths[::9]]
    one = backfill(history_from(table(auths)), EUROS, labels_from(table(labels)), keep_states=True)
    many = backfill(
        history_from(table(auths[::-1])),
        EUROS,
        labels_from(table(labels[::-1])),
        threads=threads,
        keep_states=True,
    )
    np.testing.assert_array_equal(one.features, many.features)
    order = lambda update: (update.entity, update.key)  # noqa: E731
    assert sorted(one.states, key=order) == sorted(many.states, key=order)


def test_a_file_without_a_needed_column_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "history.parquet"
    pq.write_table(table(some_authorizations(3)).drop_columns(["mcc", "currency"]), path)
    with pytest.raises(Rejected, match="currency, mcc"):
        need(path, COLUMNS)


def test_ids_are_tagged_as_online_whatever_their_bytes() -> None:
    ids = ["a-1", "", "日本", "x" * 64, "a-1"]
    column = pa.chunked_array([ids[:2], ids[2:]])
    whole = pa.table({"authorization_id": column}).slice(1)
    assert tag_texts(whole["authorization_id"]).tolist() == [tag32(i) for i in ids[1:]]
