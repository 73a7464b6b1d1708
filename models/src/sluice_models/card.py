"""card.md: what a release is, what it was measured to do, and what it must not be used for."""

# ruff: noqa: E501 - prose

from __future__ import annotations

from sluice.domain.clock import to_datetime
from sluice.domain.features import catalogue
from sluice.domain.release import Provenance

from sluice_models.dataset import TRAINED_ON
from sluice_models.plan import Figures, Findings, TrainingPlan
from sluice_models.tuning import FALSE_POSITIVES_PER_10K

_FIGURES = {
    "auc": "AUC",
    "average_precision": "Average precision",
    "card_precision_100": "Card precision@100",
    "card_precision_100_ceiling": "  its ceiling (perfect foresight)",
    "recall_at_fpr_0_1": "Recall at 0.1 % false positive rate",
    "recall_at_fpr_0_5": "Recall at 0.5 %",
    "recall_at_fpr_1": "Recall at 1 %",
    "expected_to_actual_top": "Expected : actual frauds in the top 0.1 %",
    "euros_at_budget": "Share of fraud's amount in the top 0.5 %",
}


def write_card(name: str, plan: TrainingPlan, made: Provenance, found: Findings) -> str:
    """The card of a release, as Markdown."""
    whole, cold_policy, fallback = found.policy, found.policy_cold, found.fallback
    if whole is None or cold_policy is None or fallback is None:
        raise ValueError("the policy was not measured")
    missing = ", ".join(f"{view} {share:.3f}" for view, share in found.missing.items())
    steps = ", ".join(
        f"{step} {ppm} (at most {FALSE_POSITIVES_PER_10K[step]} in 10,000 genuine)"
        for step, ppm in found.thresholds.items()
    )
    measured = (whole, cold_policy, fallback)
    released = plan.family
    others = [family for family in plan.families if family is not released]
    families = [released, *others]
    tiers = [
        ("The same worlds, later", "later", len(plan.train_worlds)),
        ("Worlds never seen", "elsewhere", len(plan.new_worlds)),
    ]
    columns = " | ".join(family.short for family in families)
    weeks = len(plan.weeks)
    lines = [
        f"# {name}",
        "",
        f"{made.kind}. Trained on **simulated** card traffic ({made.rows:,} authorizations, "
        f"{made.frauds:,} reported frauds, {len(plan.train_worlds)} worlds of {plan.cards:,} cards, "
        f"{plan.fraud_bp:g} frauds in 10,000), {to_datetime(made.trained_from):%Y-%m-%d} to "
        f"{to_datetime(made.trained_until):%Y-%m-%d}. It has never seen a real authorization.",
        "",
        "## For",
        "",
        "The demo, the tests and the benchmarks of Sluice, and as the example of a release. **Not for** "
        "deciding real payments: train on your own history (`docs/how-to/train-a-release.md`).",
        "",
        "## How it was made",
        "",
        f"- Features: {len(TRAINED_ON)} of the {catalogue.N} of the catalogue, all that look back a "
        "bounded time, from the serving kernel. "
        "A column that never varied in training (declines: a history holds none of our own) is muted.",
        "- Split by time: learnt from days 0 to "
        f"{plan.train_until}, with the frauds reported by day {plan.trained_on} (5 % are never reported, "
        "reports take up to 120 days, false claims are in them); thresholds from week "
        f"{plan.tuned_on}-{plan.tuned_on + 7}; judged on {weeks} later weeks, by the truth.",
        f"- Negatives undersampled {', '.join(f'1:{f.negatives} ({f.short})' for f in families)}; the graph takes "
        f"{made.prior_correction_milli / 1000:.3f} off the logit again.",
        "- One row in twenty saw the terminal's view as missing, one the merchant's, one the device's.",
        f"- Seed {made.seed}; data {made.data[:16]}, code {made.code[:16]}.",
        "",
        "## What it does",
        "",
        f"Mean and standard deviation over {weeks} weeks of each world, for each of the seeds of a family "
        f"({', '.join(f'{f.short} {len(f.seeds)}' for f in families)}). "
        "Cards with a fraud reported before the week are left out, as in the Fraud Detection Handbook. "
        f"Base rate {plan.fraud_bp:g} in 10,000; precision figures hold only there.",
        "",
        "| | " + " | ".join(f"{title} ({n}): {columns}" for title, _, n in tiers) + " |",
        "|---" * (1 + len(tiers) * len(families)) + "|",
    ]
    for figure, title in _FIGURES.items():
        cells = [
            _cell(found.figures[f.name][windows], figure)
            for _, windows, _ in tiers
            for f in families
        ]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    cold = [
        f"{f.short} {_cell(found.figures[f.name]['cold'], 'average_precision')} and "
        f"{_cell(found.figures[f.name]['cold'], 'recall_at_fpr_0_5')}"
        for f in families
    ]
    lines += [
        "",
        "In the first week of a new world, when no card has a history yet, average precision and recall at "
        f"0.5 %: {'; '.join(cold)}.",
        "",
        f"Average precision with a view missing, over that with all: {missing}. Tolerated (degradation level D1): "
        f"{', '.join(found.tolerates) or 'none'}.",
        "",
        "## With the default policy",
        "",
        f"Thresholds on the score, ppm: {steps}. On the {weeks} weeks of all "
        f"{len(plan.train_worlds) + len(plan.new_worlds)} worlds, every card included:",
        "",
        "| | model and rules (D0) | the same, first week of a new world | rules and fallback rules (D2) |",
        "|---|---|---|---|",
        _row("frauds stopped, by count", [f"{w.frauds_stopped / w.frauds:.3f}" for w in measured]),
        _row("by amount", [f"{w.stopped_minor / w.fraud_minor:.3f}" for w in measured]),
        _row(
            "genuine stopped, per 10,000 genuine",
            [f"{w.false_positives_per_10k:.1f}" for w in measured],
        ),
        "",
        "Stopped is anything but approve. Rules on their own (frauds / genuine they fired on): "
        + ", ".join(f"{rule} {hit}/{false}" for rule, hit, false in found.rules)
        + ".",
        "",
        "## Known limits",
        "",
        "- The simulator's frauds follow eight patterns; a real adversary does not. Quality on real data is unknown.",
        "- It promises fewer frauds than there are in its highest scores: frauds not reported by the day of training "
        "were trained on as genuine.",
        "- It was trained without declines in the history, so it ignores them.",
        *(f"- {limit}" for limit in released.limits),
        "",
    ]
    return "\n".join(lines)


def _row(title: str, cells: list[str]) -> str:
    return f"| {title} | {' | '.join(cells)} |"


def _cell(figures: Figures, name: str) -> str:
    mean, deviation = figures[name]
    return f"{mean:.3f} ± {deviation:.3f}"
