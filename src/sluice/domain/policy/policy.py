"""The policy pack: thresholds, rules, lists and fallbacks, and the verdict they give together.

Severities join on the lattice approve < challenge < review < decline, so no rule can weaken what
another one asked for. The only thing that lowers is an allow list, and it lowers the model alone.
Everything is an integer and everything is digested: two deciders with the same ``policy.id`` give
the same verdict on the same row.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from sluice.domain.policy.fx import Fx
from sluice.domain.policy.rules import (
    ALL_VIEWS,
    FeatureLike,
    Rule,
    Rules,
    check_reason,
    compile_rules,
    judge,
)
from sluice.domain.records.authorization import Authorization, Channel
from sluice.domain.records.decision import MAX_REASONS
from sluice.domain.records.outcome import BY_SEVERITY, Outcome
from sluice.errors import Misconfigured

Ints = npt.NDArray[np.int64]
Ppm = Annotated[int, Meta(ge=0, le=1_000_000)]
Minor = Annotated[int, Meta(ge=0)]

NEVER = 2**63 - 1
"""A threshold that nothing reaches."""
MAX_LIST_ENTRIES = 1_000_000
"""About 100 MB in memory; what is longer belongs in a feature."""
D2, D3 = 2, 3
"""Rungs of the ladder from which the fallback rules, then the table, are asked (DESIGN 6)."""


class Steps(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From which value on to challenge, review and decline; null is never."""

    challenge: Minor | None = None
    review: Minor | None = None
    decline: Minor | None = None

    def row(self, where: str) -> list[int]:
        """The three as integers, NEVER for null. Raises Misconfigured if they do not rise."""
        row = [NEVER if s is None else s for s in (self.challenge, self.review, self.decline)]
        given = [s for s in row if s != NEVER]
        if given != sorted(given):
            raise Misconfigured("thresholds do not rise with severity", where=where)
        return row

    def severity(self, value: int) -> int:
        """0 to 3: the strictest step that the value reaches."""
        steps = (self.challenge, self.review, self.decline)
        return max((i for i, s in enumerate(steps, 1) if s is not None and value >= s), default=0)


