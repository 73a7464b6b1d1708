"""The page of a judgement: what to know first is on top, what explains it below."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from sluice.adapters.report.frame import text, whole_page
from sluice.adapters.report.svg import (
    Chart,
    linear,
    logarithmic,
    powers,
    round_up,
    shares,
)
from sluice.application.judging.judgement import Example, Figure, Judgement, ModelJudgement, Number
from sluice.application.judging.verdict import ABOUT, Verdict
from sluice.domain.features.catalogue import NEVER_S

FIGURES: dict[str, tuple[str, str, int]] = {
    "auc": ("AUC", "chance that a fraud scores above a genuine one", 1),
    "average_precision": ("Average precision", "area under the precision-recall curve", 1),
    "card_precision_100_handbook": (
        "Card precision@100, the Handbook's",
        "cards found on earlier days taken away",
        1,
    ),
    "card_precision_100": ("Card precision@100, each day by itself", "", 1),
    "recall_at_fpr_0_1": ("Recall at 0.1 % false positives", "of the genuine", 1),
    "recall_at_fpr_0_5": ("Recall at 0.5 %", "", 1),
    "recall_at_fpr_1": ("Recall at 1 %", "", 1),
    "euros_at_budget": ("Fraud's amount caught", "among the highest 0.5 % of scores", 1),
    "expected_to_actual": ("Expected : actual frauds", "1 is right", 0),
    "expected_to_actual_top": ("Expected : actual, top 0.1 %", "1 is right", 0),
    "ece": ("Calibration error (ECE)", "20 slices of as many rows each", -1),
    "log_loss": ("Log-loss", "nats", -1),
}
"""Title, what it is, and whether more is better (1), less (-1) or neither."""
SEGMENTS = {
    "channel": "Channel",
    "region": "Region",
    "amount": "Amount",
    "card": "Card",
    "campaign": "Campaign (of the simulated truth; frauds alone)",
}


def page(judgement: Judgement, verdict: Verdict | None = None) -> str:
    """The whole page. Nothing in it is fetched from anywhere."""
    models = judgement.models
    parts = [
        _head(judgement),
        _verdict(verdict) if verdict else "",
        _summary(judgement),
        _curves(models, judgement),
        _weeks(judgement),
        _delays(models),
        _corrected(models),
        _costs(judgement),
        _segments(judgement),
        _policy(models),
        _signals(judgement),
        _examples(judgement),
        _foot(judgement),
    ]
    return whole_page(judgement.title, "".join(parts))


def _head(j: Judgement) -> str:
    frauds, rows = sum(t.frauds for t in j.tests), sum(t.rows for t in j.tests)
    lost = sum(t.fraud_minor for t in j.tests)
    return (
        f"<h1>{text(j.title)}</h1>"
        f"<p class='lead'>{_many(len(j.models), 'model')} judged on "
        f"{_many(len(j.tests), 'test')}, "
        f"{_day(j.tests[0].first)} to {_day(j.tests[-1].until)}: {rows:,} authorizations, "
        f"{frauds:,} known frauds ({1e4 * frauds / max(1, rows):.1f} in 10,000) of "
        f"{_money(lost, j)}. Precision figures hold only at that rate.</p>"
    )


def _verdict(verdict: Verdict) -> str:
    word, kind = ("Accepted", "good") if verdict.accepted else ("Refused", "bad")
    beside = f"beside {text(verdict.champion)}" if verdict.champion else "without a champion"
    rows = "".join(
        f'<tr class="{"" if c.passed else "failed"}"><td>{"✓" if c.passed else "✗"}</td>'
        f"<th>{ABOUT[c.reason]}</th><td>{text(c.found)}</td></tr>"
        for c in sorted(verdict.checks, key=lambda check: check.passed)
    )
    return (
        f'<section><h2>The gate</h2><p class="verdict {kind}"><b>{word}</b> '
        f"{text(verdict.candidate)} {beside}</p><table class='checks'>{rows}</table></section>"
    )


def _legend(models: Sequence[ModelJudgement]) -> str:
    entries = "".join(
        f'<span class="key"><i class="b c{i}"></i>{text(m.name)}</span>'
        for i, m in enumerate(models)
    )
    return f'<p class="legend">{entries}</p>'


def _summary(j: Judgement) -> str:
    heads = "".join(
        f'<th><i class="b c{i}"></i>{text(m.name)}<small>{text(m.kind)}'
        f"{f', {m.seeds} seeds' if m.seeds > 1 else ''}</small></th>"
        for i, m in enumerate(j.models)
    )
    rows = []
    for name, (title, what, better) in FIGURES.items():
        found = [m.naive.get(name) for m in j.models]
        means = [f.mean for f in found if f and f.mean is not None]
        best = (max(means) if better > 0 else min(means)) if len(means) > 1 and better else None
        cells = "".join(_cell(f, name, best is not None and f is not None and f.mean == best)
                        for f in found)  # fmt: skip
        ceiling = j.models[0].naive.get(f"{name}_ceiling")
        told = f"perfect foresight {_num(ceiling.mean, name)}" if ceiling else ""
        note = f"<small>{'; '.join(filter(None, (what, told)))}</small>" if what or told else ""
        rows.append(f"<tr><th>{title}{note}</th>{cells}</tr>")
    tests = len(j.tests)
    interval = (
        "in small type the 95 % interval of the mean (Student's t over tests)"
        if tests > 1
        else "one test alone, so without an interval"
    )
    return (
        "<section><h2>In figures</h2>"
        f"<p>Mean over {_many(tests, 'test')}; {interval}."
        + (
            " The best of each row is in bold, though differences within the intervals say nothing."
            if len(j.models) > 1
            else ""
        )
        + "</p>"
        f'<div class="wide"><table class="figures"><tr><th></th>{heads}</tr>{"".join(rows)}'
        "</table></div></section>"
    )


def _cell(figure: Figure | None, name: str, best: bool) -> str:
    if figure is None or figure.mean is None:
        return "<td>-</td>"
    mean = _num(figure.mean, name)
    inner = f"<b>{mean}</b>" if best else mean
    if figure.low is not None and figure.high is not None:
        low, high = max(0.0, figure.low), figure.high
        high = high if name.startswith(("expected", "log")) else min(1.0, high)
        inner += f"<small>{_num(low, name)} to {_num(high, name)}</small>"
    return f"<td>{inner}</td>"


def _num(value: Number, name: str) -> str:
    if value is None:
        return "-"
    if name in {"log_loss", "ece"}:
        return f"{value:.4f}"
    if name.startswith("expected"):
        return f"{value:.2f}"
    return f"{value:.1%}" if name == "euros_at_budget" else f"{value:.3f}"


def _figure(title: str, drawing: str, note: str = "") -> str:
    return f"<figure><figcaption><b>{title}</b> {note}</figcaption>{drawing}</figure>"


def _curves(models: Sequence[ModelJudgement], j: Judgement) -> str:
    pr = Chart(linear(0, 1), linear(0, 1), shares(), shares(), "recall: share of frauds found",
               "precision", "precision and recall")  # fmt: skip
    roc = Chart(logarithmic(1e-4, 1), linear(0, 1), powers(1e-4, 1), shares(),
                "false positives, of the genuine (logarithmic)", "recall", "recall by "
                "false positives")  # fmt: skip
    for i, m in enumerate(models):
        pr.line(m.curve.recall, m.curve.precision, i)
        roc.line(m.curve.fpr, m.curve.recall, i)
    bins = [b for m in models for b in m.reliability]
    values = [v for b in bins for v in (b.promised, b.found) if v > 0]
    low = min([1e-2, *values])
    low = max(1e-5, 10.0 ** int(f"{low:e}".split("e")[1]))
    calibration = Chart(logarithmic(low, 1), logarithmic(low, 1), powers(low, 1), powers(low, 1),
                        "promised: mean score of a slice", "found: share of frauds in it",
                        "reliability diagram")  # fmt: skip
    calibration.rule([(low, low), (1, 1)])
    for i, m in enumerate(models):
        kept = [b for b in m.reliability if b.found > 0]
        calibration.line([b.promised for b in kept], [b.found for b in kept], i)
        calibration.dots(
            [b.promised for b in kept],
            [b.found for b in kept],
            i,
            [f"{b.rows:,} rows, {b.frauds} frauds: promised {b.promised:.4f}, found {b.found:.4f}"
             for b in kept],
        )  # fmt: skip
    budget = Chart(logarithmic(1e-4, 1e-1), linear(0, 1), powers(1e-4, 1e-1), shares(),
                   "alerts, of all authorizations (logarithmic)", "share of frauds found",
                   "recall by alerts")  # fmt: skip
    rate = sum(t.frauds for t in j.tests) / max(1, sum(t.rows for t in j.tests))
    budget.rule([(0.005, 0), (0.005, 1)])
    for i, m in enumerate(models):
        share = [
            r * rate + f * (1 - rate) for r, f in zip(m.curve.recall, m.curve.fpr, strict=True)
        ]
        budget.line(share, m.curve.recall, i)
    return (
        f"<section><h2>Curves</h2>{_legend(models)}<div class='grid'>"
        + _figure("Precision and recall", pr.svg(), "up and right is better")
        + _figure("Recall by alerts", budget.svg(), "the grey line is the 0.5 % alert budget")
        + _figure("Recall by false positives", roc.svg())
        + _figure(
            "Reliability",
            calibration.svg(),
            "on the grey line the score is the probability; slices hold about as many frauds",
        )
        + "</div></section>"
    )


def _weeks(j: Judgement) -> str:
    if len(j.tests) < 2:
        return ""
    n = len(j.tests)
    labels = [(i, _day(t.first)[5:]) for i, t in enumerate(j.tests) if n < 10 or i % (n // 8) == 0]
    lost = [t.fraud_minor for t in j.tests]
    top = round_up(max(lost) / 10**j.exponent)
    scale = 10**j.exponent
    ticks = [(top * k / 4, f"{top * k / 4:,.0f}") for k in range(5)]
    pad = 0.15
    along = linear(-pad, n - 1 + pad)
    euros = Chart(along, linear(0, top), labels, ticks, "test, by its first day",
                  f"{text(j.currency)} a test", "amount caught by test")  # fmt: skip
    euros.rule([(i, v / scale) for i, v in enumerate(lost)])
    precision = Chart(along, linear(0, 1), labels, shares(), "test, by its first day",
                      "average precision", "average precision by test")  # fmt: skip
    for i, m in enumerate(j.models):
        at = list(range(n))
        caught = [w.caught_minor / scale for w in m.weeks]
        euros.line(at, caught, i)
        euros.dots(
            at, caught, i, [f"{w.test}: {c:,.0f}" for w, c in zip(m.weeks, caught, strict=True)]
        )
        values = [w.average_precision or 0.0 for w in m.weeks]
        precision.line(at, values, i)
        precision.dots(
            at, values, i, [f"{w.test}: {v:.3f}" for w, v in zip(m.weeks, values, strict=True)]
        )
    return (
        f"<section><h2>Test by test</h2>{_legend(j.models)}<div class='grid'>"
        + _figure(
            "Fraud's amount caught within the alert budget",
            euros.svg(),
            "the grey line is all of it",
        )
        + _figure("Average precision", precision.svg())
        + "</div></section>"
    )


def _delays(models: Sequence[ModelJudgement]) -> str:
    days = sorted({int(d) for m in models for d in m.delays})
    if len(days) < 2:
        return ""
    rows = []
    for figure, title in (
        ("frauds", "Frauds known, a test"),
        ("average_precision", "Average precision"),
        ("recall_at_fpr_0_5", "Recall at 0.5 %"),
        ("euros_at_budget", "Fraud's amount caught"),
        ("expected_to_actual", "Expected : actual"),
    ):
        for i, m in enumerate(models):
            if figure == "frauds" and i:
                continue
            cells = "".join(
                f"<td>{_at(m.delays.get(str(d), {}).get(figure), figure)}</td>" for d in days
            )
            who = "" if figure == "frauds" else f'<i class="b c{i}"></i>{text(m.name)}'
            rows.append(
                f"<tr><th>{title if not i else ''}</th><td class='l'>{who}</td>{cells}</tr>"
            )
    heads = "".join(f"<th>{d} day{'s' if d > 1 else ''}</th>" for d in days)
    return (
        "<section><h2>As labels come in</h2><p>The same scores, judged so many days after each "
        "test ended, by what was known then. What is not known yet counts as genuine, so figures "
        "rise as labels mature; compare models only within a column.</p>"
        f'<div class="wide"><table><tr><th></th><th></th>{heads}</tr>{"".join(rows)}</table></div>'
        "</section>"
    )


def _at(figure: Figure | None, name: str) -> str:
    if figure is None or figure.mean is None:
        return "-"
    return f"{figure.mean:,.0f}" if name == "frauds" else _num(figure.mean, name)


def _corrected(models: Sequence[ModelJudgement]) -> str:
    names = ("average_precision", "recall_at_fpr_0_5", "euros_at_budget", "expected_to_actual")
    differ = any(
        (a := m.naive.get(n)) and (b := m.corrected.get(n)) and a.mean and b.mean
        and abs(a.mean - b.mean) > 0.002
        for m in models for n in names
    )  # fmt: skip
    weighted = any(m.weighted for m in models)
    if not (differ or weighted):
        return ""
    rows = []
    for name in names:
        for i, m in enumerate(models):
            cells = [
                _num(f.mean, name) if (f := table.get(name)) else "-"
                for table in (m.naive, m.corrected, m.weighted)
            ]
            rows.append(
                f"<tr><th>{FIGURES[name][0] if not i else ''}</th>"
                f'<td class="l"><i class="b c{i}"></i>{text(m.name)}</td>'
                + "".join(f"<td>{c}</td>" for c in cells)
                + "</tr>"
            )
    return (
        "<section><h2>What was not seen, made up for</h2><p><b>As known</b>: what nobody reported "
        "is genuine. <b>Late reports</b>: a known fraud stands also for those of its age that are "
        "not reported yet. <b>Let-through</b>: would-be declines that were let through on purpose "
        "stand for those that were not, by the inverse of their probability.</p>"
        "<table><tr><th></th><th></th><th>as known</th><th>late reports</th><th>let-through</th>"
        f"</tr>{''.join(rows)}</table></section>"
    )


def _costs(j: Judgement) -> str:
    if not any(m.costed for m in j.models):
        return ""
    rows = []
    for i, m in enumerate(j.models):
        if (c := m.costed) is None:
            continue
        steps = ", ".join(f"{step} from {ppm / 1e6:.2g}" for step, ppm in c.thresholds_ppm.items())
        saved = 1 - c.cost_minor / max(1, c.nothing_minor)
        rows.append(
            f'<tr><td class="l"><i class="b c{i}"></i>{text(m.name)}</td>'
            f'<td class="l">{steps or "none pays"}</td><td>{_money(c.cost_minor, j)}</td>'
            f"<td>{saved:.1%}</td><td>{c.frauds_stopped:.1%}</td><td>{c.euros_stopped:.1%}</td>"
            f"<td>{c.stopped_per_10k:.1f}</td><td>{c.reviews_a_day:,.0f}</td></tr>"
        )
    nothing = next(m.costed.nothing_minor for m in j.models if m.costed)
    on = next(m.costed.found_on for m in j.models if m.costed)
    return (
        f"<section><h2>Thresholds by cost</h2><p>Found on {text(on)}, then tried on the tests, "
        f"where approving everything costs {_money(nothing, j)}.</p>"
        "<div class='wide'><table><tr><th></th><th class='l'>thresholds on the score</th>"
        "<th>cost</th>"
        "<th>saved</th><th>frauds stopped</th><th>of their amount</th>"
        "<th>genuine stopped, of 10,000</th><th>reviews a day</th></tr>"
        f"{''.join(rows)}</table></div></section>"
    )


def _segments(j: Judgement) -> str:
    models = j.models
    keys = list(dict.fromkeys((s.by, s.name) for m in models for s in m.segments))
    if not keys:
        return ""
    tables = []
    for by, title in SEGMENTS.items():
        names = [name for b, name in keys if b == by]
        if not names or (len(names) < 2 and by != "campaign"):
            continue
        rows = []
        for name in names:
            found = {
                i: s
                for i, m in enumerate(models)
                for s in m.segments
                if (s.by, s.name) == (by, name)
            }
            one = next(iter(found.values()))
            bars = "".join(
                f'<div class="bar" title="{text(models[i].name)}: recall {s.recall:.3f}">'
                f'<i class="f c{i}" style="width:{100 * s.recall:.1f}%"></i>'
                f"<span>{s.recall:.0%}</span></div>"
                for i, s in found.items()
                if s.recall is not None
            )
            first = found.get(0, one)
            rows.append(
                f'<tr><td class="l">{text(name)}</td><td>{one.rows:,}</td><td>{one.frauds:,}</td>'
                f'<td class="bars">{bars or "no fraud"}</td><td>{_share(first.euros)}</td>'
                f"<td>{_plain(first.stopped_per_10k, 1)}</td>"
                f"<td>{_plain(first.average_precision, 3)}</td>"
                f"<td>{_plain(first.expected_to_actual, 2)}</td></tr>"
            )
        tables.append(
            f"<h3>{title}</h3><div class='wide'><table class='segments'>"
            "<colgroup><col style='width:190px'><col style='width:80px'><col style='width:70px'>"
            "<col style='width:270px'><col style='width:100px'><col style='width:110px'>"
            "<col style='width:90px'><col style='width:90px'></colgroup><tr><th></th><th>rows</th>"
            "<th>frauds</th><th>recall at the alert budget</th><th>amount caught</th>"
            "<th>genuine stopped, of 10,000</th><th>average precision</th>"
            f"<th>expected : actual</th></tr>{''.join(rows)}</table></div>"
        )
    return (
        f"<section><h2>Segments</h2>{_legend(models)}<p>Bars are all models; the columns to their "
        f"right are {text(models[0].name)}'s. The alert budget is that of the whole test.</p>"
        + "".join(tables)
        + "</section>"
    )


def _policy(models: Sequence[ModelJudgement]) -> str:
    found = [(m, m.policy) for m in models if m.policy]
    if not found:
        return ""
    rows = "".join(
        f'<tr><td class="l">{text(m.name)} and rules (D0)</td><td>{p.stopped:.1%}</td>'
        f"<td>{p.euros:.1%}</td><td>{p.stopped_per_10k:.1f}</td></tr>"
        for m, p in found
    )
    p = found[0][1]
    rows += (
        f'<tr><td class="l">rules alone (D2)</td><td>{p.fallback_stopped:.1%}</td>'
        f"<td>{p.fallback_euros:.1%}</td><td>{p.fallback_stopped_per_10k:.1f}</td></tr>"
    )
    return (
        f"<section><h2>With the policy pack {text(p.policy)}</h2><p>Stopped is anything but "
        "approve.</p><table><tr><th></th><th>frauds stopped</th><th>of their amount</th>"
        f"<th>genuine stopped, of 10,000</th></tr>{rows}</table></section>"
    )


def _signals(j: Judgement) -> str:
    if not j.signals:
        return ""
    rows = "".join(
        f'<tr><td class="l"><code>{text(s.feature)}</code></td><td>{s.average_precision:.3f}</td>'
        f"<td>{s.auc:.3f}</td></tr>"
        for s in j.signals[:10]
    )
    return (
        "<section><h2>What single features know</h2><p>Each feature by itself, in its better "
        "direction. One that comes near the models has the label in it.</p>"
        "<table><tr><th>feature</th><th>average precision</th><th>AUC</th></tr>"
        f"{rows}</table></section>"
    )


def _examples(j: Judgement) -> str:
    model = j.models[0]
    groups: list[tuple[str, str]] = [
        ("caught", "The largest frauds caught"),
        ("missed", "The largest frauds missed"),
        ("false alarm", "The loudest false alarms"),
    ]
    parts = []
    for what, title in groups:
        found = [e for e in model.examples if e.what == what]
        if found:
            rows = "".join(_example(e, j) for e in found)
            parts.append(
                f"<h3>{title}</h3><div class='wide'><table class='examples'><tr><th>when (UTC)</th>"
                "<th>amount</th><th>channel, region</th><th>score</th><th>rank</th>"
                f"<th>by what it stands out from genuine ones</th></tr>{rows}</table></div>"
            )
    if not parts:
        return ""
    return (
        f"<section><h2>Examples</h2><p>Of the last test, by {text(model.name)}, at the 0.5 % "
        "alert budget. Rank is the place among all scores of the test. Features are those that lie "
        "far from the genuine and tell fraud apart; they describe the row, they do not explain "
        "the score. In brackets the genuine median.</p>" + "".join(parts) + "</section>"
    )


def _example(e: Example, j: Judgement) -> str:
    said = ", ".join(
        f"<span class='said'><code>{text(s.feature)}</code> "
        f"<b>{_value(s.feature, s.value, j)}</b> "
        f"<small>({_value(s.feature, s.median, j)})</small></span>"
        for s in e.features
    )
    where = text(e.channel) + (f", {text(e.region)}" if e.region else "")
    return (
        f'<tr title="{text(e.authorization_id)}"><td>{text(e.event_at[:16].replace("T", " "))}'
        f"</td><td>{_money(e.amount_minor, j)}</td><td class='l'>{where}</td>"
        f"<td>{e.score_ppm / 1e6:.3f}</td><td>{_rank(e.rank)}</td><td class='l'>{said}</td></tr>"
    )


def _value(feature: str, value: int, j: Judgement) -> str:
    """A feature's value as a person reads it, by the unit at the end of its name."""
    unit = feature.rpartition("_")[2]
    if unit == "minor":
        return _money(value, j)
    if unit == "s":
        return _duration(value)
    if unit == "milli":
        return f"{value / 1000:,.2f}"
    return f"{value:,}"


