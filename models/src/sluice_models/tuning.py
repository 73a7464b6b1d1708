"""Thresholds and the fallback's recall, found on labelled windows and written into the pack."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sluice.domain.policy.economics import Worth, worth
from sluice.domain.policy.policy import D2, Policy
from sluice.domain.release import Step

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

FALSE_POSITIVES_PER_10K: dict[Step, int] = {"challenge": 15, "review": 5, "decline": 1}
"""Genuine authorizations that a score may stop at each step, per 10,000 genuine: what a call
centre bears. A setting of ours, not a law."""


def thresholds(ppm: Ints, fraud: Bools) -> dict[Step, int]:
    """Steps on the score that keep to FALSE_POSITIVES_PER_10K, rounded up to two digits."""
    genuine = np.sort(ppm[~fraud])[::-1]
    found = {}
    for step, budget in FALSE_POSITIVES_PER_10K.items():
        limit = int(genuine[int(len(genuine) * budget / 10_000)]) + 1
        grain = 10 ** max(0, len(str(limit)) - 2)
        found[step] = min(999_999, -(-limit // grain) * grain)
    return found


def severities(policy: Policy, features: Ints, ppm: Ints | None) -> Ints:
    """(n,) what the pack asks for, without lists: with scores degradation level D0, without
    degradation level D2."""
    n = len(features)
    level = np.full(n, D2 if ppm is None else 0)
    judged = policy.judge(features, np.zeros(n, np.int64), level, level if ppm is None else ppm)
    return np.asarray(judged[:, [0, 2, 3]].max(axis=1), np.int64)


def rule_report(policy: Policy, features: Ints, fraud: Bools) -> list[tuple[str, int, int]]:
    """For each rule, fallback included: id, frauds and genuine authorizations it fired on."""
    n = len(features)
    level = np.full(n, D2)
    fired = policy.judge(features, np.zeros(n, np.int64), level, level)[:, 1]
    return [
        (rule.id, int((hit & fraud).sum()), int((hit & ~fraud).sum()))
        for i, rule in enumerate(policy.rules.rules)
        for hit in [(fired >> i & 1).astype(bool)]
    ]


def total(parts: Sequence[tuple[Ints, Bools, Ints]]) -> Worth:
    """Worth of several windows together: (severity, fraud, amount) of each."""
    severity, fraud, amount = (np.concatenate(column) for column in zip(*parts, strict=True))
    return worth(severity, fraud, amount)


def measured_line(fallback: Worth, data: str, today: date) -> str:
    """The pack's ``measured``, as one YAML line."""
    recall = fallback.frauds_stopped * 1_000_000 // fallback.frauds
    by_amount = fallback.stopped_minor * 1_000_000 // fallback.fraud_minor
    false = round((fallback.false_positives_per_10k or 0) * 1000)
    return (
        f"{{recall_ppm: {recall}, recall_amount_ppm: {by_amount}, "
        f"false_positives_per_10k_milli: {false}, data: {data[:16]}, measured_on: {today}}}"
    )


def write_pack(path: Path, steps: Mapping[Step, int], measured: str) -> None:
    """Put thresholds and the fallback's recall into policy.yaml; all else, comments too, stays."""
    flow = ", ".join(f"{name}: {value}" for name, value in steps.items())
    text = path.read_text()
    for key, value in (("score_ppm", f"{{{flow}}}"), ("measured", measured)):
        text, replaced = re.subn(rf"(?m)^(  {key}:) .*$", rf"\1 {value}", text)
        if replaced != 1:
            raise ValueError(f"{path} has {replaced} lines '  {key}:', expected one")
    path.write_text(text)
