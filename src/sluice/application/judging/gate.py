"""The gate: whether a candidate may be released, and if not, why.

The candidate stands against the champion on the same replayed days, its eight-bit variant against
its own single precision. Every check is made and told; the first that fails is the reason: what
explains comes before what it explains. Pure: scores in, a verdict out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from sluice.application.judging import measures
from sluice.application.judging.inputs import Inputs, check_inputs
from sluice.application.judging.judge import (
    budget_limit,
    segments_of,
    signals_of,
    thresholds_on,
    to_ppm,
)
from sluice.application.judging.measures import Bools, Floats, Ints, Window
from sluice.application.judging.rows import Rows, corrected
from sluice.application.judging.thresholds import Costs, severity
from sluice.application.judging.verdict import Check, Flips, Limits, Reason, Verdict
from sluice.domain.clock import DAY_US, to_datetime
from sluice.domain.features import catalogue
from sluice.domain.records.currencies import EXPONENTS
from sluice.domain.release import Step

Predict = Callable[[Ints], Floats]
"""(n, k) features in the set's order to (n,) probabilities."""

UNIT_FACTORS = (1e-3, 1e-2, 1e2, 1e3)
"""Between units that are mistaken for one another: minor and major, milliseconds and seconds."""
SCALED_UNITS = ("minor", "s")
UNIT_SHOWS_AS: frozenset[Reason] = frozenset(
    {"no_signal", "worse", "euros", "calibration", "segment", "flips"}
)
"""What a candidate that takes a feature in another unit is refused for, were that not found."""
TRIED_ROWS = 4_000
"""Genuine rows on which other units are tried; all frauds are."""
SKILL_LOSS = 0.8
"""Log-loss, of a constant's, from which a model counts as good with features in another unit: one
that learnt nothing may do better so by luck, but not well."""
NONZERO_MIN = 50
"""Rows with another value than 0, before a feature's size is compared."""
PLAUSIBLE_MAX = 0.95
"""Average precision above which features are suspected that nobody held against the log; and a log
half of whose frauds were known within REPORTED_MIN_US: it may claim that too early."""
REPORTED_MIN_US = DAY_US
YOUNG_FRAUDS_MIN = 30
SHUFFLES = 20
"""Of which frauds of a day were known early, that an average precision is the mean of."""


@dataclass(frozen=True)
class Contender:
    """A graph that is tried. columns: names of its features, in order. size: SHA-256."""

    name: str
    sha256: str
    columns: Sequence[str]
    predict: Predict
    timings_us: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Champion:
    """What is in force. typical: of its training, by feature: see :func:`typical`."""

    contender: Contender
    release: str
    trained_until: int
    typical: Mapping[str, float]


@dataclass(frozen=True)
class Trial:
    """All that the gate looks at.

    dataset, trained_on: SHA-256 of the set that judges, and of the one the run was trained on.
    run_scores: of the candidate, by split, as its run has them. trained: a sample of the train
    split's features. inputs: what was held against the set and the feature log. int8_named: a
    person asked for it, so it is not left out. known: releases by the SHA-256 of their graph: id,
    and when it was made.
    """

    dataset: str
    trained_on: str
    run: str
    currency: str
    tests: Sequence[Rows]
    tuning: Rows
    candidate: Contender
    run_scores: Mapping[str, Floats]
    trained: Ints
    trained_until: int
    inputs: Inputs
    int8: Contender | None = None
    int8_named: bool = False
    champion: Champion | None = None
    known: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    costs: Costs = field(default_factory=Costs)


def try_candidate(trial: Trial) -> Verdict:
    """Make every check that can be made."""
    checks = _identity(trial)
    if any(not check.passed for check in checks if check.reason in _STOPS):
        return _verdict(trial, checks, {}, None, None)  # its scores would say nothing
    run = _Run(trial)
    checks += run.checks()
    steps = run.thresholds(run.ours_tuning)
    if run.int8_left_out:
        trial = replace(trial, int8=None)
    return _verdict(trial, checks, steps, run.champion_flips, run.int8_flips)


_STOPS: tuple[Reason, ...] = ("other_dataset", "unknown_feature")


