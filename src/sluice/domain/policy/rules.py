"""Rules over integer features, compiled to tables that one numba loop runs for one row or many.

A rule is written ``card_small_count_1h >= 6``, conditions joined by ``all`` and ``any``. Which
views it needs is worked out from its features, never written down: a rule whose view is missing
does not fire, and the caller learns its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from sluice.domain.compiled import entry, part
from sluice.domain.policy.reasons import BY_CODE
from sluice.domain.records.entity import mask_of
from sluice.domain.records.outcome import Outcome
from sluice.errors import Misconfigured

Ints = npt.NDArray[np.int64]

MAX_RULES = 62
"""Fired rules are bits of one signed 64-bit integer."""
MAX_CONDITIONS = 16
"""Of one rule; more is better said as two rules."""

_CONDITION = re.compile(r"\s*([a-z][a-z0-9_]*)\s*(==|!=|<=|>=|<|>)\s*(-?[0-9](?:_?[0-9]){0,18})\s*")
_OPERATORS = {"<": 0, "<=": 1, ">": 2, ">=": 3, "==": 4, "!=": 5}
_LIMIT = 2**63


class Said(NamedTuple):
    """What :func:`judge` says of one row: its columns."""

    by_rules: int
    """Severity of the rules that fired."""
    fired: int
    """Their bits."""
    by_score: int
    """Severity of the score."""
    by_loss: int
    """Severity of the expected loss."""
    missing: int
    """Mask of the views that were missing."""
    level: int
    """Degradation level, 0 to 3."""


_SAID = len(Said._fields)
_BY_RULES, _FIRED, _BY_SCORE, _BY_LOSS, _MISSING, _LEVEL = range(_SAID)


class FeatureLike(Protocol):
    """What a rule needs of a :class:`sluice.domain.features.catalogue.Feature`."""

    @property
    def name(self) -> str:  # noqa: D102
        ...

    @property
    def entity(self) -> str:  # noqa: D102
        ...


class When(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """True if every condition of ``all`` holds and, where there are any, one of ``any``."""

    all: list[str] = []
    any: list[str] = []


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """At least ``outcome``, with ``reason``, wherever ``when`` holds."""

    id: Annotated[str, Meta(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=64)]
    reason: str
    outcome: Outcome
    when: When


@dataclass(frozen=True, slots=True)
class Rules:
    """A compiled rule set.

    conditions: (c, 3) column, operator, operand. table: (r, 6) first condition, how many of
    ``all``, how many of ``any``, views needed, severity, first degradation level at which the rule
    is asked.
    strict_first: bit numbers in the order in which reasons are named.
    """

    rules: tuple[Rule, ...]
    conditions: Ints
    table: Ints
    strict_first: tuple[int, ...]

    def silenced(self, missing: int, level: int) -> tuple[str, ...]:
        """Ids of the rules that cannot fire while these views are missing, in file order."""
        return tuple(
            rule.id
            for rule, row in zip(self.rules, self.table, strict=True)
            if row[3] & missing and level >= row[5]
        )


def compile_rules(
    packs: Sequence[tuple[str, int, Sequence[Rule]]], features: Sequence[FeatureLike]
) -> Rules:
    """Compile rule lists, each with the place it came from and the first degradation level that
    asks it.

    Raises Misconfigured naming the rule: unknown feature (with the nearest name), malformed
    condition, unknown reason, id used twice, no condition at all, too many rules.
    """
    columns = {f.name: (i, mask_of((f.entity,))) for i, f in enumerate(features)}
    rules = [(where, level, rule) for where, level, pack in packs for rule in pack]
    if len(rules) > MAX_RULES:
        raise Misconfigured(f"{len(rules)} rules, at most {MAX_RULES} fit", where=packs[0][0])
    seen: set[str] = set()
    conditions: list[tuple[int, int, int]] = []
    table: list[tuple[int, int, int, int, int, int]] = []
    for source, level, rule in rules:
        where = f"{source}: rule {rule.id}"
        if rule.id in seen:
            raise Misconfigured(f"the rule id {rule.id} is used twice", where=source)
        seen.add(rule.id)
        check_reason(rule.reason, where)
        if rule.outcome is Outcome.APPROVE:
            raise Misconfigured(
                "a rule cannot approve: outcomes join, the stricter wins",
                where=where,
                fix="use a list with effect: allow",
            )
        texts = [*rule.when.all, *rule.when.any]
        if not 0 < len(texts) <= MAX_CONDITIONS:
            raise Misconfigured(
                f"{len(texts)} conditions, a rule has 1 to {MAX_CONDITIONS}", where=where
            )
        needs = 0
        first = len(conditions)
        for text in texts:
            column, operator, operand, view = _condition(text, columns, where)
            conditions.append((column, operator, operand))
            needs |= view
        table.append(
            (first, len(rule.when.all), len(rule.when.any), needs, rule.outcome.severity, level)
        )
    order = sorted(range(len(rules)), key=lambda i: -table[i][4])
    return Rules(
        rules=tuple(rule for _, _, rule in rules),
        conditions=np.array(conditions, np.int64).reshape(-1, 3),
        table=np.array(table, np.int64).reshape(-1, 6),
        strict_first=tuple(order),
    )


def check_reason(code: str, where: str) -> None:
    """Raise Misconfigured if the reason code is not in the table."""
    if code not in BY_CODE:
        raise Misconfigured(
            f"unknown reason code {code}",
            where=where,
            fix="docs/reference/reason-codes.md lists them",
        )


def _condition(
    text: str, columns: Mapping[str, tuple[int, int]], where: str
) -> tuple[int, int, int, int]:
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise Misconfigured(
            f"{text!r} is not a condition",
            where=where,
            fix="write FEATURE OPERATOR INTEGER, like amount_minor >= 20_000",
        )
    name, operator, operand = match.groups()
    if name not in columns:
        raise Misconfigured(
            f"unknown feature {name}", where=where, fix="docs/reference/features.md lists them"
        )
    value = int(operand)
    if not -_LIMIT <= value < _LIMIT:
        raise Misconfigured(f"{operand} does not fit in 64 bits", where=where)
    column, view = columns[name]
    return column, _OPERATORS[operator], value, view


@part
def _holds(value: int, operator: int, operand: int) -> bool:
    if operator == 0:
        return value < operand
    if operator == 1:
        return value <= operand
    if operator == 2:
        return value > operand
    if operator == 3:
        return value >= operand
    if operator == 4:
        return value == operand
    return value != operand


@entry
def judge(
    features: Ints,
    missing: Ints,
    level: Ints,
    score_ppm: Ints,
    amount_column: int,
    conditions: Ints,
    table: Ints,
    steps: Ints,
) -> Ints:
    """Rules and model thresholds for n rows.

    features: (n, f). missing: (n,) masks of views. level: (n,) degradation level, 0 to 3.
    score_ppm: (n,), read only where level < 2. steps: (2, len(STRICTER)) score and expected loss
    from which each outcome is asked for. Returns (n, len(Said)). O(n x conditions).
    """
    n = features.shape[0]
    out = np.zeros((n, _SAID), np.int64)
    for i in range(n):
        out[i, _MISSING], out[i, _LEVEL] = missing[i], level[i]
        for r in range(table.shape[0]):
            if level[i] < table[r, 5] or (missing[i] & table[r, 3]) != 0:
                continue
            at = table[r, 0]
            alls = table[r, 1]
            anys = table[r, 2]
            fires = True
            for c in range(at, at + alls):
                if not _holds(features[i, conditions[c, 0]], conditions[c, 1], conditions[c, 2]):
                    fires = False
                    break
            if fires and anys > 0:
                fires = False
                for c in range(at + alls, at + alls + anys):
                    if _holds(features[i, conditions[c, 0]], conditions[c, 1], conditions[c, 2]):
                        fires = True
                        break
            if fires:
                out[i, _FIRED] |= 1 << r
                out[i, _BY_RULES] = max(out[i, _BY_RULES], table[r, 4])
        if level[i] < 2:
            loss = score_ppm[i] * features[i, amount_column] // 1_000_000
            for s in range(steps.shape[1]):
                if score_ppm[i] >= steps[0, s]:
                    out[i, _BY_SCORE] = s + 1
                if loss >= steps[1, s]:
                    out[i, _BY_LOSS] = s + 1
    return out
