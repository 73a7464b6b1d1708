"""Train, measure, export, pack: from nothing to a signed release.

  sluice-train              train into var/train, and compare with the release in force
  sluice-train --install    ... and put it in force: release, trusted key, thresholds

Everything follows from the plan (``plan.py``): worlds are simulated from their seeds, so the same
machine makes the same model.onnx, bit for bit. Without --key the release is signed with a key made
for it, whose private part is dropped. Takes about six minutes and 8 GB on two cores.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sluice.adapters.policyfiles import read_policy
from sluice.application.sign_release import read_private_key
from sluice.domain.clock import to_datetime
from sluice.domain.features import catalogue
from sluice.domain.policy.fx import Fx
from sluice.domain.policy.policy import Policy
from sluice.domain.records.entity import EntityKind
from sluice.domain.release import MODEL, Provenance, public_line

from sluice_models import dataset, tuning
from sluice_models.card import write_card
from sluice_models.dataset import Table
from sluice_models.measure import measure, summary
from sluice_models.models import Model
from sluice_models.pack import code_digest, pack
from sluice_models.plan import Figures, Findings, TrainingPlan

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

DROPOUT_OF_VIEWS = 0.05
"""Share of training rows that see a view as missing, for each of the views that may be."""
MAY_MISS: tuple[EntityKind, ...] = ("terminal", "merchant", "device")
TOLERATED_LOSS = 0.05
"""A view is tolerated if missing it costs at most this share of the average precision."""


@dataclass
class Sample:
    """What a kind of model is trained on, world by world."""

    features: list[Ints] = field(default_factory=list)
    labels: list[Bools] = field(default_factory=list)
    shifts: list[float] = field(default_factory=list)

    def joined(self) -> tuple[Ints, Bools, float]:
        """Features, labels and the mean shift of the logit."""
        return (
            np.concatenate(self.features),
            np.concatenate(self.labels),
            float(np.mean(self.shifts)),
        )


@dataclass
class Windows:
    """Whole weeks, every card in them; untainted: cards of which no fraud was known before."""

    tables: list[Table] = field(default_factory=list)
    untainted: list[Bools] = field(default_factory=list)

    def add(self, table: Table, first_us: int, until_us: int) -> None:
        """Take the rows of one stretch of time."""
        inside = table.between(first_us, until_us)
        self.tables.append(table.rows(inside))
        self.untainted.append(table.untainted(first_us)[inside])


@dataclass
class Material:
    """All that the worlds gave."""

    samples: dict[str, Sample] = field(default_factory=dict)
    """By family."""
    tuning: Windows = field(default_factory=Windows)
    later: Windows = field(default_factory=Windows)
    elsewhere: Windows = field(default_factory=Windows)
    cold: Windows = field(default_factory=Windows)
    rows: int = 0
    frauds: int = 0
    trained_on: list[str] = field(default_factory=list)
    """Digests of the histories learnt from."""
    judged_by: list[str] = field(default_factory=list)
    """Digests of all histories: each gives weeks that judge."""


def gather(plan: TrainingPlan, fx: Fx, work: Path) -> Material:
    """Simulate the worlds, run them through the kernel, keep samples and windows."""
    material = Material()
    for seed in (*plan.train_worlds, *plan.new_worlds):
        began = time.monotonic()
        folder = work / f"world-{seed}"
        dataset.simulate(
            folder, seed=seed, cards=plan.cards, days=plan.days, start=plan.start, bp=plan.fraud_bp
        )
        table = dataset.read(folder, fx)
        material.judged_by.append(table.digest)
        if seed in plan.train_worlds:
            material.trained_on.append(table.digest)
            _take_samples(plan, fx, table, seed, material)
            material.tuning.add(table, plan.at(plan.tuned_on), plan.at(plan.tuned_on + 7))
        else:
            material.cold.add(table, plan.at(0), plan.at(7))
        windows = material.later if seed in plan.train_worlds else material.elsewhere
        for week in plan.weeks:
            windows.add(table, plan.at(week), plan.at(week + 7))
        print(
            f"world {seed}: {len(table.fraud):,} rows, {table.fraud.sum():,} frauds, "
            f"{time.monotonic() - began:.0f} s",
            flush=True,
        )
    return material


def _take_samples(plan: TrainingPlan, fx: Fx, table: Table, seed: int, material: Material) -> None:
    past = np.flatnonzero(table.event_us < plan.at(plan.train_until))
    label = table.reported(plan.at(plan.trained_on))[past]
    material.rows += len(past)
    material.frauds += int(label.sum())
    rng = np.random.default_rng(seed)
    for family in plan.families:
        sample = material.samples.setdefault(family.name, Sample())
        chosen = dataset.undersample(label, family.negatives, rng)
        rows = table.rows(past[chosen])
        features = rows.features.copy()
        fate = rng.random(len(features))
        for i, view in enumerate(MAY_MISS):
            gone = (fate >= i * DROPOUT_OF_VIEWS) & (fate < (i + 1) * DROPOUT_OF_VIEWS)
            features[gone] = rows.rows(gone).without(view, fx)
        sample.features.append(dataset.trained_on(features))
        sample.labels.append(label[chosen])
        sample.shifts.append(dataset.prior_shift(label, chosen))


def judged(
    model: Model, windows: Windows, *, missing: str = "", fx: Fx | None = None
) -> list[dict[str, float]]:
    """Figures of each window, cards known to be compromised left out (the Handbook's protocol)."""
    found = []
    for whole, untainted in zip(windows.tables, windows.untainted, strict=True):
        table = whole.rows(untainted)
        features = table.without(missing, fx) if missing and fx else table.features
        score = model.predict(dataset.TRAINED_ON, dataset.trained_on(features))
        found.append(measure(score, table.fraud, table.amount_minor, table.card, table.event_us))
    return found


def compare(plan: TrainingPlan, fx: Fx, material: Material) -> tuple[Model, Findings]:
    """Train every seed of every family; the released family's first seed is the one that ships."""
    names = dataset.TRAINED_ON
    fitted: dict[str, list[Model]] = {}
    figures: dict[str, dict[str, Figures]] = {}
    for family in plan.families:
        features, label, shift = material.samples[family.name].joined()
        models = [family.fit(names, features, label, shift, seed=seed) for seed in family.seeds]
        fitted[family.name] = models
        figures[family.name] = {
            name: summary([found for model in models for found in judged(model, windows)])
            for name, windows in _sets(material).items()
        }
    ships = fitted[plan.family.name][0]
    whole = _precision(judged(ships, material.later))
    missing: dict[EntityKind, float] = {
        view: _precision(judged(ships, material.later, missing=view, fx=fx)) / whole
        for view in MAY_MISS
    }
    return ships, Findings(
        figures=figures,
        missing=missing,
        tolerates=[view for view, share in missing.items() if share >= 1 - TOLERATED_LOSS],
    )


def _sets(material: Material) -> dict[str, Windows]:
    return {"later": material.later, "elsewhere": material.elsewhere, "cold": material.cold}


def _precision(figures: list[dict[str, float]]) -> float:
    return float(np.mean([f["average_precision"] for f in figures]))


def tune(model: Model, policy_dir: Path, material: Material, findings: Findings) -> str:
    """Set thresholds in the pack, measure it, and return the line of what the fallback catches."""
    ppm = [_ppm(model, t) for t in material.tuning.tables]
    fraud = np.concatenate([t.fraud for t in material.tuning.tables])
    findings.thresholds = tuning.thresholds(np.concatenate(ppm), fraud)
    windows = [*material.later.tables, *material.elsewhere.tables]
    old = read_policy(policy_dir, catalogue.FEATURES)
    findings.fallback = tuning.total(
        [(tuning.severities(old, t.features, None), t.fraud, t.amount_minor) for t in windows]
    )
    data = dataset.joined_digest(material.judged_by)
    line = tuning.measured_line(findings.fallback, data, date.today())
    tuning.write_pack(policy_dir / "policy.yaml", findings.thresholds, line)
    fresh = read_policy(policy_dir, catalogue.FEATURES)
    findings.policy, findings.policy_cold = (
        tuning.total(
            [
                (tuning.severities(fresh, t.features, _ppm(model, t)), t.fraud, t.amount_minor)
                for t in tables
            ]
        )
        for tables in (windows, material.cold.tables)
    )
    findings.rules = _rules(fresh, windows)
    return fresh.id


def _rules(policy: Policy, windows: list[Table]) -> list[tuple[str, int, int]]:
    reports = [tuning.rule_report(policy, t.features, t.fraud) for t in windows]
    return [
        (rows[0][0], sum(r[1] for r in rows), sum(r[2] for r in rows))
        for rows in zip(*reports, strict=True)
    ]


def _ppm(model: Model, table: Table) -> Ints:
    score = model.predict(dataset.TRAINED_ON, dataset.trained_on(table.features))
    return np.rint(score * 1e6).astype(np.int64)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("var/train"), metavar="DIR")
    parser.add_argument("--key", type=Path, metavar="FILE", help="Ed25519 key to sign with")
    parser.add_argument("--install", action="store_true", help="put the release in force")
    args = parser.parse_args()
    began = time.monotonic()
    plan = TrainingPlan()
    policy_dir = Path("policies/default")
    key = read_private_key(args.key) if args.key else Ed25519PrivateKey.generate()
    fx = read_policy(policy_dir, catalogue.FEATURES).fx
    material = gather(plan, fx, args.work)
    model, findings = compare(plan, fx, material)
    print(f"trained and compared: {time.monotonic() - began:.0f} s", flush=True)
    if not args.install:
        policy_dir = _copied(policy_dir, args.work / "policy" / policy_dir.name)
    policy_id = tune(model, policy_dir, material, findings)
    root = Path("models/releases") if args.install else args.work / "releases"
    name = finish(plan, material, model, findings, fx, root, key)
    _report(root / name, policy_id, findings)
    if args.install:
        install(root, name, Path("policies/trust"), key)
    print(f"done in {time.monotonic() - began:.0f} s")
    return 0


