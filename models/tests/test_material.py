"""What training sees of a dataset: labels, weights, the card's past, and what a view's lack is."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from maker import SPLITS, Days, write_dataset
from sluice.domain.features import catalogue
from sluice.domain.features.events import event_row, event_rows
from sluice.domain.features.kernel import Kernel
from sluice.errors import Corrupt, Rejected
from sluice.testing.factories import make_authorization

from sluice_models.material import PAST, SHARE_MIN, STEP, Material, Missing, read_material
from sluice_models.sampling import GENUINE_MIN, undersample


def rewritten(folder: Path, split: str, **columns: np.ndarray) -> None:
    """Other values in a split's file, and its digest in the manifest."""
    import hashlib
    import json

    path = folder / split / "part-00000.parquet"
    table = pq.read_table(path)
    for name, values in columns.items():
        at = table.column_names.index(name)
        table = table.set_column(at, name, pa.array(values, table.schema.field(name).type))
    pq.write_table(table, path)
    about = json.loads((folder / "manifest.json").read_text())
    for one in about["splits"]:
        if one["name"] == split:
            one["files"] = {f"{split}/part-00000.parquet": _sha(path, hashlib)}
    (folder / "manifest.json").write_text(json.dumps(about))


def _sha(path: Path, hashlib) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_rows_of_an_age_at_which_few_frauds_are_known_are_not_called_genuine(
    world, tmp_path: Path
) -> None:
    folder = write_dataset(tmp_path / "d", *world)
    n = len(pq.read_table(folder / "train/part-00000.parquet"))
    share = np.linspace(0, 1, n).astype(np.float32)
    rewritten(folder, "train", reported_share=share)
    rows = read_material(folder).rows("train")
    young = share < SHARE_MIN
    assert not rows.labelled[young & ~rows.fraud].any()
    assert rows.labelled[rows.fraud].all()
    assert rows.labelled[~young].all()
    old = rows.fraud & ~young
    assert rows.weight[old] == pytest.approx(1 / share[old], rel=1e-6)
    assert rows.weight[rows.fraud].max() <= 1 / SHARE_MIN
    assert (rows.weight[~rows.fraud] == 1).all()


def test_a_declined_row_of_which_nothing_is_known_teaches_nothing(world, tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "d", *world)
    n = len(pq.read_table(folder / "train/part-00000.parquet"))
    weight = np.where(np.arange(n) % 3 == 0, 0.0, 1.0)
    rewritten(folder, "train", weight=weight)
    rows = read_material(folder).rows("train")
    assert not rows.labelled[weight == 0].any()
    rng = np.random.default_rng(1)
    chosen = undersample(rows.fraud, rows.weight, rows.labelled, 10, rng, genuine_min=0).rows
    assert (weight[chosen] > 0).all()


def test_recent_traffic_has_no_label(material: Material) -> None:
    assert not material.rows("recent").labelled.any()
    assert len(material.rows("recent").fraud) > 1000


def test_the_past_is_the_cards_own_and_ends_with_the_row_itself(material: Material) -> None:
    timeline = material.timeline
    rows = np.random.default_rng(1).choice(len(timeline.event_us), 300, replace=False)
    past = timeline.past(rows)
    assert past.shape == (300, PAST + 1, len(STEP))
    for row, steps in zip(rows.tolist(), past, strict=True):
        before = np.flatnonzero(
            (timeline.card == timeline.card[row]) & (timeline.event_us < timeline.event_us[row])
        )
        before = before[np.argsort(timeline.event_us[before], kind="stable")][-PAST:]
        seen = steps[steps[:, 0] > 0]
        assert seen[:-1, 1].tolist() == timeline.amount_minor[before].tolist()
        assert (seen[:-1, 2] > 0).all()
        assert seen[-1].tolist() == [1, timeline.amount_minor[row], 0, 1, 1, 1, 1, 1]
        assert not steps[: PAST + 1 - len(seen)].any()


