"""Judge models on the test weeks of a training set: every figure, by window, segment and delay.

Pure: rows and scores in, a :class:`Judgement` out, which is written as JSON and drawn as a page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from sluice.application.judging import measures
from sluice.application.judging.judgement import (
    Costed,
    Example,
    Facts,
    Figure,
    Judgement,
    ModelJudgement,
    Points,
    PolicyWorth,
    Said,
    Segment,
    Signal,
    Week,
    number,
)
from sluice.application.judging.measures import (
    ALERT_BUDGET,
    Bools,
    Floats,
    Ints,
    Window,
)
from sluice.application.judging.rows import Rows, corrected
from sluice.application.judging.thresholds import Chosen, Costs, by_cost, cost_of, severity
from sluice.domain.clock import DAY_US, to_datetime
from sluice.domain.features import catalogue
from sluice.domain.policy.economics import worth
from sluice.domain.policy.policy import D2, Policy
from sluice.domain.records.currencies import EXPONENTS
from sluice.errors import Corrupt, Rejected

DELAYS_DAYS = (1, 7, 14, 30)
"""After the end of a test, when it is judged: by what was known then."""
NEW_CARD_S = 7 * 86_400
AMOUNT_BANDS = (10, 50, 200, 500)
"""Upper ends in whole units of the reference currency; the last band has none."""
SEGMENT_ROWS = 200
"""A smaller segment is left out: its figures would be noise."""
EXAMPLES = 6
EXAMPLE_FEATURES = 4
SIGNAL_ROWS = 60_000
"""Of which each feature on its own is measured; all frauds are among them."""


@dataclass(frozen=True)
class Scored:
    """A model and its scores: by split, one array for each seed."""

    name: str
    kind: str
    source: str
    scores: Mapping[str, Sequence[Floats]]


@dataclass(frozen=True)
class Material:
    """What judges. tests: in order of time. tuning: where thresholds are found, if there is a
    split for it. campaigns: of authorizations by id, where the truth is simulated."""

    title: str
    dataset: str
    runs: Sequence[str]
    currency: str
    label_delay_s: int
    tests: Sequence[Rows]
    tuning: Rows | None = None
    campaigns: Mapping[str, str] | None = None
    policy: Policy | None = None
    costs: Costs = field(default_factory=Costs)


def judge(material: Material, models: Sequence[Scored]) -> Judgement:
    """Every figure of every model. Raises Rejected for tests without frauds or models, Corrupt for
    scores of other rows."""
    if not material.tests:
        raise Rejected(
            "the training set has no test", fix="sluice dataset build --tests 1", code="no_test"
        )
    if not models:
        raise Rejected("there is no model to judge", fix="--run RUN, or --release DIR")
    empty = [rows.name for rows in material.tests if not rows.window.fraud.any()]
    if empty:
        raise Rejected(
            f"no fraud is known in {', '.join(empty)}: nothing can be judged by it",
            fix="build the set again when the labels have come",
            code="empty_class",
        )
    for model in models:
        for split, seeds in model.scores.items():
            rows = _named(material, split)
            for score in seeds:
                if rows is not None and len(score) != len(rows):
                    raise Corrupt(
                        f"{len(score)} scores of {model.name} for {len(rows)} rows", where=split
                    )
    left_out: list[str] = []
    signals = signals_of(material.tests)
    power = {s.feature: abs(s.auc - 0.5) for s in signals}
    return Judgement(
        title=material.title,
        dataset=material.dataset,
        runs=list(material.runs),
        currency=material.currency,
        exponent=EXPONENTS[material.currency],
        label_delay_s=material.label_delay_s,
        tests=[_facts(rows) for rows in material.tests],
        models=[_judged(material, model, power, left_out) for model in models],
        signals=signals[:20],
        left_out=list(dict.fromkeys(left_out)),
    )


def _named(material: Material, split: str) -> Rows | None:
    every = [*material.tests, *([material.tuning] if material.tuning else [])]
    return next((rows for rows in every if rows.name == split), None)


def _facts(rows: Rows) -> Facts:
    fraud = rows.window.fraud
    return Facts(
        name=rows.name,
        first=_iso(rows.first_us),
        until=_iso(rows.until_us),
        as_of=_iso(rows.as_of_us),
        rows=len(rows),
        frauds=int(fraud.sum()),
        fraud_minor=int(rows.window.amount_minor[fraud].sum()),
        young=int(rows.young.sum()),
        cards=len(np.unique(rows.window.card)),
    )


def _judged(
    material: Material, model: Scored, power: Mapping[str, float], left_out: list[str]
) -> ModelJudgement:
    tests = material.tests
    first = [model.scores[rows.name][0] for rows in tests]
    weighted: dict[str, Figure] = {}
    if any((rows.weight != 1).any() for rows in tests):
        weighted = _over(tests, model, lambda rows, s: measures.measure(s, rows.let_through()))
    else:
        left_out.append(
            "figures weighted by let-through: no row of the tests was declined or let through"
        )
    naive = _over(tests, model, lambda rows, score: measures.measure(score, rows.window))
    whole = Window.joined([rows.window for rows in tests])
    score = np.concatenate(first)
    points = measures.curve(score, whole.fraud, whole.weight)
    return ModelJudgement(
        name=model.name,
        kind=model.kind,
        source=model.source,
        seeds=len(model.scores[tests[0].name]),
        naive=naive,
        weighted=weighted,
        corrected=_over(tests, model, lambda rows, score: corrected(score, rows)),
        delays=_delays(tests, model, left_out),
        weeks=[_week(rows, s) for rows, s in zip(tests, first, strict=True)],
        segments=_segments(material, first),
        curve=Points(
            threshold=points.threshold.tolist(),
            recall=points.recall.tolist(),
            precision=points.precision.tolist(),
            fpr=points.fpr.tolist(),
        ),
        reliability=reliability_by_size(score, whole.fraud, whole.weight),
        costed=_costed(material, model, score, whole, left_out),
        policy=_policy_worth(material.policy, tests, first) if material.policy else None,
        examples=_examples(tests[-1], first[-1], power),
    )


def _over(
    tests: Sequence[Rows], model: Scored, figures: Callable[[Rows, Floats], dict[str, float]]
) -> dict[str, Figure]:
    """Each figure's interval over tests and seeds."""
    found = [[figures(rows, score) for score in model.scores[rows.name]] for rows in tests]
    names = found[0][0].keys()
    return {
        name: Figure.of(
            measures.interval([[seed.get(name, float("nan")) for seed in week] for week in found])
        )
        for name in names
    }


