"""New kinds of fraud from a date on, and what the learning loop makes of them, week by week.

  .venv/bin/python -m benchmarks.drift --work var/drift

Simulates a bank whose frauds change at a date, and goes through the verbs of `sluice_retrain`: a
model of before, and two that were trained later on what was known by then, each from the day on
which the loop would have had it. Beside them one with hindsight: of a twin of the bank (another
seed) that always had the new kinds, with labels that were waited for. Every model is asked for the
same weeks; what it catches within the alert budget is counted by the simulator's truth. Leaves
drift.json and drift.html in benchmarks/results. Steps that are done in --work are not done again.
Needs models/.venv. About half an hour on two free cores, 3 GB.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from html import escape
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.report import Row, machine, result, row, save, table
from sluice.adapters.onnx.trial import TriedGraph
from sluice.adapters.parquet.dataset import read_manifest
from sluice.adapters.parquet.judging import read_graph, read_rows, read_run
from sluice.adapters.report.style import STYLE
from sluice.adapters.report.svg import Chart, linear, round_up, shares
from sluice.application.judging.measures import ALERT_BUDGET

ROOT = Path(__file__).parents[1]
SLUICE, TRAINING = ROOT / ".venv/bin/sluice", ROOT / "models/.venv/bin/sluice"
START = date(2026, 1, 1)
DRIFT = START + timedelta(days=98)
WEEKS_BEFORE, WEEKS_AFTER = 4, 16
RETRAINED = (8, 12)
"""Weeks after the drift at whose end the loop has trained again."""
LEARNT_DAYS = 120
"""Of a training set, as `sluice_retrain` asks for it, with what follows."""
WAIT_DAYS = 7
HELD_WEEKS = 6
"""Between the last row that a model of the loop learns from and its first decision: validation,
calibration, the label delay, two tests and the wait, a week each."""
BEFORE = {"card_testing": 15, "compromised_terminal": 25, "lost_stolen": 10,
          "stolen_card_data": 45, "new_account": 5}  # fmt: skip
SINCE = {"account_takeover": 35, "impossible_travel": 10, "merchant_collusion": 10,
         "low_and_slow": 10, "card_testing": 5, "stolen_card_data": 30}  # fmt: skip
CANDIDATES = ("student", "lightgbm")

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Week:
    """A week's rows, and what the models say of them. scores: by model. minor: amounts."""

    first: date
    fraud: npt.NDArray[np.bool_]
    minor: npt.NDArray[np.int64]
    scores: dict[str, Floats]

    def lost(self) -> int:
        """Amount of all frauds."""
        return int(self.minor[self.fraud].sum())

    def caught(self, model: str) -> int:
        """Amount of the frauds among the highest scores, as many as the alert budget holds."""
        most = int(ALERT_BUDGET * len(self.minor))
        top = np.argsort(-self.scores[model], kind="stable")[:most]
        return int(self.minor[top][self.fraud[top]].sum())


class Story:
    """The bank's folders, and the verbs that fill them."""

    def __init__(self, work: Path, cards: int, fraud_bp: float, train: Sequence[str]) -> None:
        self.work, self.cards, self.fraud_bp, self.train_options = work, cards, fraud_bp, train
        work.mkdir(parents=True, exist_ok=True)

    def bank(self, name: str, seed: int, campaigns: dict[str, int], drift: dict[str, int]) -> None:
        """A history, through a backfill."""
        config = self.work / f"{name}.yaml"
        steps = [{"since": str(DRIFT), "kind": k, "weight": w} for k, w in drift.items()]
        config.write_bytes(  # JSON is YAML
            msgspec.json.encode({"cards": self.cards, "fraud_bp": self.fraud_bp,
                                 "campaigns": campaigns, "drift": steps})
        )  # fmt: skip
        history, archive = self.work / name / "history", self.work / name / "archive"
        days = (DRIFT - START).days + 7 * WEEKS_AFTER
        if not (history / "world.json").exists():
            _run(SLUICE, "simulate", "history", "--config", config, "--out", history,
                 "--start", START, "--days", days, "--seed", seed)  # fmt: skip
        if not archive.exists():
            _run(SLUICE, "backfill", history / "authorizations.parquet", "--no-store",
                 "--labels", history / "labels.parquet", "--archive", archive)  # fmt: skip

    def dataset(self, bank: str, name: str, first: date, until: date, *more: object) -> Path:
        """A training set."""
        out = self.work / "sets" / name
        if not (out / "manifest.json").exists():
            _run(SLUICE, "dataset", "build", "--archive", self.work / bank / "archive",
                 "--from", first, "--to", until, "--out", out, *more)  # fmt: skip
        return out

    def model(self, bank: str, name: str, until: date, delay: str, like: str = "") -> Path:
        """A run on a training set as the DAG builds it, which ends at ``until``."""
        first = max(START + timedelta(days=7), until - timedelta(days=LEARNT_DAYS))
        dataset = self.dataset(
            bank, name, first, until, "--label-delay", delay, "--recent", "--validation", "7d",
            "--calibration", "7d", "--tests", 2,
        )  # fmt: skip
        out = self.work / "runs" / name
        if not (out / "run.json").exists():
            given = ("--like", self.work / "runs" / like) if like else ()
            _run(TRAINING, "train", "--dataset", dataset, "--out", out, "--tracking", "none",
                 *self.train_options, *given)  # fmt: skip
        return out