def finish(
    plan: TrainingPlan,
    material: Material,
    model: Model,
    findings: Findings,
    fx: Fx,
    root: Path,
    key: Ed25519PrivateKey,
) -> str:
    """Export the model, write its release into a folder of its name, and return the name.

    Raises AssertionError if the served graph does not give what the model gives.
    """
    created = time.time_ns() // 1000
    family = plan.family
    graph = family.export(model)
    sample, label, shift = material.samples[family.name].joined()
    provenance = Provenance(
        kind=family.kind,
        data=dataset.joined_digest(material.trained_on),
        code=code_digest(),
        trained_from=plan.at(0),
        trained_until=plan.at(plan.train_until),
        rows=material.rows,
        frauds=material.frauds,
        prior_correction_milli=round(1000 * shift),
        seed=family.seeds[0],
    )
    name = f"{family.name}-{to_datetime(created):%Y%m%d}-{hashlib.sha256(graph).hexdigest()[:6]}"
    rows = dataset.trained_on(material.tuning.tables[0].features)
    served = pack(
        root / name,
        graph,
        release=name,
        created_at=created,
        card=write_card(name, plan, provenance, findings),
        provenance=provenance,
        metrics=_metrics(findings.figures[family.name]),
        thresholds_ppm=findings.thresholds,
        tolerates=findings.tolerates,
        reference_row=np.median(sample[~label], axis=0).astype(np.int64),
        reference_currency=fx.reference,
        rows=rows,
        key=key,
    )
    names = dataset.TRAINED_ON
    apart = np.abs(model.predict(names, rows) - served.predict(names, rows))
    if apart.max() > 5e-6:
        raise AssertionError(f"the graph and its model differ by {apart.max():.1e}")
    print(f"the graph and its model differ by at most {apart.max():.1e} on {len(apart):,} rows")
    return name