class Thresholds(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the model's score leads to; the stricter of the two counts.

    expected_loss_minor: score x amount, in minor units of the reference currency.
    """

    score_ppm: Steps
    expected_loss_minor: Steps = Steps()


class Listing(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A file of identifiers. block: at least ``outcome``. allow: of the model, at most that."""

    file: Annotated[str, Meta(pattern=r"^lists/[a-z0-9-]+\.txt$")]
    entity: Literal["card", "terminal", "merchant", "device"]
    effect: Literal["block", "allow"]
    outcome: Outcome
    reason: str


class Measured(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the fallback rules caught on labelled history, so that nobody needs to guess."""

    recall_ppm: Ppm
    recall_amount_ppm: Ppm
    false_positives_per_10k_milli: Minor
    data: str
    measured_on: datetime.date


class Fallback(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Degradation level D2: rules asked only while there is no model. measured: null until
    measured."""

    rules: list[Rule]
    measured: Measured | None = None


class Pack(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``policy.yaml``. table: degradation level D3, steps on the amount in the reference
    currency."""

    version: Annotated[int, Meta(ge=1)]
    thresholds: Thresholds
    rules: list[Rule]
    fallback: Fallback
    table: dict[Channel, Steps]
    lists: list[Listing] = []


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What the policy says of n rows.

    severity: (n,) 0 approve to 3 decline. reasons: at most four codes a row. silent: ids of the
    rules that a missing view kept from firing.
    """

    severity: npt.NDArray[np.int8]
    reasons: list[list[str]]
    silent: list[tuple[str, ...]]

    def outcome(self, i: int) -> Outcome:
        """The outcome of row i."""
        return BY_SEVERITY[self.severity[i]]


_ID_OF: dict[str, Callable[[Authorization], str | None]] = {
    "card": lambda a: a.card_token,
    "terminal": lambda a: a.terminal_id,
    "merchant": lambda a: a.merchant_id,
    "device": lambda a: a.device_id,
}


@dataclass(frozen=True, slots=True)
class _List:
    spec: Listing
    members: frozenset[str]
    of: Callable[[Authorization], str | None]


class Policy:
    """A compiled pack. Immutable; a change makes another one."""

    def __init__(
        self,
        name: str,
        pack: Pack,
        fx: Fx,
        lists: Mapping[str, Sequence[str]],
        features: Sequence[FeatureLike],
    ) -> None:
        """Compile. lists: entries by file name. Raises Misconfigured, naming the place."""
        self.pack = pack
        self.fx = fx
        self.digest = _digest(pack, fx, lists)
        self.id = f"{name}@{self.digest[:12]}"
        where = f"{name}/policy.yaml"
        fx.check(f"{name}/fx.yaml")
        if absent := [c for c in Channel if c not in pack.table]:
            raise Misconfigured(f"no steps for {', '.join(absent)}", where=f"{where}: table")
        for channel, steps in pack.table.items():
            steps.row(f"{where}: table.{channel}")
        self._steps = np.array(
            [
                pack.thresholds.score_ppm.row(f"{where}: thresholds.score_ppm"),
                pack.thresholds.expected_loss_minor.row(f"{where}: thresholds.expected_loss_minor"),
            ],
            np.int64,
        )
        columns = [i for i, f in enumerate(features) if f.name == "amount_minor"]
        if not columns:
            raise Misconfigured("the catalogue has no amount_minor", where="catalogue")
        self._amount_column = columns[0]
        self._width = len(features)
        self.rules: Rules = compile_rules(
            [(f"{where}: rules", 0, pack.rules), (f"{where}: fallback", D2, pack.fallback.rules)],
            features,
        )
        self._named = [(1 << i, self.rules.rules[i].reason) for i in self.rules.strict_first]
        self._silent = {
            (missing, level): self.rules.silent(missing, level)
            for missing in range(ALL_VIEWS + 1)
            for level in range(D3 + 1)
        }
        self._blocks, self._allows = _lists(pack.lists, lists, where)
        self._warm_up()

    def decide(
        self,
        auths: Sequence[Authorization],
        features: Ints,
        *,
        missing: Ints,
        level: Ints,
        score_ppm: Ints | None,
        explain: Callable[[Ints], list[str]] | None = None,
    ) -> Verdicts:
        """Judge n authorizations.

        features: (n, f) C-contiguous, catalogue columns, defaults where a view is missing.
        missing: (n,) bits by VIEW_BITS. degradation level: (n,) 0 to 3 for D0 to D3. score_ppm:
        (n,), read where degradation level is 0 or 1; None if no row has one. explain: reason codes
        of one feature row, strongest first; asked only for rows that the model did not approve.
        O(n x conditions); one row of which nothing is said costs 5 us.
        """
        n = len(auths)
        if features.shape != (n, self._width):
            raise ValueError(f"features are {features.shape}, expected {(n, self._width)}")
        if score_ppm is None:
            if n and int(level.min()) < D2:
                raise ValueError("a row of degradation level D0 or D1 has no score")
            score_ppm = level  # never read
        judged = self.judge(features, missing, level, score_ppm)
        severity = np.zeros(n, np.int8)
        reasons: list[list[str]] = [[] for _ in range(n)]
        silent: list[tuple[str, ...]] = [()] * n
        said = judged[:, 1:5].any(axis=1) | (level == D3)
        some = range(n) if self._blocks else np.flatnonzero(said).tolist()
        for i, (by_rules, fired, by_score, by_loss, absent, at_level) in zip(
            some, judged[some].tolist(), strict=True
        ):
            if absent:
                silent[i] = self._silent[absent, at_level]
            auth = auths[i]
            blocks = self._hits(self._blocks, auth)
            blocks.sort(key=lambda listing: -listing.outcome.severity)
            codes = [listing.reason for listing in blocks]
            codes += [reason for bit, reason in self._named if fired & bit]
            final = max([by_rules, *(listing.outcome.severity for listing in blocks)])
            by_model = max(by_score, by_loss)
            if by_model:
                for listing in self._hits(self._allows, auth):
                    if by_model > listing.outcome.severity:
                        by_model = listing.outcome.severity
                        codes.append(listing.reason)
            if by_model:
                why = explain(features[i]) if explain else []
                codes += ["EXPECTED_LOSS", *why] if by_loss > by_score else why or ["HIGH_SCORE"]
            if at_level == D3:
                amount = int(features[i, self._amount_column])
                by_table = self.pack.table[auth.channel].severity(amount)
                final = max(final, by_table)
                codes += ["AMOUNT_AND_CHANNEL"] if by_table else []
            severity[i] = max(final, by_model)
            reasons[i] = list(dict.fromkeys(codes))[:MAX_REASONS]
        return Verdicts(severity, reasons, silent)

    def judge(self, features: Ints, missing: Ints, level: Ints, score_ppm: Ints) -> Ints:
        """(n, 6) what rules and thresholds say: see :func:`sluice.domain.policy.rules.judge`."""
        return judge(
            features, missing, level, score_ppm,
            self._amount_column, self.rules.conditions, self.rules.table, self._steps,
        )  # fmt: skip

    def _warm_up(self) -> None:
        """Compile the loop now, or load it from numba's cache, not in the first decision."""
        one = np.full(1, D3)
        self.judge(np.zeros((1, self._width), np.int64), one, one, one)

    @staticmethod
    def _hits(lists: Sequence[_List], auth: Authorization) -> list[Listing]:
        return [entry.spec for entry in lists if entry.of(auth) in entry.members]


def _lists(
    specs: Sequence[Listing], entries: Mapping[str, Sequence[str]], where: str
) -> tuple[list[_List], list[_List]]:
    by_effect: dict[str, list[_List]] = {"block": [], "allow": []}
    for spec in specs:
        place = f"{where}: lists: {spec.file}"
        check_reason(spec.reason, place)
        if spec.file not in entries:
            raise Misconfigured("the list file is missing", where=place)
        if spec.effect == "block" and spec.outcome is Outcome.APPROVE:
            raise Misconfigured("a block list must ask for more than approve", where=place)
        if spec.effect == "allow" and spec.outcome is Outcome.DECLINE:
            raise Misconfigured("an allow list that allows decline allows nothing", where=place)
        members = frozenset(entries[spec.file])
        if len(members) > MAX_LIST_ENTRIES:
            raise Misconfigured(
                f"{len(members)} entries, at most {MAX_LIST_ENTRIES} fit", where=place
            )
        if members:
            by_effect[spec.effect].append(_List(spec, members, _ID_OF[spec.entity]))
    return by_effect["block"], by_effect["allow"]


def _digest(pack: Pack, fx: Fx, lists: Mapping[str, Sequence[str]]) -> str:
    """SHA-256 of what the pack means: no comments, no white space, entries in order."""
    used = {spec.file: sorted(set(lists.get(spec.file, ()))) for spec in pack.lists}
    body = msgspec.json.encode({"pack": pack, "fx": fx, "lists": used}, order="sorted")
    return hashlib.sha256(body).hexdigest()
