"""An archive with its labels held back is what a backfill of such labels leaves."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from sluice_simulator.config import Config
from sluice_simulator.history import write
from sluice_simulator.world import World

from sluice.adapters.files.past import Past, read_past
from sluice.adapters.parquet.feature_log import FeatureLog
from sluice.adapters.parquet.held_back import write_held_back
from sluice.adapters.policyfiles import read_policy
from sluice.bootstrap.verbs import archive_past
from sluice.domain.clock import DAY_US, HOUR_US, from_datetime, to_datetime
from sluice.domain.features import catalogue
from sluice.errors import Rejected
from tests.support.feature_log import write_log

START = from_datetime(to_datetime(0).replace(year=2026, month=1, day=1))
END = START + 4 * DAY_US
FX = read_policy(Path("policies/default"), catalogue.FEATURES).fx


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Past:
    """Four days of a few cards; every authorization is labelled, an hour after it."""
    made = tmp_path_factory.mktemp("history")
    write(World(Config(cards=150, fraud_bp=400), 5), date(2026, 1, 1), 4, made)
    found = read_past(made / "authorizations.parquet", made / "labels.parquet")
    return Past(found.authorizations, known_after(found, HOUR_US))


def known_after(past: Past, delay_us: int) -> pa.Table:
    """A label of each authorization, every ninth a fraud, in order of known_at."""
    rows = past.authorizations
    names = [name for name in past.labels.column_names if name in rows.column_names]
    n = len(rows)
    made = {
        "known_at": pc.add(rows["event_at"], delay_us),
        "is_fraud": pa.array([i % 9 == 0 for i in range(n)]),
        "kind": pa.array(["chargeback"] * n).dictionary_encode(),
        "source": pa.array(["network"] * n).dictionary_encode(),
    }
    return pa.table({name: rows[name] for name in names} | made)


def test_held_back_for_two_days_it_is_the_backfill_of_labels_two_days_late(past, tmp_path):
    archive_past(past, FX, tmp_path / "soon", keep_states=False)
    late = Past(past.authorizations, known_after(past, 2 * DAY_US))
    archive_past(late, FX, tmp_path / "late", keep_states=False)
    write_held_back(tmp_path / "soon", tmp_path / "held", END, 2 * DAY_US, threads=2)
    soon, wanted, held = (
        FeatureLog(tmp_path / name, START, END) for name in ("soon", "late", "held")
    )
    assert held.rows(START, END).equals(wanted.rows(START, END))
    assert held.labels(START, END).equals(wanted.labels(START, END))
    assert not held.rows(START, END).equals(soon.rows(START, END))
    assert (held.reports().known_us - held.reports().event_us == 2 * DAY_US).all()


def test_a_label_that_is_known_later_keeps_its_time(past, tmp_path):
    archive_past(past, FX, tmp_path / "soon", keep_states=False)
    write_held_back(tmp_path / "soon", tmp_path / "held", END, HOUR_US // 2)
    soon, held = (FeatureLog(tmp_path / name, START, END) for name in ("soon", "held"))
    assert held.rows(START, END).equals(soon.rows(START, END))
    assert held.labels(START, END).equals(soon.labels(START, END))


def test_what_lies_behind_the_end_is_left_out(past, tmp_path):
    archive_past(past, FX, tmp_path / "soon", keep_states=False)
    write_held_back(tmp_path / "soon", tmp_path / "held", START + DAY_US, DAY_US)
    held = FeatureLog(tmp_path / "held", START, END)
    inside = pc.less(past.authorizations["event_at"], START + DAY_US)
    assert len(held.rows(START, END)) == pc.sum(inside).as_py() > 0


def test_a_decision_that_declined_is_counted_as_one(past, tmp_path):
    """Of a decision the outcome says what the issuer's answer says of history."""
    rows = past.authorizations.slice(0, 60)
    n = len(rows)
    declined = [i % 3 == 0 for i in range(n)]
    columns = {
        name: rows[name].combine_chunks().cast(pa.string())
        if pa.types.is_dictionary(rows[name].type)
        else rows[name].combine_chunks()
        for name in rows.column_names
        if name != "declined"
    } | {
        "reference_amount_minor": [100] * n,
        "reference_currency": ["EUR"] * n,
        "catalogue": [catalogue.DIGEST] * n,
        "features": [[0] * catalogue.N] * n,
    }
    write_log(tmp_path / "history", "history", columns | {"declined": declined})
    outcome = ["decline" if one else "approve" for one in declined]
    write_log(tmp_path / "live", "decisions", columns | {"outcome": outcome})
    for name in ("history", "live"):
        write_held_back(tmp_path / name, tmp_path / f"held-{name}", END, DAY_US)
    history, live = (
        FeatureLog(tmp_path / f"held-{name}", START, END).rows(START, END)
        for name in ("history", "live")
    )
    assert live.equals(history)
    assert len(live) == n


def test_an_archive_of_two_currencies_is_refused(past, tmp_path):
    rows = {"event_at": [START, START + 1], "reference_currency": ["EUR", "USD"]}
    write_log(tmp_path / "two", "history", rows)
    with pytest.raises(Rejected, match="EUR and USD"):
        write_held_back(tmp_path / "two", tmp_path / "held", END, DAY_US)