def main() -> int:
    """Returns 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drift", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("var/drift"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--cards", type=int, default=4_000)
    parser.add_argument("--fraud-bp", type=float, default=40.0)
    parser.add_argument("--train", default="--time-box 0s --trials 1", help="options of train")
    args = parser.parse_args()
    about = machine()
    story = Story(args.work, args.cards, args.fraud_bp, shlex.split(args.train))
    story.bank("bank", 31, BEFORE, SINCE)
    story.bank("twin", 32, BEFORE | SINCE, {})
    end = DRIFT + timedelta(weeks=WEEKS_AFTER)
    wait = timedelta(days=WAIT_DAYS)
    runs = {"before": story.model("bank", "before", DRIFT - timedelta(weeks=4) - wait, "7d")}
    for later in RETRAINED:
        name = f"after-{later}"
        until = DRIFT + timedelta(weeks=later) - wait
        runs[name] = story.model("bank", name, until, "7d", like="before")
    runs["hindsight"] = story.model("twin", "hindsight", end, "30d", like="before")
    rows, weeks = _measured(story, runs)
    page = args.out / "drift.html"
    again = "python -m benchmarks.drift"
    found = result("drift", again, about, rows, _notes(args.cards, args.fraud_bp))
    save(args.out, found)
    page.write_text(_page(weeks, found.rows, found.notes))
    print(table(found))
    print(page)
    return 0


def _notes(cards: int, fraud_bp: float) -> list[str]:
    return [
        f"{cards:,} simulated cards, {fraud_bp:g} frauds in 10,000 before the drift of {DRIFT}; "
        "then account takeover, impossible travel, collusion and low-and-slow tries begin, and "
        "card testing and stolen card data get fewer.",
        f"The loop's models are of training sets that end {WAIT_DAYS} days before "
        f"{' and '.join(str(DRIFT + timedelta(weeks=w)) for w in RETRAINED)}, as sluice_retrain "
        f"builds them: what a model learnt from ends {HELD_WEEKS} weeks before it decides "
        "(validation, calibration, label delay, two tests and the wait), so its frauds of the new "
        f"kinds are those of {' and '.join(str(w - HELD_WEEKS) for w in RETRAINED)} weeks.",
        "Hindsight: a twin of the bank by another seed that had the new kinds from its first day, "
        "learnt with labels waited for 30 days.",
        f"Caught: within the {ALERT_BUDGET:.1%} highest scores of each week, by the truth.",
    ]


def loop_at(week: int) -> str:
    """The loop's model in a week after the drift (0 is the first).

    >>> [loop_at(w) for w in (-1, 7, 8, 12)]
    ['before', 'before', 'after-8', 'after-12']
    """
    return next((f"after-{n}" for n in reversed(RETRAINED) if week >= n), "before")


def _measured(story: Story, runs: dict[str, Path]) -> tuple[list[Row], list[tuple[int, Week]]]:
    first = DRIFT - timedelta(weeks=WEEKS_BEFORE)
    end = DRIFT + timedelta(weeks=WEEKS_AFTER)
    dataset = story.dataset(
        "bank", "weeks", first - timedelta(days=28), end, "--label-delay", "7d",
        "--tests", WEEKS_BEFORE + WEEKS_AFTER,
    )  # fmt: skip
    truth = pq.read_table(story.work / "bank/history/truth.parquet")
    frauds = set(truth.filter(pc.field("is_fraud"))["authorization_id"].to_pylist())
    graphs = {
        f"{name}/{one}": TriedGraph(read_graph(folder, read_run(folder).candidate(one)))
        for name, folder in runs.items()
        for one in CANDIDATES
    }
    weeks: list[tuple[int, Week]] = []
    for i, split in enumerate(read_manifest(dataset).tests):
        rows = read_rows(dataset, split.name)
        scores = {
            name: graph.predict(rows.features[:, [rows.names.index(c) for c in graph.columns]])
            for name, graph in graphs.items()
        }
        fraud = np.array([one in frauds for one in rows.ids.tolist()])
        number = i - WEEKS_BEFORE
        week = Week(DRIFT + timedelta(weeks=number), fraud, rows.window.amount_minor, scores)
        weeks.append((number, week))
    spans = {
        "4 weeks before the drift": range(-WEEKS_BEFORE, 0),
        f"weeks 1 to {RETRAINED[0]} after it": range(RETRAINED[0]),
        f"weeks {RETRAINED[0] + 1} to {RETRAINED[1]}": range(*RETRAINED),
        f"weeks {RETRAINED[1] + 1} to {WEEKS_AFTER}": range(RETRAINED[1], WEEKS_AFTER),
    }
    found = []
    for one in CANDIDATES:
        for title, span in spans.items():
            among = [(n, w) for n, w in weeks if n in span]
            lost = sum(w.lost() for _, w in among)
            of = {
                "not retrained": sum(w.caught(f"before/{one}") for _, w in among),
                "the loop": sum(w.caught(f"{loop_at(n)}/{one}") for n, w in among),
                "hindsight": sum(w.caught(f"hindsight/{one}") for _, w in among),
            }
            for who, caught in of.items():
                found.append(row(f"{one}, {title}: {who}", "% of the amount", 100 * caught / lost))
        found.append(
            row(
                f"{one}, last weeks: the loop's amount over hindsight's",
                "%",
                100 * of["the loop"] / max(1, of["hindsight"]),
                target=">= 97",
            )
        )
    return found, weeks


def _page(weeks: Sequence[tuple[int, Week]], rows: Sequence[Row], notes: Sequence[str]) -> str:
    parts = [_drawn(weeks, one) for one in CANDIDATES]
    body = "".join(
        f"<tr><th>{escape(r.name)}</th><td>{r.value:g} {escape(r.unit)}</td>"
        f"<td>{escape(r.target)}</td></tr>"
        for r in rows
    )
    told = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Drift and the loop</title><style>{STYLE}</style></head><body><main>"
        "<h1>Fraud that changes, and a loop that learns</h1>"
        f"{told}{''.join(parts)}<section><h2>In figures</h2><table>"
        f"<tr><th></th><th>found</th><th>target</th></tr>{body}</table></section></main></body></html>\n"
    )


def _drawn(weeks: Sequence[tuple[int, Week]], one: str) -> str:
    at = [n for n, _ in weeks]
    top = round_up(max(week.lost() for _, week in weeks) / 100)
    along = linear(at[0] - 0.3, at[-1] + 0.3)
    ticks = [(n, f"{week.first:%m-%d}") for n, week in weeks if n % 2 == 0]
    euros = Chart(along, linear(0, top), ticks, [(top * k / 4, f"{top * k / 4:,.0f}")
                  for k in range(5)], "week, by its first day", "EUR a week",
                  "amount caught a week")  # fmt: skip
    share = Chart(along, linear(0, 1), ticks, shares(), "week, by its first day",
                  "of fraud's amount", "share of the amount caught")  # fmt: skip
    euros.rule([(n, week.lost() / 100) for n, week in weeks])
    for chart, high in ((euros, top), (share, 1.0)):
        for moment in (0, *RETRAINED):
            chart.rule([(moment - 0.5, 0), (moment - 0.5, high)])
    lines = {
        "not retrained": [w.caught(f"before/{one}") for _, w in weeks],
        "the loop": [w.caught(f"{loop_at(n)}/{one}") for n, w in weeks],
        "hindsight": [w.caught(f"hindsight/{one}") for _, w in weeks],
    }
    lost = [max(1, week.lost()) for _, week in weeks]
    for colour, caught in zip((4, 0, 2), lines.values(), strict=True):
        euros.line(at, [c / 100 for c in caught], colour, dashed=colour == 2)
        share.line(at, [c / whole for c, whole in zip(caught, lost, strict=True)], colour,
                   dashed=colour == 2)  # fmt: skip
    key = "".join(
        f'<span class="key"><i class="b c{colour}"></i>{name}</span>'
        for colour, name in zip((4, 0, 2), lines, strict=True)
    )
    return (
        f"<section><h2>{one}</h2><p class='legend'>{key}</p><div class='grid'>"
        f"<figure><figcaption><b>Fraud's amount caught, week by week</b> the grey line is all of "
        "it; upright: the drift, and each model of the loop that came after</figcaption>"
        f"{euros.svg()}</figure>"
        f"<figure><figcaption><b>Share of it</b></figcaption>{share.svg()}</figure>"
        "</div></section>"
    )


def _run(*words: object) -> None:
    told = [str(word) for word in words]
    print("$", shlex.join(told), flush=True)
    subprocess.run(told, check=True, cwd=ROOT)


if __name__ == "__main__":
    raise SystemExit(main())