def _duration(seconds: int) -> str:
    """In its largest whole unit; an age that never began is cut at NEVER_S."""
    if seconds >= NEVER_S:
        return "never"
    for span, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * span:
            return f"{seconds // span:,} {name}"
    return f"{seconds:,} s"


def _rank(rank: float) -> str:
    return f"top {100 * max(rank, 1e-5):.2g} %"


def _foot(j: Judgement) -> str:
    tests = "".join(
        f"<tr><td class='l'>{text(t.name)}</td><td>{_day(t.first)}</td><td>{_day(t.until)}</td>"
        f"<td>{_day(t.as_of)}</td><td>{t.rows:,}</td><td>{t.cards:,}</td><td>{t.frauds:,}</td>"
        f"<td>{_money(t.fraud_minor, j)}</td><td>{t.young:,}</td></tr>"
        for t in j.tests
    )
    left = "".join(f"<li>{text(why)}</li>" for why in j.left_out)
    runs = ", ".join(run[:12] for run in j.runs) or "none"
    return (
        "<section><h2>Of what</h2><div class='wide'><table><tr><th>test</th><th>from</th>"
        "<th>until</th><th>labels known by</th><th>rows</th><th>cards</th><th>frauds</th>"
        f"<th>of</th><th>too young to tell</th></tr>{tests}</table></div>"
        f"<p>Training set <code>{text(j.dataset[:12])}</code>, runs <code>{text(runs)}</code>. "
        "Cards of which a fraud was known when a day began are left out of that day, as in the "
        "Fraud Detection Handbook.</p>"
        + (f"<p>Not judged:</p><ul>{left}</ul>" if left else "")
        + "</section>"
    )


def _many(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _day(iso: str) -> str:
    return escape(iso[:10])


def _money(minor: int, j: Judgement) -> str:
    value = minor / 10**j.exponent
    return f"{text(j.currency)} {value:,.0f}" if abs(value) >= 100 else (
        f"{text(j.currency)} {value:,.{min(2, j.exponent)}f}"
    )  # fmt: skip


def _share(value: Number) -> str:
    return "-" if value is None else f"{value:.1%}"


def _plain(value: Number, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