def _verdict(
    trial: Trial,
    checks: list[Check],
    steps: dict[Step, int],
    flips: Flips | None,
    int8_flips: Flips | None,
) -> Verdict:
    order = {reason: i for i, reason in enumerate(Reason.__args__)}  # type: ignore[attr-defined]
    checks = sorted(checks, key=lambda check: order[check.reason])
    reasons = list(dict.fromkeys(check.reason for check in checks if not check.passed))
    graphs = {"fp32": trial.candidate, "int8": trial.int8}
    if trial.champion:
        graphs["champion"] = trial.champion.contender
    return Verdict(
        accepted=not reasons,
        reasons=reasons,
        candidate=trial.candidate.name,
        model=trial.candidate.sha256,
        int8=trial.int8.sha256 if trial.int8 else "",
        champion=trial.champion.release if trial.champion else "",
        champion_model=trial.champion.contender.sha256 if trial.champion else "",
        dataset=trial.dataset,
        run=trial.run,
        tests=[rows.name for rows in trial.tests],
        tuned_on=trial.tuning.name,
        rows=sum(len(rows) for rows in trial.tests),
        frauds=sum(int(rows.window.fraud.sum()) for rows in trial.tests),
        thresholds_ppm=steps,
        timings_us={name: dict(g.timings_us) for name, g in graphs.items() if g},
        checks=checks,
        flips=flips,
        int8_flips=int8_flips,
        limits=trial.limits,
    )


def _identity(trial: Trial) -> list[Check]:
    """Whether the candidate is what it says, and newer than what there is."""
    ours = trial.candidate
    strange = [name for name in ours.columns if name not in catalogue.INDEX]
    absent = [name for name in ours.columns if name not in trial.tests[0].names]
    same = trial.dataset == trial.trained_on
    checks = [
        Check(
            reason="other_dataset",
            passed=same,
            found="trained on the set that judges"
            if same
            else f"trained on the set {trial.trained_on[:12]}…, judged by {trial.dataset[:12]}…",
        ),
        Check(
            reason="unknown_feature",
            passed=not strange and not absent,
            found=f"the catalogue has no feature {', '.join(strange)}"
            if strange
            else f"the training set has no feature {', '.join(absent)}"
            if absent
            else f"all {len(ours.columns)} are in the catalogue",
        ),
    ]
    graphs = [ours, *([trial.int8] if trial.int8 else [])]
    found = [(g, trial.known[g.sha256]) for g in graphs if g.sha256 in trial.known]
    checks.append(
        Check(
            reason="replayed",
            passed=not found,
            found=f"{found[0][0].name} is release {found[0][1][0]} of "
            f"{to_datetime(found[0][1][1]):%Y-%m-%d}, bit for bit: to go back to it is a rollback, "
            "which is recorded (sluice release rollback)"
            if found
            else f"none of the {len(trial.known)} releases there are",
        )
    )
    if trial.champion:
        behind = trial.champion.trained_until - trial.trained_until
        checks.append(
            Check(
                reason="older_data",
                passed=behind <= 0,
                found=f"trained on rows until {to_datetime(trial.trained_until):%Y-%m-%d}, "
                f"{trial.champion.release} "
                f"until {to_datetime(trial.champion.trained_until):%Y-%m-%d}",
            )
        )
    return checks