def test_what_is_trained_on_as_missing_is_what_is_served_as_missing(material: Material) -> None:
    rows = material.rows("test-1" if material.has("test-1") else "train")
    missing = Missing.of(material.names)
    kernel = Kernel()
    columns = [catalogue.INDEX[name] for name in material.names]
    entity = [catalogue.FEATURES[i].entity for i in columns]
    device_at = material.names.index("has_device")
    amount_at = material.names.index("amount_minor")
    some = rows.features[:40]
    assert 0 < some[:, device_at].sum() < 40
    for view in ("terminal", "merchant", "device"):
        blind = missing.without(some, view)
        mine = np.array([one == view for one in entity])
        assert (blind[:, ~mine] == some[:, ~mine]).all()
        for before, after in zip(some, blind, strict=True):
            amount = int(before[amount_at])
            auth = make_authorization(
                amount_minor=amount,
                currency="EUR",
                device_id="d" if before[device_at] else None,
            )
            states = [None if v == view else b"" for v in catalogue.VIEWS]
            events = event_rows([event_row(auth, amount)])
            served = kernel.finalise(events, [tuple(states)], [()]).features[0, columns]
            assert served[mine].tolist() == after[mine].tolist()


def test_all_frauds_are_kept_and_the_shift_undoes_the_rest() -> None:
    rng = np.random.default_rng(1)
    fraud = rng.random(20_000) < 0.01
    weight = np.where(rng.random(20_000) < 0.5, 4.0, 1.0)
    usable = np.ones(20_000, bool)
    sample = undersample(fraud, weight, usable, 10, rng, genuine_min=0)
    drawn = sample.rows[~fraud[sample.rows]]
    assert np.isin(np.flatnonzero(fraud), sample.rows).all()
    assert len(drawn) == 10 * fraud.sum()
    assert weight[drawn].mean() == pytest.approx(3.4, abs=0.2)  # by weight: (16 + 1) / (4 + 1)
    odds = weight[fraud].sum() / weight[~fraud].sum()
    sampled = sample.weight[fraud[sample.rows]].sum() / len(drawn)
    assert np.log(sampled) - sample.shift == pytest.approx(np.log(odds))
    assert (sample.weight[~fraud[sample.rows]] == 1).all()


def test_few_frauds_do_not_throw_the_genuine_rows_away() -> None:
    """Of 200,000 rows with 180 frauds 1,800 genuine ones were learnt from."""
    fraud = np.arange(200_000) % 1_111 == 0
    rows = np.ones(200_000)
    sample = undersample(fraud, rows, rows > 0, 10, np.random.default_rng(1))
    assert np.isin(np.flatnonzero(fraud), sample.rows).all()
    assert len(sample.rows) - fraud.sum() == GENUINE_MIN
    assert sample.shift == pytest.approx(np.log((~fraud).sum() / GENUINE_MIN))


def test_where_all_genuine_rows_are_taken_they_keep_their_weight() -> None:
    fraud = np.arange(100) < 10
    weight = np.linspace(1, 2, 100)
    sample = undersample(fraud, weight, np.ones(100, bool), 30, np.random.default_rng(1))
    assert sample.rows.tolist() == list(range(100))
    assert sample.weight.tolist() == weight.tolist()
    assert sample.shift == 0


@pytest.mark.parametrize(
    ("splits", "says", "code"),
    [
        ([s for s in SPLITS if s.name != "validation"], "no split validation", "no_split"),
        ([s for s in SPLITS if s.name != "train"], "no split train", "no_split"),
        (
            [Days("train", 3, 18, 0), *SPLITS[1:]],
            "train has 0 frauds and 13829 genuine rows",
            "empty_class",
        ),
        (
            [SPLITS[0], Days("validation", 18, 21, 18), *SPLITS[2:]],
            "validation has 0 frauds",
            "empty_class",
        ),
    ],
)
def test_a_dataset_that_cannot_be_learnt_from_is_refused(
    world, tmp_path: Path, splits, says: str, code: str
) -> None:
    folder = write_dataset(tmp_path / "d", *world, splits)
    with pytest.raises(Rejected, match=says) as refused:
        read_material(folder)
    assert refused.value.code == code
    assert refused.value.fix


def test_another_catalogue_a_changed_file_and_no_dataset_are_refused(world, tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "other", *world, catalogue="0123456789abcdef")
    with pytest.raises(Rejected) as refused:
        read_material(folder)
    assert refused.value.code == "other_catalogue"
    folder = write_dataset(tmp_path / "changed", *world)
    path = folder / "train/part-00000.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(Corrupt, match="not the file that the manifest names"):
        read_material(folder)
    with pytest.raises(Rejected, match="no training set"):
        read_material(tmp_path / "nothing")