def install(root: Path, name: str, trust: Path, key: Ed25519PrivateKey) -> None:
    """Trust the key and point ``current`` at the release, at once."""
    (trust / f"{name}.pub").write_text(public_line(key.public_key(), name))
    fresh = root / "current.new"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(name)
    fresh.replace(root / "current")


def _copied(source: Path, target: Path) -> Path:
    (target / "lists").mkdir(parents=True, exist_ok=True)
    for path in [*source.glob("*.yaml"), *source.glob("lists/*.txt")]:
        (target / path.relative_to(source)).write_bytes(path.read_bytes())
    return target


def _metrics(found: dict[str, Figures]) -> dict[str, int]:
    """Of the manifest: means over windows of the worlds trained on, and of new ones."""
    named = {"later": found["later"], "new_world": found["elsewhere"]}
    return {
        f"{name}_{figure}_ppm": round(1e6 * mean)
        for name, figures in named.items()
        for figure, (mean, _) in figures.items()
    }


def _report(folder: Path, policy_id: str, findings: Findings) -> None:
    model = (folder / MODEL).read_bytes()
    active = Path("models/releases/current") / MODEL
    same = active.exists() and active.read_bytes() == model
    print(f"{folder}: {len(model):,} bytes, policy {policy_id}")
    print(f"thresholds {findings.thresholds}, tolerates {findings.tolerates}")
    print(f"the model in force is {'the same, bit for bit' if same else 'another one'}")


if __name__ == "__main__":
    raise SystemExit(main())
