"""The capacity model: each unit cost is a published figure, and the plan follows from them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from sluice.adapters.kafka.topics import TABLE
from sluice.application.sizing.model import (
    FEW_PER_S,
    FOLLOWERS,
    PARTITIONS_PLANNED_MAX,
    SERVICES,
    STATE_SOURCES_MAX,
    Load,
    between,
    cores,
    full_cores,
    pods_of,
    size,
    state_bytes,
    store_bytes,
)
from sluice.cli import main
from sluice.cli.size import prices, unit_costs
from sluice.domain.features.cardstate import SOURCES_MAX

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/explanation/features-and-states.md"
COSTS, PRICES = unit_costs(), prices()
BANK = Load(tps=20_000, cards=50e6, terminals=2e6)
ASKED = ["size", "--tps", "20000", "--cards", "50e6", "--terminals", "2e6"]


@pytest.mark.parametrize("name", COSTS.costs)
def test_a_unit_cost_is_the_figure_of_its_published_result(name: str) -> None:
    cost = COSTS.costs[name]
    published = msgspec.json.decode((ROOT / f"benchmarks/results/{cost.result}.json").read_bytes())
    rows = {row["name"]: row for row in published["rows"]}
    assert (rows[cost.row]["value"], rows[cost.row]["unit"]) == (cost.value, cost.unit)
    assert published["date"].startswith(cost.date)


def test_bytes_of_states_stand_on_the_page_that_publishes_them() -> None:
    text = PAGE.read_text()
    for entity, points in COSTS.states.items():
        for per_day, size_bytes in points:
            assert f"| {entity} | {per_day:,g} | {size_bytes:,g} |" in text, (entity, per_day)


def test_topics_are_planned_with_the_retention_that_they_get() -> None:
    kept = {one.name.removesuffix(".v1"): one.retention_days for one in TABLE}
    assert {name: kept[name] for name in COSTS.retention_days} == COSTS.retention_days


def test_between_two_measured_rates_a_state_is_between_their_sizes() -> None:
    points = COSTS.states["card"]
    assert between(points, 0.01) == 359
    assert 359 < between(points, 1) < 1275
    assert between(points, 500) == 1403


@pytest.mark.parametrize("entity", ["card", "terminal", "merchant"])
def test_states_of_a_few_busy_and_many_quiet_ones_take_less_than_all_at_their_mean(
    entity: str,
) -> None:
    points = [(1.0, 200.0), (100.0, 400.0)]
    rates = [1.0, 1.0, 1.0, 100.0]
    mean = sum(rates) / 4
    name = f"{entity}_skew"
    uneven = msgspec.structs.replace(COSTS.costs[name], value=math.prod(rates) ** 0.25 / mean)
    costs = msgspec.structs.replace(
        COSTS,
        states={"card": points, "terminal": points[:1], "merchant": points[1:]},
        costs={**COSTS.costs, name: uneven},
    )
    of_each = sum(between(points, rate) for rate in rates) / 4
    assert state_bytes(costs, entity, mean) == pytest.approx(of_each) == 250
    assert between(points, mean) > 1.3 * of_each


PARTS = {**SERVICES, "store": "store", "brokers": "broker"}
ENTRYPOINTS = {"stream": "stream processor", "sync": "sync API"}


def a_decision_us(load: Load, pods: Mapping[str, float]) -> dict[str, float]:
    """What a part spends on each decision."""
    return {part: 1e6 * need / load.tps for part, need in cores(load, COSTS, pods).items()}


@pytest.mark.parametrize("entry", ENTRYPOINTS)
def test_one_pod_of_each_costs_what_was_measured_at_few_a_second(entry: str) -> None:
    pods = dict.fromkeys((ENTRYPOINTS[entry], *FOLLOWERS), 1.0)
    load = Load(
        tps=FEW_PER_S[entry], cards=1, terminals=1, sync_share=float(entry == "sync"), replicas=1
    )
    found = a_decision_us(load, pods)
    for part in (*pods, "store", "brokers"):
        measured = COSTS.of(f"{PARTS[part]}_few_{entry}_us")
        assert found.pop(part) == pytest.approx(measured), part
    assert sum(found.values()) == 0, "the other entrypoint"


@pytest.mark.parametrize("sync_share", [0, 0.25, 1])
def test_pods_without_time_to_spare_work_in_full_batches(sync_share: float) -> None:
    load = Load(tps=20_000, cards=1, terminals=1, sync_share=sync_share, replicas=3)
    found = a_decision_us(load, full_cores(load, COSTS))
    shares = {"sync API": sync_share, "stream processor": 1 - sync_share, "brokers": 3}
    for part, name in PARTS.items():
        assert found[part] == pytest.approx(shares.get(part, 1) * COSTS.of(f"{name}_cpu_us")), part


def test_a_plan_has_room_for_what_it_was_asked_for() -> None:
    for scale in (0.01, 1, 3, 20):
        load = msgspec.structs.replace(BANK, tps=BANK.tps * scale, cards=BANK.cards * scale)
        plan = {line.part: line.count for line in size(load, COSTS, PRICES).lines}
        need = cores(load, COSTS, pods_of(load, COSTS))
        for part in ("featurizer", "archiver", "auditor"):
            assert plan[part] >= full_cores(load, COSTS)[part] / load.utilisation
            assert plan["partitions"] >= plan[part]
        primaries = plan["store"] / 2
        held = sum(store_bytes(load, COSTS).values())
        assert primaries * PRICES.store.memory_gib * 2**30 > held
        assert primaries >= need["store"] / load.utilisation


def test_the_first_wall_is_the_one_that_is_nearest_and_walls_grow_with_the_load() -> None:
    walls = size(BANK, COSTS, PRICES).walls
    nearest = [wall.shares[0] for wall in walls]
    assert nearest == sorted(nearest, reverse=True)
    for wall in walls:
        assert wall.shares[-1] == pytest.approx(10 * wall.shares[0])
    assert PARTITIONS_PLANNED_MAX == 31
    assert STATE_SOURCES_MAX == SOURCES_MAX


def test_the_verb_fits_a_terminal_and_says_what_its_prices_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(ASKED) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "from memory, to be checked" in shown
    assert re.search(r"total +[\d,]+ EUR", shown)


def test_a_firms_own_prices_change_the_euros_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = (ROOT / "src/sluice/application/sizing/prices.yaml").read_text()
    file = tmp_path / "prices.yaml"
    file.write_text(own.replace("eur_hour: 0.18", "eur_hour: 1.8"))
    answers = []
    for more in ([], ["--prices", str(file)]):
        assert main([*ASKED, "--json", *more]) == 0
        answers.append(msgspec.json.decode(capsys.readouterr().out))
    ours, theirs = answers
    assert ours["plan"]["lines"] == theirs["plan"]["lines"]
    assert theirs["total_eur"] > ours["total_eur"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--tps", "0"], "tps"),
        (["--cards", "many"], "cards"),
        (["--average", "1.5"], "average"),
        (["--prices", "/nowhere/prices.yaml"], "/nowhere/prices.yaml"),
    ],
)
def test_what_cannot_be_sized_is_said(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*ASKED, *words]) != 0
    assert says in capsys.readouterr().err


def test_a_file_of_prices_that_lacks_one_is_named_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text("region: here\n")
    assert main([*ASKED, "--prices", str(tmp_path / "mine.yaml")]) != 0
    error = capsys.readouterr().err
    assert "mine.yaml" in error
    assert "says" in error
