"""The Handbook's protocol by the verbs alone: models trained anew for each of four test weeks.

  models/.venv/bin/python -m benchmarks.protocol FILE [--mapping handbook] [--labels MAPPING]

FILE is the Fraud Detection Handbook's table, or any that the mappings fit. A label delay lies
between a training set and its test week, whose compromised cards are left out (chapter 5 of the
book). Goes through backfill, dataset build --per-test, train (parameters are the first week's, by
its validation), judge and gate in --work, where a step that is done is not done again; --work of
benchmarks.planted has the same archive. Then times the graphs of each week in turn. Leaves
protocol.json in benchmarks/results: means over the weeks. Half an hour and 4 GB on one free core.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sluice_models.material import read_material
from sluice_models.run import Timing, read_model, read_run
from sluice_models.serving import PAD, Graph, timed

from benchmarks.bank import Bank, arguments
from benchmarks.report import Row, machine, result, row, save
from sluice.application.dataset_manifest import VALIDATION
from sluice.application.judging.judgement import Judgement
from sluice.application.judging.verdict import Verdict

FIGURES = {
    "auc": "AUC",
    "average_precision": "average precision",
    "card_precision_100_handbook": "card precision@100, as the Handbook counts",
    "recall_at_fpr_0_1": "recall at 0.1 % false positives",
    "recall_at_fpr_0_5": "recall at 0.5 % false positives",
    "recall_at_fpr_1": "recall at 1 % false positives",
    "euros_at_budget": "fraud's amount within the 0.5 % alerted",
    "expected_to_actual": "expected : actual frauds",
}
TARGETS = {
    ("lightgbm", "average_precision"): ">= .74; published best .687",
    ("student", "average_precision"): ">= .735; published best .687",
    ("student", "card_precision_100_handbook"): ">= .310; published best .303",
}
ROUNDS = 3
"""Of timing all graphs, the median counts."""
TIMED_ROWS = 512


class Week(NamedTuple):
    """One test week. rows: of its test. took: each candidate's calls, of every round."""

    name: str
    judgement: Judgement
    verdict: Verdict
    took: list[dict[str, list[Timing]]]

    def figure(self, model: str, figure: str) -> float:
        """Of the week's test."""
        found = self.judgement.model(model).naive[figure].mean
        return float("nan") if found is None else found

    def us(self, model: str, rows: int) -> float:
        """Of one call."""
        return float(np.median([
            timing.median_us
            for one in self.took
            for timing in one[model]
            if timing.batch == rows
        ]))  # fmt: skip


def measured(bank: Bank, name: str, dataset: Path, run: Path) -> Week:
    """Judge a week's run, and ask the gate what eight bits change."""
    judgement = bank.judge(name, run, dataset)
    verdict = bank.gate(name, run, dataset, "--candidate", "student")
    return Week(name, judgement, verdict, [])


def time_all(weeks: Sequence[Week], runs: Sequence[Path], sets: Sequence[Path]) -> None:
    """Calls of each week's graphs, on rows of its validation split."""
    for week, trained, dataset in zip(weeks, runs, sets, strict=True):
        material, run = read_material(dataset), read_run(trained)
        rows = material.rows(VALIDATION)
        some = np.linspace(0, len(rows.fraud) - 1, TIMED_ROWS).astype(np.int64)
        graphs = {str(one.name): Graph(read_model(trained, one)) for one in run.candidates}

        past = material.timeline.past(rows.place[some])
        week.took.extend(
            timed(graphs, rows.features[some], past.__getitem__, (1, PAD, 512))
            for _ in range(ROUNDS)
        )


def rows_of(weeks: Sequence[Week]) -> Iterator[Row]:
    """Means over the weeks."""
    models = [model.name for model in weeks[0].judgement.models]
    for model in models:
        for figure, words in FIGURES.items():
            found = [week.figure(model, figure) for week in weeks]
            yield row(f"{model}: {words}", f"mean of {len(weeks)} weeks", float(np.mean(found)),
                      target=TARGETS.get((model, figure), ""))  # fmt: skip
        found = [week.figure(model, "average_precision") for week in weeks]
        yield row(f"{model}: average precision, deviation", "over the weeks",
                  float(np.std(found, ddof=1)))  # fmt: skip

    def mean(each: Sequence[float]) -> float:
        return float(np.mean(each))

    yield row("student below its teacher", "average precision", mean([
        week.figure("teacher", "average_precision") - week.figure("student", "average_precision")
        for week in weeks
    ]), target="<= .01")  # fmt: skip
    flips = [week.verdict.int8_flips for week in weeks]
    yield row("int8: changed decisions", "of 100,000",
              mean([one.per_100k for one in flips if one]), target="<= 10")  # fmt: skip
    for model in ("student", "student_int8"):
        for rows, words in ((1, "one row"), (PAD, "one row, padded as a decider does")):
            yield row(f"{model}: {words}", "times as fast as the teacher", mean([
                week.us("teacher", rows) / week.us(model, rows) for week in weeks
            ]), target=">= 5")  # fmt: skip
    yield row("int8: throughput of 512 rows", "times fp32's", mean([
        week.us("student", 512) / week.us("student_int8", 512) for week in weeks
    ]), target=">= 1.3")  # fmt: skip
    for model in models:
        for rows in (1, PAD, 512):
            yield row(f"{model}: a call of {rows}", "µs", mean([w.us(model, rows) for w in weeks]))


def told(week: Week) -> str:
    """A week in one line."""
    precision = ", ".join(
        f"{model.name} {week.figure(model.name, 'average_precision'):.4f}"
        for model in week.judgement.models
    )
    flips = week.verdict.int8_flips
    return (
        f"{week.name}: {week.verdict.rows} rows, {week.verdict.frauds} frauds; average precision "
        f"{precision}; int8 changes {flips.per_100k if flips else float('nan'):.1f} of 100,000; "
        f"gate: {'accepted' if week.verdict.accepted else ', '.join(week.verdict.reasons)}"
    )


def main() -> int:
    """Returns 0."""
    args = arguments("protocol", __doc__, "var/protocol").parse_args()
    about = machine()
    bank = Bank(args)
    bank.backfill(bank.archive, args.labels)
    folder = bank.dataset("weeks", bank.archive, "--per-test")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    sets = [folder / name for name in names]
    first = bank.train(names[0], sets[0])
    with ThreadPoolExecutor(args.at_once) as pool:
        others = pool.map(lambda name: bank.train(name, folder / name, first), names[1:])
        runs = [first, *others]
        weeks = list(pool.map(measured, itertools.repeat(bank), names, sets, runs))
    time_all(weeks, runs, sets)
    rows = list(rows_of(weeks))
    notes = [f"{args.first} to {args.until}; sluice train {args.train}", *map(told, weeks)]
    found = result("protocol", f"models/.venv/bin/python -m benchmarks.protocol {args.file.name}",
                   about, rows, notes)  # fmt: skip
    save(args.out, found)
    for one in rows:
        print(f"{one.name:<64} {one.value:g} {one.unit}  {one.target}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
