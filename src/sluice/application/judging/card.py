"""card.md: what a release is, what it was measured to do, and what it must not be used for."""

# ruff: noqa: E501 - prose

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sluice.application.judging.judgement import Figure, Judgement, ModelJudgement
from sluice.application.judging.verdict import Verdict
from sluice.domain.clock import to_datetime
from sluice.domain.release import Provenance
from sluice.shown import shown

FIGURES = {
    "auc": "AUC",
    "average_precision": "Average precision",
    "card_precision_100_handbook": "Card precision@100, as the Handbook counts",
    "card_precision_100": "Card precision@100, each day by itself",
    "recall_at_fpr_0_1": "Recall at 0.1 % false positives",
    "recall_at_fpr_0_5": "Recall at 0.5 %",
    "recall_at_fpr_1": "Recall at 1 %",
    "euros_at_budget": "Share of fraud's amount in the top 0.5 %",
    "expected_to_actual": "Expected : actual frauds",
    "expected_to_actual_top": "Expected : actual in the top 0.1 %",
    "ece": "Calibration error (ECE)",
    "log_loss": "Log-loss",
}
WEAKEST = 5
"""Segments that are named."""
FRAUDS_MIN = 20
"""Of a segment that is named."""


class About(NamedTuple):
    """What a card says that nobody can measure. use, limits: Markdown of the maker's, "" for ours.
    approvals: who approved it, in words."""

    use: str = ""
    limits: str = ""
    approvals: Sequence[str] = ()


class Measured(NamedTuple):
    """A judgement, and the name that the model has in it."""

    judgement: Judgement
    model: str

    @property
    def found(self) -> ModelJudgement:
        """Of the model."""
        return self.judgement.model(self.model)


def write_card(
    name: str,
    made: Provenance,
    *,
    features: int,
    measured: Sequence[Measured],
    verdict: Verdict | None,
    about: About,
) -> str:
    """The card of a release, as Markdown. measured: the first is of its own training set, the
    others are of other ones."""
    lines = [
        f"# {name}",
        "",
        f"{shown(made.kind)}. Trained on {made.rows:,} authorizations with {made.frauds:,} known frauds, "
        f"{_day(made.trained_from)} to {_day(made.trained_until)}.",
        "",
        "## For",
        "",
        about.use.strip()
        or "Deciding authorizations of the population that its training set is of, beside a policy pack. "
        "**Not for** another one; a decider says when it meets one.",
        "",
        "## How it was made",
        "",
        f"- {features} features, finalised by the serving kernel; labels as they were known on the day of training.",
        f"- {made.prior_correction_milli / 1000:.3f} is taken off the logit in the graph for the negatives that were left out.",
        f"- Seed {made.seed}; training set {made.data[:16]}, code {made.code[:16]}.",
        "",
        "## What it does",
        "",
        *_figures(measured),
        *_weakest(measured),
        "## Gate",
        "",
        *_gate(verdict),
        "## Known limits",
        "",
        *_limits(measured),
        *([about.limits.strip()] if about.limits.strip() else []),
        "",
        "## Approvals",
        "",
        *([f"- {shown(who)}" for who in about.approvals] or ["None yet."]),
        "",
    ]
    return "\n".join(lines)


def _figures(measured: Sequence[Measured]) -> list[str]:
    if not measured:
        return ["Not measured.", ""]
    heads = [
        f"{shown(m.judgement.title)}: {sum(t.frauds for t in m.judgement.tests):,} frauds in "
        f"{sum(t.rows for t in m.judgement.tests):,}"
        for m in measured
    ]
    lines = [
        "Mean ± standard deviation over tests and seeds. Cards with a fraud known before are left out of a day, as in the "
        "Fraud Detection Handbook; precision holds only at the base rate of the column.",
        "",
        f"| | {' | '.join(head.replace('|', '/') for head in heads)} |",
        "|---" * (1 + len(measured)) + "|",
    ]
    for name, title in FIGURES.items():
        cells = " | ".join(_cell(m.found.naive.get(name)) for m in measured)
        lines.append(f"| {title} | {cells} |")
    first = measured[0].found
    if (late := first.corrected.get("average_precision")) and late.mean is not None:
        told = first.corrected["expected_to_actual"]
        lines += [
            "",
            f"With the frauds that were not reported yet made up for: average precision {_cell(late)}, "
            f"expected : actual {_cell(told)}.",
        ]
    if first.delays:
        parts = [
            f"{days} d {_cell(figures['average_precision'])}"
            for days, figures in first.delays.items()
        ]
        lines += [
            "",
            f"Average precision by what is known so long after a test: {', '.join(parts)}.",
        ]
    if first.costed:
        c = first.costed
        lines += [
            "",
            f"Thresholds by cost: {', '.join(f'{s} {p}' for s, p in c.thresholds_ppm.items()) or 'none pays'} ppm. "
            f"They stop {c.frauds_stopped:.1%} of frauds, {c.euros_stopped:.1%} of their amount and "
            f"{c.stopped_per_10k:.1f} of 10,000 genuine.",
        ]
    if first.policy:
        p = first.policy
        lines += [
            "",
            f"With the policy pack {shown(p.policy)}: {p.stopped:.1%} of frauds stopped, {p.euros:.1%} of their amount, "
            f"{p.stopped_per_10k:.1f} of 10,000 genuine; by its rules alone (D2) {p.fallback_stopped:.1%}, "
            f"{p.fallback_euros:.1%}, {p.fallback_stopped_per_10k:.1f}.",
        ]
    return [*lines, ""]


def _weakest(measured: Sequence[Measured]) -> list[str]:
    if not measured:
        return []
    kept = [
        s for s in measured[0].found.segments if s.frauds >= FRAUDS_MIN and s.recall is not None
    ]
    worst = sorted(kept, key=lambda s: s.recall or 0.0)[:WEAKEST]
    if not worst:
        return []
    told = ", ".join(f"{s.by} {shown(s.name)} {s.recall:.0%} of {s.frauds}" for s in worst)
    return [f"Where it finds least, recall within the alert budget: {told}.", ""]


def _gate(verdict: Verdict | None) -> list[str]:
    if verdict is None:
        return ["It has not passed the gate: no certificate.", ""]
    beside = (
        f"beside `{verdict.champion}` ({verdict.champion_model[:12]})"
        if verdict.champion
        else "without a champion beside it"
    )
    lines = [
        f"Accepted {beside}, on {verdict.rows:,} authorizations with {verdict.frauds:,} frauds."
    ]
    lines += [f"- {c.reason.replace('_', ' ')}: {c.found}" for c in verdict.checks]
    return [*lines, ""]


def _limits(measured: Sequence[Measured]) -> list[str]:
    if not measured:
        return ["- Its quality is unknown."]
    own, *others = measured
    lines = [
        "- What is measured holds for days like those of its tests: fraud changes, and a fraud that nobody reports is "
        "genuine to it."
    ]
    ours = own.found.naive["average_precision"].mean
    for other in others:
        theirs = other.found.naive["average_precision"].mean
        if ours and theirs is not None:
            lines.append(
                f"- On {shown(other.judgement.title)}, which it was not trained on, its average precision is "
                f"{theirs:.3f} instead of {ours:.3f}."
            )
    return lines


def _cell(figure: Figure | None) -> str:
    if figure is None or figure.mean is None:
        return "-"
    return f"{figure.mean:.3f}" + (f" ± {figure.deviation:.3f}" if figure.windows > 1 else "")


def _day(moment_us: int) -> str:
    return f"{to_datetime(moment_us):%Y-%m-%d}"