def _delays(
    tests: Sequence[Rows], model: Scored, left_out: list[str]
) -> dict[str, dict[str, Figure]]:
    """Figures by what was known so many days after each test's end."""
    kept = ("average_precision", "recall_at_fpr_0_5", "euros_at_budget", "expected_to_actual")

    def at(days: int, rows: Rows, score: Floats) -> dict[str, float]:
        window = rows.known_by(rows.until_us + days * DAY_US)
        figures = measures.measure(score, window)
        return {name: figures[name] for name in kept} | {"frauds": float(window.fraud.sum())}

    found: dict[str, dict[str, Figure]] = {}
    for days in DELAYS_DAYS:
        if any(rows.until_us + days * DAY_US > rows.as_of_us for rows in tests):
            left_out.append(
                f"labels {days} days after a test's end: the set was built with labels of "
                f"{(tests[-1].as_of_us - tests[-1].until_us) / DAY_US:g} days after it"
            )
            continue
        found[str(days)] = _over(tests, model, partial(at, days))
    return found


def reliability_by_size(score: Floats, fraud: Bools, weight: Floats) -> list[measures.Bin]:
    """Slices of the scores that hold about as many frauds as one another, so that the highest
    scores, on which decisions turn, are not all in one."""
    order = np.argsort(score, kind="stable")
    promised = np.cumsum(score[order] * weight[order])
    if not len(order) or promised[-1] <= 0:
        return []
    cuts = np.searchsorted(promised, promised[-1] * np.arange(1, 13) / 13)
    found = []
    for part in np.split(order, np.unique(np.clip(cuts, 1, len(order) - 1))):
        w = weight[part]
        if len(part) and w.sum():
            found.append(
                measures.Bin(
                    float((score[part] * w).sum() / w.sum()),
                    float((fraud[part] * w).sum() / w.sum()),
                    len(part),
                    int(fraud[part].sum()),
                )
            )
    return found