class _Run:
    """The scores of one trial, and what they show."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.limits = trial.limits
        names = trial.tests[0].names
        self.columns = {
            id(c): [names.index(name) for name in c.columns] for c in self._contenders() if c
        }
        self.ours = [self._score(trial.candidate, rows) for rows in trial.tests]
        self.ours_tuning = self._score(trial.candidate, trial.tuning)
        self.whole = Window.joined([rows.window for rows in trial.tests])
        self.score = np.concatenate(self.ours)
        champion = trial.champion.contender if trial.champion else None
        self.theirs = [self._score(champion, rows) for rows in trial.tests] if champion else None
        self.champion_flips: Flips | None = None
        self.int8_flips: Flips | None = None
        self.int8_left_out = False

    def _contenders(self) -> list[Contender | None]:
        champion = self.trial.champion
        return [self.trial.candidate, self.trial.int8, champion.contender if champion else None]

    def _score(self, contender: Contender, rows: Rows) -> Floats:
        return contender.predict(rows.features[:, self.columns[id(contender)]])

    def thresholds(self, score: Floats) -> dict[Step, int]:
        """By cost, on the tuning split."""
        return thresholds_on(self.trial.tuning, score, self.trial.costs).steps

    def checks(self) -> list[Check]:
        """In no order."""
        inputs = check_inputs(self.trial.inputs)
        logged = any(len(pair.given) for pair in self.trial.inputs.logged)
        proved = logged and all(one.passed for one in inputs)
        found = [
            self._scores_differ(),
            self._sizes(),
            self._leak(),
            self._ceiling(proved=proved),
            self._signal(),
            self._calibration(),
            self._latency(),
            *inputs,
        ]
        if (immature := self._immature()) is not None:
            found.append(immature)
        if self.trial.champion is not None and self.theirs is not None:
            found += self._against(self.theirs)
        suffers = any(one.reason in UNIT_SHOWS_AS and not one.passed for one in found)
        found.append(self._units(needless=proved and not suffers))
        if self.trial.int8 is not None:
            found += self._int8(self.trial.int8)
        return found

    def _scores_differ(self) -> Check:
        apart = {
            rows.name: float(np.abs(self.trial.run_scores[rows.name] - ours).max())
            for rows, ours in zip(self.trial.tests, self.ours, strict=True)
            if rows.name in self.trial.run_scores
        }
        worst = max(apart, key=lambda name: apart[name]) if apart else ""
        most = apart.get(worst, 0.0)
        return Check(
            reason="scores_differ",
            passed=most <= self.limits.scores_apart,
            found=f"the graph's scores and the run's differ by at most {most:.1e} "
            f"({worst or 'none to compare'}; at most {self.limits.scores_apart:.0e}): "
            + ("the graph is what was judged" if most <= self.limits.scores_apart
               else "what was judged is not this graph on these rows"),
        )  # fmt: skip

    def _sizes(self) -> Check:
        """A feature that is so many times larger or smaller than it was: its unit changed.

        Since training all quartiles must have moved so far. Of a mixture the median alone may: the
        longer a history, the more terminals had a fraud long ago, beside those that always have.
        """
        limit = self.limits.size_ratio
        names = self.trial.tests[0].names
        features = np.concatenate([rows.features for rows in self.trial.tests])
        quartiles = _quartiles(names, features)
        now = {name: float(found[1]) for name, found in quartiles.items()}
        strange = [
            (_moved(quartiles[name], was), name, float(was[1]), "in training")
            for name, was in _quartiles(names, self.trial.trained).items()
            if name in now
        ]
        if self.trial.champion:
            # Another population may well be ten times as busy at one place; all that is counted in
            # seconds does not become a thousand times as long.
            then = {n: v for n, v in self.trial.champion.typical.items() if n in now}
            when = f"when {self.trial.champion.release} was trained"
            apart = [_apart(now[n], v) for n, v in then.items() if _unit(n) == "s"]
            seconds = float(np.median(apart)) if apart else 1.0
            strange += [
                (_apart(now[n], v) if _unit(n) != "s" else seconds, n, v, when)
                for n, v in then.items()
            ]
        bad = sorted((s for s in strange if s[0] >= limit), reverse=True)
        if not bad:
            found = f"no feature's typical size changed {limit:g}-fold"
        else:
            _, name, was_then, when = bad[0]
            here = now[name]
            more = (
                f", and {len({b[1] for b in bad}) - 1} more" if len({b[1] for b in bad}) > 1 else ""
            )
            found = (
                f"{name}{more}: typically {here:,.0f} on the replayed days, {was_then:,.0f} {when} "
                f"({here / was_then:.3g} times; unit {_unit(name)})"
            )
        return Check(reason="unit_changed", passed=not bad, found=found)

    def _units(self, *, needless: bool) -> Check:
        """Whether the candidate would do better if a feature came in another unit.

        needless: what it learnt is what was logged, bit for bit, and it is none the worse. Then
        nothing is guessed: with few frauds a factor may do better by chance.
        """
        if needless:
            found = "what was learnt is what was logged, bit for bit: no other unit is looked for"
            return Check(reason="unit_changed", passed=True, found=found)
        columns = list(self.trial.candidate.columns)
        rows = self.trial.tests[-1]
        chosen, weight = measures.enriched(rows.window.fraud, TRIED_ROWS)
        features = rows.features[chosen][:, [rows.names.index(name) for name in columns]]
        fraud = rows.window.fraud[chosen]
        before = self.trial.candidate.predict(features)
        loss = measures.log_loss(before, fraud, weight)
        precision = measures.average_precision(before, fraud, weight)
        groups: list[tuple[str, list[int]]] = [
            (f"all in {unit}", [i for i, name in enumerate(columns) if _unit(name) == unit])
            for unit in SCALED_UNITS
        ]
        groups += [(n, [i]) for i, n in enumerate(columns) if _unit(n) in SCALED_UNITS]
        share = float((weight * fraud).sum() / weight.sum())
        constant = measures.log_loss(np.full(len(fraud), share), fraud, weight)
        best = (min(loss * 0.9, constant * SKILL_LOSS), "", 1.0, precision)
        least = precision + 0.05
        if self.theirs is not None:  # put right, it would be about as good as the champion
            theirs = self.theirs[-1][chosen]
            least = max(least, 0.75 * measures.average_precision(theirs, fraud, weight))
        for name, members in groups:
            for factor in UNIT_FACTORS if members else ():
                other = features.copy()
                other[:, members] = np.rint(other[:, members] * factor).astype(np.int64)
                score = self.trial.candidate.predict(other)
                then = measures.log_loss(score, fraud, weight)
                gained = measures.average_precision(score, fraud, weight)
                sharp = score.max() >= self._lift_min(share) * np.average(score, weights=weight)
                if sharp and then < best[0] and gained > least:
                    best = (then, name, factor, gained)
        _, name, factor, gained = best
        return Check(
            reason="unit_changed",
            passed=not name,
            found=f"{name} seems to be expected in another unit: {factor:g} times what it is gives "
            f"average precision {gained:.3f} instead of {precision:.3f}"
            if name
            else "no feature would serve better in another unit",
        )

    def _leak(self) -> Check:
        signals = signals_of(self.trial.tests)
        top = signals[0]
        passed = top.average_precision <= self.limits.signal_max
        return Check(
            reason="leak",
            passed=passed,
            found=f"{top.feature} alone has average precision {top.average_precision:.3f} (at most "
            f"{self.limits.signal_max:g})" + ("" if passed else ": it knows the label"),
        )

    def _ceiling(self, *, proved: bool) -> Check:
        """proved: what it learnt is what was logged, bit for bit. Then a history may be as easy as
        it looks, as one of frauds in bursts of unlike amounts."""
        found = [
            measures.average_precision(s, rows.window.fraud, rows.window.weight)
            for rows, s in zip(self.trial.tests, self.ours, strict=True)
        ]
        mean = float(np.mean(found))
        most = self.limits.average_precision_max
        if most is None:
            honest = proved and self._reported_us() >= REPORTED_MIN_US
            most = 1.0 if honest else PLAUSIBLE_MAX
        passed = mean <= most
        told = f"at most {most:g} is plausible" if most < 1 else "by features that are the log's"
        return Check(
            reason="above_ceiling",
            passed=passed,
            found=f"average precision {mean:.3f}, {told}"
            + ("" if passed else ": look for a leak from the future"),
        )

    def _reported_us(self) -> float:
        """How long half of the tests' frauds took to be known, at most."""
        took = [
            (rows.known_us - rows.window.event_us)[rows.window.fraud] for rows in self.trial.tests
        ]
        return float(np.median(np.concatenate(took)))

    def _immature(self) -> Check | None:
        """A day after each test most frauds are not known and count as genuine, so an honest model
        looks worse by that day's labels. One that looks better saw which would be known, unless
        it looks as good by as many frauds of the same days, whichever they are: where labels have
        one fixed delay, those known early are the first days', which may be easy ones."""
        young = [rows.known_by(rows.until_us + DAY_US) for rows in self.trial.tests]
        early = Window.joined(young)
        known, all_frauds = int(early.fraud.sum()), int(self.whole.fraud.sum())
        if known < YOUNG_FRAUDS_MIN or known > 0.9 * all_frauds:
            return None
        gain = self.limits.immature_gain
        then, now = self._worth(early.fraud), self._worth(self.whole.fraud)
        found = (
            f"average precision {then:.3f} by the {known} frauds known a day after the tests, "
            f"{now:.3f} by all {all_frauds}"
        )
        passed = then <= now + gain
        if not passed:
            alike = float(np.mean([self._worth(some) for some in self._as_many(early.fraud)]))
            passed = then <= alike + gain
            found += f", {alike:.3f} by as many of the same days"
        if passed and self.theirs is not None:
            then, now = self._lead(early.fraud), self._lead(self.whole.fraud)
            found += f"; over the champion's {then:+.3f} and {now:+.3f}"
            if then > gain and now <= 0:
                alike = float(np.mean([self._lead(some) for some in self._as_many(early.fraud)]))
                passed = then <= alike + gain
                found += f", {alike:+.3f} by as many of the same days"
        return Check(
            reason="better_immature",
            passed=passed,
            found=found
            + ("" if passed else ": it knows which frauds would be reported soon, not which are"),
        )

    def _worth(self, fraud: Bools) -> float:
        """Average precision over all tests, were these the frauds."""
        return measures.average_precision(self.score, fraud, self.whole.weight)

    def _lead(self, fraud: Bools) -> float:
        """By how much it is above the champion's."""
        assert self.theirs is not None
        theirs = np.concatenate(self.theirs)
        return self._worth(fraud) - measures.average_precision(theirs, fraud, self.whole.weight)

    def _as_many(self, chosen: Bools) -> Iterator[Bools]:
        """SHUFFLES times as many frauds of each day as are chosen, drawn from all of that day."""
        rng = np.random.default_rng(0)
        frauds = np.flatnonzero(self.whole.fraud)
        day = self.whole.event_us[frauds] // DAY_US
        by_day = np.lexsort((~chosen[frauds], day))  # those chosen first in each day
        taken = chosen[frauds][by_day]
        for _ in range(SHUFFLES):
            drawn = np.zeros(len(chosen), np.bool_)
            drawn[frauds[np.lexsort((rng.random(len(frauds)), day))]] = taken
            yield drawn

    def _signal(self) -> Check:
        found = [
            measures.auc(s, rows.window.fraud, rows.window.weight)
            for rows, s in zip(self.trial.tests, self.ours, strict=True)
        ]
        mean = float(np.mean(found))
        highest = np.sort(self.score)[-max(1, int(measures.TOP * len(self.score))) :]
        lift = float(highest.mean() / max(self.score.mean(), 1e-12))
        least = self._lift_min(self.whole.fraud.mean())
        passed = mean >= self.limits.auc_min and lift >= least
        return Check(
            reason="no_signal",
            passed=passed,
            found=f"AUC {mean:.3f} (at least {self.limits.auc_min:g}); its highest scores promise "
            f"{lift:.0f} times its mean (at least {least:.3g})"
            + ("" if passed else ": it learnt nothing, as from shuffled labels"),
        )

    def _lift_min(self, share: float) -> float:
        """Nothing promises more than certainty: where a tenth is fraud, ten times the mean."""
        return min(self.limits.lift_min, 0.5 / max(share, 1e-12))

    def _calibration(self) -> Check:
        ratios = [
            corrected(s, rows).get("expected_to_actual", float("nan"))
            for rows, s in zip(self.trial.tests, self.ours, strict=True)
        ]
        mean = float(np.nanmean(ratios))
        base = self.whole.fraud.mean()
        loss = measures.log_loss(self.score, self.whole.fraud, self.whole.weight)
        constant = measures.log_loss(
            np.full(len(self.score), base), self.whole.fraud, self.whole.weight
        )
        low, high = self.limits.expected_to_actual_min, self.limits.expected_to_actual_max
        return Check(
            reason="calibration",
            passed=low <= mean <= high and loss <= constant,
            found=f"it expects {mean:.2f} times the frauds there are ({low:g} to {high:g}); "
            f"log-loss {loss:.4f}, a constant has {constant:.4f}",
        )

    def _latency(self) -> Check:
        took = self.trial.candidate.timings_us
        limits = {"1": self.limits.latency_1_us, "512": self.limits.latency_512_us}
        over = [rows for rows, most in limits.items() if took.get(rows, 0.0) > most]
        told = ", ".join(
            f"{took[rows]:,.0f} us for {rows} (at most {most:,.0f})"
            for rows, most in limits.items()
            if rows in took
        )
        return Check(reason="latency", passed=not over, found=told or "not measured")

    def _against(self, theirs: list[Floats]) -> list[Check]:
        trial, limits = self.trial, self.limits
        champion = trial.champion
        assert champion is not None
        other = np.concatenate(theirs)
        apart = measures.paired_interval(self.score, other, self.whole)
        worse = apart.mean < -limits.average_precision_loss and apart.high < 0
        ours_euros, their_euros = (_euros(scores, trial.tests) for scores in (self.ours, theirs))
        steps = self.thresholds(self.ours_tuning)
        their_steps = self.thresholds(self._score(champion.contender, trial.tuning))
        flips = flips_of(
            severity(their_steps, to_ppm(other)), severity(steps, to_ppm(self.score)), self.whole
        )
        self.champion_flips = flips
        exponent = EXPONENTS[trial.currency]
        stopped, approved = (
            1e5 * n / flips.rows for n in (flips.newly_stopped, flips.newly_approved)
        )
        return [
            Check(
                reason="worse",
                passed=not worse,
                found=f"average precision {apart.mean:+.4f} beside {champion.release} (95 % "
                f"interval {apart.low:+.4f} to {apart.high:+.4f}, over cards; at most "
                f"{limits.average_precision_loss:g} below)",
            ),
            Check(
                reason="euros",
                passed=ours_euros >= their_euros - limits.euros_loss,
                found=f"{ours_euros:.1%} of fraud's amount within the alert budget, "
                f"{champion.release} {their_euros:.1%} (at most {limits.euros_loss:.1%} below)",
            ),
            Check(
                reason="flips",
                passed=stopped <= limits.newly_stopped_per_100k
                and approved <= limits.newly_approved_per_100k,
                found=f"of 100,000 decisions {stopped:.0f} are newly stopped (at most "
                f"{limits.newly_stopped_per_100k:g}) and {approved:.0f} newly approved (at most "
                f"{limits.newly_approved_per_100k:g}); of fraud's amount "
                f"{_amount(flips.fraud_stopped_minor, exponent)} more is stopped and "
                f"{_amount(flips.fraud_approved_minor, exponent)} more gets through "
                f"({trial.currency})",
            ),
            self._segments(theirs, champion.release),
        ]

    def _segments(self, theirs: list[Floats], release: str) -> Check:
        caught: dict[tuple[str, str], list[int]] = {}
        exponent = EXPONENTS[self.trial.currency]
        for rows, ours, other in zip(self.trial.tests, self.ours, theirs, strict=True):
            fraud = rows.window.fraud
            hit = ours > budget_limit(ours, rows.weight)
            their_hit = other > budget_limit(other, rows.weight)
            for key, inside in segments_of(rows, exponent).items():
                sums = caught.setdefault(key, [0, 0, 0])
                sums[0] += int((inside & fraud).sum())
                sums[1] += int((inside & fraud & hit).sum())
                sums[2] += int((inside & fraud & their_hit).sum())
        worst = (0.0, "no segment is", True)
        for (by, name), (frauds, ours_hit, their_hits) in caught.items():
            if frauds < self.limits.segment_frauds_min:
                continue
            loss = (their_hits - ours_hit) / frauds
            share = (their_hits + ours_hit) / (2 * frauds)
            noise = 2 * (2 * share * (1 - share) / frauds) ** 0.5
            if loss > worst[0]:
                told = (
                    f"{by} {name}: recall {ours_hit / frauds:.3f} of {frauds} frauds, {release} "
                    f"{their_hits / frauds:.3f}, is"
                )
                worst = (loss, told, loss <= max(self.limits.segment_loss, noise))
        return Check(
            reason="segment",
            passed=worst[2],
            found=f"{worst[1]} the worst (at most {self.limits.segment_loss:g} below)"
            if worst[0]
            else "no segment with enough frauds is below the champion",
        )

    def _int8(self, int8: Contender) -> list[Check]:
        score = np.concatenate([self._score(int8, rows) for rows in self.trial.tests])
        steps = self.thresholds(self.ours_tuning)
        flips = flips_of(
            severity(steps, to_ppm(self.score)), severity(steps, to_ppm(score)), self.whole
        )
        self.int8_flips = flips
        limits = self.limits
        ours, theirs = len(np.unique(to_ppm(self.score))), len(np.unique(to_ppm(score)))
        found = (
            f"eight bits change {flips.per_100k:.1f} of 100,000 decisions ({flips.newly_stopped} "
            f"newly stopped, {flips.newly_approved} newly approved of {flips.rows:,}; at most "
            f"{limits.int8_flips_per_100k:g})"
        )
        over = flips.per_100k > limits.int8_flips_per_100k
        broken = flips.per_100k > max(limits.int8_broken_per_100k, limits.int8_flips_per_100k)
        few = theirs < limits.int8_levels_min * ours
        self.int8_left_out = over and not (broken or few or self.trial.int8_named)
        if self.int8_left_out:
            found += ": left out, the release scores in single precision"
        elif over:
            found += ": calibrate on more rows, with frauds among them"
        return [
            Check(reason="int8_flips", passed=not over or self.int8_left_out, found=found),
            Check(
                reason="int8_levels",
                passed=not few,
                found=f"{theirs:,} distinct scores in eight bits, {ours:,} before"
                + (": leave the last layer in single precision" if few else ""),
            ),
        ]


