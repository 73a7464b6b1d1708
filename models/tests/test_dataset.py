import numpy as np
import pytest
from conftest import PLAN
from sluice.domain.features import catalogue
from sluice.domain.features.events import event_row, event_rows
from sluice.domain.features.kernel import Kernel
from sluice.domain.policy.fx import Fx
from sluice.testing.factories import make_authorization

from sluice_models import dataset
from sluice_models.train import Material


def test_a_report_is_a_label_only_from_the_time_it_is_known(material: Material) -> None:
    table = material.later.tables[0]
    reported = table.known_us < dataset.NEVER_KNOWN
    assert reported.any()
    first = int(table.known_us[reported].min())
    assert not table.reported(first - 1).any()
    assert table.reported(first).any()
    assert (table.known_us[reported] > table.event_us[reported]).all()


def test_a_week_holds_its_own_rows_and_no_others(material: Material) -> None:
    table = material.later.tables[0]
    first = PLAN.at(PLAN.weeks[0])
    assert table.event_us.min() >= first
    assert table.event_us.max() < first + 7 * 86_400_000_000
    assert len(table.fraud) > 1000


def test_cards_known_to_be_compromised_are_left_out(material: Material) -> None:
    windows = material.later
    table, clean = windows.tables[0], windows.untainted[0]
    start = PLAN.at(PLAN.weeks[0])
    frauds = table.features[:, catalogue.INDEX["card_frauds_reported"]] > 0
    assert frauds.any()
    seen = table.card[frauds & (table.event_us < start + 3_600_000_000)]
    assert not set(seen.tolist()) & set(table.card[clean].tolist())


def test_all_positives_are_kept_and_the_shift_undoes_the_rest() -> None:
    rng = np.random.default_rng(1)
    label = rng.random(10_000) < 0.01
    chosen = dataset.undersample(label, 10, rng)
    assert label[chosen].sum() == label.sum()
    assert (~label[chosen]).sum() == 10 * label.sum()
    odds = label.sum() / (~label).sum()
    sampled = label[chosen].sum() / (~label[chosen]).sum()
    assert np.log(sampled) - dataset.prior_shift(label, chosen) == pytest.approx(np.log(odds))


def test_what_is_trained_on_as_missing_is_what_is_served_as_missing(
    material: Material, fx: Fx
) -> None:
    table = material.later.tables[0].rows(np.arange(40))
    kernel = Kernel()
    history = table.history
    for view in ("terminal", "merchant", "device"):
        trained_on = table.without(view, fx)
        mine = [i for i, f in enumerate(catalogue.FEATURES) if f.entity == view]
        rest = [i for i in range(catalogue.N) if i not in mine]
        assert (trained_on[:, rest] == table.features[:, rest]).all()
        for i in range(len(trained_on)):
            device = int(history.device_id.codes[i])
            auth = make_authorization(
                event_at=int(history.event_at[i]),
                amount_minor=int(table.amount_minor[i]),
                currency="EUR",
                device_id=None if device < 0 else f"d{device}",
            )
            states = [None if v == view else b"" for v in catalogue.VIEWS]
            events = event_rows([event_row(auth, auth.amount_minor)])
            found = kernel.finalise(events, [tuple(states)], [()])
            assert found.features[0, mine].tolist() == trained_on[i, mine].tolist()


def test_the_same_world_is_not_made_twice(material: Material, tmp_path) -> None:
    plan = {"seed": 5, "cards": 200, "days": 2, "start": PLAN.start, "bp": 50.0}
    dataset.simulate(tmp_path, **plan)
    made = (tmp_path / "world.json").stat().st_mtime_ns
    dataset.simulate(tmp_path, **plan)
    assert (tmp_path / "world.json").stat().st_mtime_ns == made
    before = dataset.digest(tmp_path)
    dataset.simulate(tmp_path, **(plan | {"seed": 6}))
    assert dataset.digest(tmp_path) != before
