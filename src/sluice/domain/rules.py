"""Rules over integer features, compiled to tables that one numba loop runs for one row or many.

A rule is written ``card_small_count_1h >= 6``, conditions joined by ``all`` and ``any``. Which
views it needs is worked out from its features, never written down: a rule whose view is missing
does not fire, and the caller learns its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from sluice.domain.compiled import entry, part
from sluice.domain.observation import ENTITY_KINDS
from sluice.domain.outcome import Outcome
from sluice.domain.reasons import BY_CODE
from sluice.errors import Misconfigured

Ints = npt.NDArray[np.int64]

MAX_RULES = 62
"""Fired rules are bits of one signed 64-bit integer."""
MAX_CONDITIONS = 16
"""Of one rule; more is better said as two rules."""
VIEW_BITS: dict[str, int] = {kind: 1 << i for i, kind in enumerate(ENTITY_KINDS)}
"""Bit of each view in a mask of missing views; the context has none, it is never missing."""
ALL_VIEWS = (1 << len(ENTITY_KINDS)) - 1

_CONDITION = re.compile(r"\s*([a-z][a-z0-9_]*)\s*(==|!=|<=|>=|<|>)\s*(-?[0-9][0-9_]*)\s*")
_OPERATORS = {"<": 0, "<=": 1, ">": 2, ">=": 3, "==": 4, "!=": 5}
_LIMIT = 2**63


class FeatureLike(Protocol):
    """What a rule needs to know of a feature: see :class:`sluice.domain.catalogue.Feature`."""

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
    ``all``, how many of ``any``, views needed, severity, first rung at which the rule is asked.
    strict_first: bit numbers in the order in which reasons are named.
    """

    rules: tuple[Rule, ...]
    conditions: Ints
    table: Ints
    strict_first: tuple[int, ...]

    def silent(self, missing: int, rung: int) -> tuple[str, ...]:
        """Ids of the rules that cannot fire while these views are missing, in file order."""
        return tuple(
            rule.id
            for rule, row in zip(self.rules, self.table, strict=True)
            if row[3] & missing and rung >= row[5]
        )


def compile_rules(
    packs: Sequence[tuple[str, int, Sequence[Rule]]], features: Sequence[FeatureLike]
) -> Rules:
    """Compile rule lists, each with the place it came from and the first rung that asks it.

    Raises Misconfigured naming the rule: unknown feature (with the nearest name), malformed
    condition, unknown reason, id used twice, no condition at all, too many rules.
    """
    columns = {f.name: (i, VIEW_BITS.get(f.entity, 0)) for i, f in enumerate(features)}
    rules = [(where, rung, rule) for where, rung, pack in packs for rule in pack]
    if len(rules) > MAX_RULES:
        raise Misconfigured(f"{len(rules)} rules, at most {MAX_RULES} fit", where=packs[0][0])
    seen: set[str] = set()
    conditions: list[tuple[int, int, int]] = []
    table: list[tuple[int, int, int, int, int, int]] = []
    for source, rung, rule in rules:
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
            (first, len(rule.when.all), len(rule.when.any), needs, rule.outcome.severity, rung)
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
    rung: Ints,
    score_ppm: Ints,
    amount_column: int,
    conditions: Ints,
    table: Ints,
    steps: Ints,
) -> Ints:
    """Rules and model thresholds for n rows.

    features: (n, f). missing: (n,) view bits. rung: (n,) 0 to 3. score_ppm: (n,), read only where
    rung < 2. steps: (2, 3) score and expected loss from which to challenge, review, decline.
    Returns (n, 6): severity of the rules, bits of the rules fired, severity of the score,
    severity of the expected loss, missing, rung. O(n x conditions).
    """
    n = features.shape[0]
    out = np.zeros((n, 6), np.int64)
    for i in range(n):
        out[i, 4], out[i, 5] = missing[i], rung[i]
        for r in range(table.shape[0]):
            if rung[i] < table[r, 5] or (missing[i] & table[r, 3]) != 0:
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
                out[i, 1] |= 1 << r
                out[i, 0] = max(out[i, 0], table[r, 4])
        if rung[i] < 2:
            loss = score_ppm[i] * features[i, amount_column] // 1_000_000
            for s in range(3):
                if score_ppm[i] >= steps[0, s]:
                    out[i, 2] = s + 1
                if loss >= steps[1, s]:
                    out[i, 3] = s + 1
    return out