def flips_of(before: Ints, after: Ints, window: Window) -> Flips:
    """What changed between two severities of the same rows, 0 approve to 3 decline."""
    stopped, approved = (before == 0) & (after > 0), (before > 0) & (after == 0)
    amount, fraud = window.amount_minor, window.fraud
    return Flips(
        rows=len(before),
        newly_stopped=int(stopped.sum()),
        newly_approved=int(approved.sum()),
        stricter=int((after > before).sum()),
        milder=int((after < before).sum()),
        fraud_stopped_minor=int(amount[stopped & fraud].sum()),
        fraud_approved_minor=int(amount[approved & fraud].sum()),
        genuine_stopped_minor=int(amount[stopped & ~fraud].sum()),
        genuine_approved_minor=int(amount[approved & ~fraud].sum()),
    )


def typical_sizes(names: Sequence[str], features: Ints) -> dict[str, float]:
    """Median of what is not 0, by feature, of those that have a unit and enough such rows."""
    return {name: float(found[1]) for name, found in _quartiles(names, features).items()}


def _quartiles(names: Sequence[str], features: Ints) -> dict[str, Floats]:
    """(3,) of the same, by feature."""
    found = {}
    for i, name in enumerate(names):
        if _unit(name) in SCALED_UNITS:
            size = np.abs(features[:, i])
            size = (
                size[(size > 0) & (size != catalogue.NEVER_S)]
                if _unit(name) == "s"
                else size[size > 0]
            )
            if len(size) >= NONZERO_MIN:
                found[name] = np.quantile(size, (0.25, 0.5, 0.75))
    return found


def typical_of_row(names: Sequence[str], row: Sequence[int]) -> dict[str, float]:
    """The same from the medians that a release has, of what is not 0 there."""
    return {
        name: float(abs(value))
        for name, value in zip(names, row, strict=True)
        if _unit(name) in SCALED_UNITS and value and abs(value) != catalogue.NEVER_S
    }


def _unit(name: str) -> str:
    return catalogue.FEATURES[catalogue.INDEX[name]].unit if name in catalogue.INDEX else ""


def _amount(minor: int, exponent: int) -> str:
    return f"{minor / 10**exponent:,.0f}"


def _apart(one: float, other: float) -> float:
    return max(one / other, other / one)


def _moved(one: Floats, other: Floats) -> float:
    """How many times all of one are at least above the other's, or below."""
    return float(max((one / other).min(), (other / one).min()))


def _euros(scores: Sequence[Floats], tests: Sequence[Rows]) -> float:
    caught = lost = 0.0
    for score, rows in zip(scores, tests, strict=True):
        hit = score > budget_limit(score, rows.weight)
        euros = rows.window.amount_minor * rows.weight * rows.window.fraud
        caught += float(euros[hit].sum())
        lost += float(euros.sum())
    return caught / max(1.0, lost)