def budget_limit(score: Floats, weight: Floats, share: float = ALERT_BUDGET) -> float:
    """The score above which rows weigh at most ``share`` of all: a let-through takes the places of
    those that it stands for, a row that was declined none."""
    order = np.argsort(-score, kind="stable")
    reached = np.cumsum(weight[order])
    within = int(np.searchsorted(reached, share * reached[-1], side="right"))
    return float(score[order[min(within, len(order) - 1)]])


def _week(rows: Rows, score: Floats) -> Week:
    window = rows.window
    above = score > budget_limit(score, rows.weight)
    caught = window.amount_minor[above & window.fraud].sum()
    return Week(
        test=rows.name,
        caught_minor=int(caught),
        average_precision=number(measures.average_precision(score, window.fraud, window.weight)),
    )


def segments_of(rows: Rows, exponent: int) -> dict[tuple[str, str], Bools]:
    """Who is in which segment: (by, name) to (n,) members."""
    found: dict[tuple[str, str], Bools] = {}
    for by, column in (("channel", rows.channel), ("region", rows.region)):
        for value in sorted({str(v) for v in column}):
            found[by, value or "not given"] = column == value
    units = rows.window.amount_minor / 10**exponent
    edges = (0, *AMOUNT_BANDS)
    for low, high in zip(edges, (*AMOUNT_BANDS, np.inf), strict=True):
        name = f"{low} to {high}" if np.isfinite(high) else f"from {low}"
        found["amount", name] = (units >= low) & (units < high)
    age = rows.feature("card_history_span_s")
    if age is not None:
        found["card", "first seen within 7 days"] = age < NEW_CARD_S
        found["card", "older"] = age >= NEW_CARD_S
    return found


def _segments(material: Material, scores: Sequence[Floats]) -> list[Segment]:
    exponent = EXPONENTS[material.currency]
    parts: dict[tuple[str, str], list[tuple[Floats, Window, Bools]]] = {}
    for rows, score in zip(material.tests, scores, strict=True):
        above = score > budget_limit(score, rows.weight)
        members = segments_of(rows, exponent)
        if material.campaigns is not None:
            names = np.array([material.campaigns.get(i, "") for i in rows.ids], object)
            for name in sorted({str(n) for n in names[rows.window.fraud]} - {""}):
                members["campaign", name] = (names == name) & rows.window.fraud
        for key, inside in members.items():
            parts.setdefault(key, []).append(
                (score[inside], rows.window.rows(inside), above[inside])
            )
    found = []
    for (by, name), pieces in parts.items():
        score = np.concatenate([piece[0] for piece in pieces])
        window = Window.joined([piece[1] for piece in pieces])
        above = np.concatenate([piece[2] for piece in pieces])
        if len(score) >= SEGMENT_ROWS or by == "campaign":
            found.append(_segment(by, name, score, window, above))
    return found


def _segment(by: str, name: str, score: Floats, window: Window, above: Bools) -> Segment:
    fraud, amount = window.fraud, window.amount_minor
    campaign = by == "campaign"  # frauds alone
    caught, lost = amount[fraud & above].sum(), amount[fraud].sum()
    frauds = max(1, int(fraud.sum()))
    return Segment(
        by=by,
        name=name,
        rows=len(score),
        frauds=int(fraud.sum()),
        auc=number(measures.auc(score, fraud, window.weight)),
        average_precision=None
        if campaign
        else number(measures.average_precision(score, fraud, window.weight)),
        recall=float(above[fraud].mean()) if fraud.any() else None,
        euros=float(caught / lost) if lost else None,
        stopped_per_10k=None
        if campaign
        else float(1e4 * above[~fraud].sum() / max(1, int((~fraud).sum()))),
        expected_to_actual=None if campaign else float(score.sum() / frauds),
    )


def _costed(
    material: Material, model: Scored, score: Floats, window: Window, left_out: list[str]
) -> Costed | None:
    tuning = material.tuning
    if tuning is None or tuning.name not in model.scores:
        left_out.append("thresholds by cost: the set has no calibration split with scores")
        return None
    chosen = thresholds_on(tuning, model.scores[tuning.name][0], material.costs)
    ppm = to_ppm(score)
    level = severity(chosen.steps, ppm)
    found = worth(level, window.fraud, window.amount_minor)
    share = np.concatenate([rows.reported_share for rows in material.tests])
    known = (ppm, window.fraud, window.amount_minor, material.costs, share)
    names = ("approve", "challenge", "review", "decline")
    days = max(1, len(np.unique(window.event_us // DAY_US)))
    counts = np.bincount(level, minlength=4)
    return Costed(
        found_on=tuning.name,
        thresholds_ppm=chosen.steps,
        cost_minor=cost_of(chosen.steps, *known),
        nothing_minor=cost_of({}, *known),
        reviews_a_day=float(counts[2] / days),
        frauds_stopped=found.frauds_stopped / max(1, found.frauds),
        euros_stopped=found.stopped_minor / max(1, found.fraud_minor),
        stopped_per_10k=found.false_positives_per_10k or 0.0,
        steps=dict(zip(names, counts.tolist(), strict=True)),
    )


def thresholds_on(rows: Rows, score: Floats, costs: Costs) -> Chosen:
    """Thresholds by cost on a split. Raises Rejected (empty_class)."""
    window = rows.window
    return by_cost(
        to_ppm(score),
        window.fraud,
        window.amount_minor,
        window.event_us,
        costs,
        rows.reported_share,
    )


def to_ppm(score: Floats) -> Ints:
    """Whole parts per million, as a decider has them."""
    return np.rint(np.clip(score, 0, 1) * 1e6).astype(np.int64)


def _policy_worth(policy: Policy, tests: Sequence[Rows], scores: Sequence[Floats]) -> PolicyWorth:
    """What the pack does on the tests. Features that the set does not have are at zero."""
    levels: list[tuple[Ints, Ints]] = []
    fired_on: dict[str, tuple[int, int]] = {}
    for rows, score in zip(tests, scores, strict=True):
        n = len(rows)
        features = np.zeros((n, catalogue.N), np.int64)
        features[:, [catalogue.INDEX[name] for name in rows.names]] = rows.features
        nothing = np.zeros(n, np.int64)
        by_rules = policy.judge(features, nothing, np.full(n, D2), np.full(n, D2))
        whole = policy.judge(features, nothing, nothing, to_ppm(score))
        levels.append((whole[:, [0, 2, 3]].max(axis=1), by_rules[:, [0, 2, 3]].max(axis=1)))
        for i, rule in enumerate(policy.rules.rules):
            hit = (by_rules[:, 1] >> i & 1).astype(bool)
            frauds, genuine = fired_on.get(rule.id, (0, 0))
            fired_on[rule.id] = (
                frauds + int((hit & rows.window.fraud).sum()),
                genuine + int((hit & ~rows.window.fraud).sum()),
            )
    window = Window.joined([rows.window for rows in tests])
    model, fallback = (
        worth(np.concatenate([level[i] for level in levels]), window.fraud, window.amount_minor)
        for i in (0, 1)
    )
    return PolicyWorth(
        policy=policy.id,
        stopped=model.frauds_stopped / max(1, model.frauds),
        euros=model.stopped_minor / max(1, model.fraud_minor),
        stopped_per_10k=model.false_positives_per_10k or 0.0,
        fallback_stopped=fallback.frauds_stopped / max(1, fallback.frauds),
        fallback_euros=fallback.stopped_minor / max(1, fallback.fraud_minor),
        fallback_stopped_per_10k=fallback.false_positives_per_10k or 0.0,
        rules=fired_on,
    )


def signals_of(tests: Sequence[Rows]) -> list[Signal]:
    """What each feature knows by itself, the strongest first; SIGNAL_ROWS rows, frauds enriched
    and weighted back."""
    fraud = np.concatenate([rows.window.fraud for rows in tests])
    features = np.concatenate([rows.features for rows in tests])
    chosen, weight = measures.enriched(fraud, SIGNAL_ROWS)
    found = []
    for i, name in enumerate(tests[0].names):
        value = features[chosen, i].astype(np.float64)
        up = measures.auc(value, fraud[chosen], weight)
        value = value if up >= 0.5 else -value
        found.append(
            Signal(
                feature=name,
                auc=max(up, 1 - up),
                average_precision=measures.average_precision(value, fraud[chosen], weight),
            )
        )
    return sorted(found, key=lambda s: -s.average_precision)


def _examples(rows: Rows, score: Floats, power: Mapping[str, float]) -> list[Example]:
    """Of the last test: the largest frauds caught and missed, and the loudest false alarms."""
    fraud, amount = rows.window.fraud, rows.window.amount_minor
    above = score > budget_limit(score, rows.weight)
    rank = np.empty(len(score))
    rank[np.argsort(-score, kind="stable")] = np.arange(len(score)) / max(1, len(score))
    by_amount, by_score = np.argsort(-amount, kind="stable"), np.argsort(-score, kind="stable")
    picks = (
        ("caught", by_amount[(fraud & above)[by_amount]]),
        ("missed", by_amount[(fraud & ~above)[by_amount]]),
        ("false alarm", by_score[(~fraud & above & ~rows.young)[by_score]]),
    )
    genuine = np.sort(rows.features[~fraud][:: max(1, len(rows) // SIGNAL_ROWS)], axis=0)
    return [
        Example(
            what=what,
            authorization_id=str(rows.ids[i]),
            event_at=_iso(int(rows.window.event_us[i])),
            channel=str(rows.channel[i]),
            region=str(rows.region[i]),
            amount_minor=int(amount[i]),
            score_ppm=int(to_ppm(score[i : i + 1])[0]),
            rank=float(rank[i]),
            features=_said(rows.names, rows.features[i], genuine, power),
        )
        for what, chosen in picks
        for i in chosen[:EXAMPLES]
    ]


def _said(names: Sequence[str], row: Ints, genuine: Ints, power: Mapping[str, float]) -> list[Said]:
    """The features by which a row stands out: far from the genuine, where that tells fraud."""
    n = max(1, len(genuine))
    below = np.array([np.searchsorted(genuine[:, i], v) for i, v in enumerate(row)]) / n
    upto = np.array([np.searchsorted(genuine[:, i], v, "right") for i, v in enumerate(row)]) / n
    rank = (below + upto) / 2
    tail = np.minimum(rank, 1 - rank)
    strength = np.array([power.get(name, 0.0) for name in names])
    out = np.argsort(-strength * -np.log10(np.maximum(tail, 1e-5)), kind="stable")
    return [
        Said(
            feature=names[i],
            value=int(row[i]),
            median=int(genuine[n // 2, i]) if len(genuine) else 0,
            rank=float(rank[i]),
        )
        for i in out[:EXAMPLE_FEATURES]
    ]


def _iso(moment_us: int) -> str:
    return to_datetime(moment_us).isoformat().replace("+00:00", "Z")
