"""The policy pack: thresholds, rules, lists and fallbacks, and the verdict they give together.

Severities join on the lattice approve < challenge < review < decline, so no rule can weaken what
another one asked for. The only thing that lowers is an allow list, and it lowers the model alone.
Everything is an integer and everything is digested: two deciders with the same ``policy.id`` give
the same verdict on the same row.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from sluice.domain.policy.fx import Fx
from sluice.domain.policy.let_through import CODE, Draw, LetThrough
from sluice.domain.policy.members import Members
from sluice.domain.policy.rules import (
    MAX_RULES,
    FeatureLike,
    Rule,
    Rules,
    Said,
    check_reason,
    compile_rules,
    judge,
)
from sluice.domain.records.authorization import Authorization, Channel
from sluice.domain.records.decision import MAX_REASONS
from sluice.domain.records.entity import ALL_VIEWS, EntityKind, key_of
from sluice.domain.records.outcome import BY_SEVERITY, STRICTER, Outcome
from sluice.errors import Misconfigured

Ints = npt.NDArray[np.int64]
Ppm = Annotated[int, Meta(ge=0, le=1_000_000)]
NEVER = 2**63 - 1
"""A threshold that nothing reaches."""
Minor = Annotated[int, Meta(ge=0, le=NEVER)]
MAX_LIST_ENTRIES = 1_000_000
"""About 30 MB in memory; what is longer belongs in a feature."""
D2, D3 = 2, 3
"""Degradation levels from which the fallback rules, then the table, are asked (DESIGN 6)."""
LISTS, MODEL = "lists", "model"
"""Causes of a decline besides the rules, which are ``rule ID``: the block lists, and the model's
score or expected loss. The table is none: it decides what nothing else could."""
_LISTS_BIT, _MODEL_BIT = 1 << MAX_RULES, 1 << (MAX_RULES + 1)
_DECLINE = Outcome.DECLINE.severity
LeftOut = Mapping[str, frozenset[str]]
"""By tenant the causes that are left out of its decisions."""


Steps = dict[Outcome, Minor | None]
"""From which value on each outcome is asked for; absent or null is never."""


def steps_row(steps: Steps, where: str) -> list[int]:
    """The steps of STRICTER as integers, NEVER for none.

    Raises Misconfigured if they do not rise with severity, or one is for approve.
    """
    if Outcome.APPROVE in steps:
        raise Misconfigured("approve is what is below all steps", where=where)
    row = [NEVER if s is None else s for s in map(steps.get, STRICTER)]
    given = [s for s in row if s != NEVER]
    if given != sorted(given):
        raise Misconfigured("thresholds do not rise with severity", where=where)
    return row


def severity_at(steps: Steps, value: int) -> int:
    """The severity of the strictest step that the value reaches, 0 for none."""
    reached = [o.severity for o, step in steps.items() if step is not None and value >= step]
    return max(reached, default=0)


class Thresholds(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the model's score leads to; the stricter of the two counts.

    expected_loss_minor: score x amount, in minor units of the reference currency.
    """

    score_ppm: Steps
    expected_loss_minor: Steps = {}


class Listing(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A file of identifiers. block: at least ``outcome``. allow: of the model, at most that."""

    file: Annotated[str, Meta(pattern=r"^lists/[a-z0-9-]+\.txt$")]
    entity: EntityKind
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

    version: Annotated[int, Meta(ge=1, le=NEVER)]
    thresholds: Thresholds
    rules: list[Rule]
    fallback: Fallback
    table: dict[Channel, Steps]
    unidentified: dict[Channel, Literal["refuse", "decide"]] = {}
    """What becomes of an authorization if nobody can say whether its id was decided before;
    ``refuse`` where a channel is not named."""
    out_of_domain: Literal["keep", "leave_out"] = "keep"
    """What becomes of the model while it meets another population than its release was made for:
    it decides as ever, or fallback rules do (degradation level D2)."""
    lists: list[Listing] = []
    let_through: LetThrough | msgspec.UnsetType = msgspec.UNSET
    """Unset is none, and leaves the digest of a pack as it was before there was this key."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What the policy says of n rows.

    severity: (n,) places in BY_SEVERITY. reasons: at most four codes a row. silenced: ids of the
    rules that could not fire: a view was missing, or they were left out. declined: for each row
    that something declined, its number and the mask of what did (:meth:`Policy.causes`).
    let_through: by row, of the would-be declines that were drawn: the probability in parts per
    million of those approved, 0 of those declined since the day's budget is spent. fired: by row,
    the bits of the rules that fired, where any did (:meth:`Policy.ids`).
    """

    severity: npt.NDArray[np.int8]
    reasons: list[list[str]]
    silenced: list[tuple[str, ...]]
    declined: list[tuple[int, int]] = field(default_factory=list)
    let_through: dict[int, int] = field(default_factory=dict)
    fired: dict[int, int] = field(default_factory=dict)

    def outcome(self, i: int) -> Outcome:
        """The outcome of row i."""
        return BY_SEVERITY[self.severity[i]]


_NOTHING_LEFT_OUT: LeftOut = {}


@dataclass(frozen=True, slots=True)
class _List:
    spec: Listing
    members: Members


class Policy:
    """A compiled pack. Immutable; a change makes another one."""

    def __init__(
        self,
        name: str,
        pack: Pack,
        fx: Fx,
        lists: Mapping[str, Members],
        features: Sequence[FeatureLike],
        *,
        digest: str,
    ) -> None:
        """Compile. lists: by file name. digest: of all of them, :func:`digest_of`. Raises
        Misconfigured, naming the place."""
        self.pack = pack
        self.fx = fx
        self.digest = digest
        self.id = f"{name}@{self.digest[:12]}"
        where = f"{name}/policy.yaml"
        fx.check(f"{name}/fx.yaml")
        if absent := [c for c in Channel if c not in pack.table]:
            raise Misconfigured(f"no steps for {', '.join(absent)}", where=f"{where}: table")
        for channel, steps in pack.table.items():
            steps_row(steps, f"{where}: table.{channel}")
        self._steps = np.array(
            [
                steps_row(pack.thresholds.score_ppm, f"{where}: thresholds.score_ppm"),
                steps_row(
                    pack.thresholds.expected_loss_minor,
                    f"{where}: thresholds.expected_loss_minor",
                ),
            ],
            np.int64,
        )
        self.steps: tuple[list[int | None], ...] = tuple(
            [None if step == NEVER else step for step in row] for row in self._steps.tolist()
        )
        """Of the score and of the expected loss: from which value on challenge, review, decline."""
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
        self._severities = [(1 << i, row[4]) for i, row in enumerate(self.rules.table.tolist())]
        self._decline_bits = sum(bit for bit, severity in self._severities if severity == _DECLINE)
        self._silenced = {
            (missing, level): self.rules.silenced(missing, level)
            for missing in range(ALL_VIEWS + 1)
            for level in range(D3 + 1)
        }
        self._blocks, self._allows = _lists(pack.lists, lists, where)
        self.let_through = None if pack.let_through is msgspec.UNSET else pack.let_through
        self._never_bits = 0
        if self.let_through is not None:
            never = self.let_through.never
            for reason in never:
                if not any(reason == named for _, named in self._named):
                    raise Misconfigured(
                        f"no rule of this pack has the reason {reason}",
                        where=f"{where}: let_through.never",
                        fix="a rule's reason; what a block list declines is never let through",
                    )
            self._never_bits = sum(bit for bit, reason in self._named if reason in never)
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
        left_out: LeftOut = _NOTHING_LEFT_OUT,
        draw: Draw | None = None,
        undrawn: Container[int] = (),
    ) -> Verdicts:
        """Judge n authorizations.

        features: (n, f) C-contiguous, catalogue columns, defaults where a view is missing.
        missing: (n,) masks of views. level: (n,) 0 to 3 for D0 to D3. score_ppm:
        (n,), read where level is 0 or 1; None if no row has one. explain: reason codes
        of one feature row, strongest first; asked only for rows that the model did not approve.
        left_out: rules in it do not fire for that tenant, and are named in ``silenced``. draw:
        lets some would-be declines through, if the pack says so; None lets none. undrawn: rows for
        which nothing is drawn, because another model answers them, and its declines are drawn for.
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
        silenced: list[tuple[str, ...]] = [()] * n
        declined: list[tuple[int, int]] = []
        through: dict[int, int] = {}
        fired: dict[int, int] = {}
        said = judged[:, 1:5].any(axis=1) | (level == D3)
        some = range(n) if self._blocks or left_out else np.flatnonzero(said).tolist()
        masks = {tenant: self._mask(causes) for tenant, causes in left_out.items()}
        for i, row in zip(some, judged[some].tolist(), strict=True):
            of = Said(*row)
            if of.missing:
                silenced[i] = self._silenced[of.missing, of.level]
            auth = auths[i]
            if masks and (mask := masks.get(auth.tenant)):
                of = self._without(of, mask)
                silenced[i] = tuple(dict.fromkeys((*silenced[i], *self._asked(mask, of.level))))
            if of.fired:
                fired[i] = of.fired
            blocks = self._hits(self._blocks, auth)
            blocks.sort(key=lambda listing: -listing.outcome.severity)
            codes = [listing.reason for listing in blocks]
            codes += [reason for bit, reason in self._named if of.fired & bit]
            final = max([of.by_rules, *(listing.outcome.severity for listing in blocks)])
            by_model = max(of.by_score, of.by_loss)
            if by_model:
                for listing in self._hits(self._allows, auth):
                    if by_model > listing.outcome.severity:
                        by_model = listing.outcome.severity
                        codes.append(listing.reason)
            if by_model:
                why = explain(features[i]) if explain else []
                codes += (
                    ["EXPECTED_LOSS", *why] if of.by_loss > of.by_score else why or ["HIGH_SCORE"]
                )
            if of.level == D3:
                amount = int(features[i, self._amount_column])
                by_table = severity_at(self.pack.table[auth.channel], amount)
                final = max(final, by_table)
                codes += ["AMOUNT_AND_CHANNEL"] if by_table else []
            severity[i] = max(final, by_model)
            reasons[i] = list(dict.fromkeys(codes))[:MAX_REASONS]
            if severity[i] == _DECLINE:
                if draw is not None and self.let_through is not None and i not in undrawn:
                    amount = int(features[i, self._amount_column])
                    ppm = self._drawn(draw, self.let_through, auth, of, blocks, amount)
                    if ppm is not None:
                        through[i] = ppm
                        if ppm:
                            severity[i] = 0
                            reasons[i] = [CODE, *reasons[i]][:MAX_REASONS]
                            continue
                causes = of.fired & self._decline_bits
                if blocks and blocks[0].outcome is Outcome.DECLINE:
                    causes |= _LISTS_BIT
                if by_model == _DECLINE:
                    causes |= _MODEL_BIT
                if causes:
                    declined.append((i, causes))
        return Verdicts(severity, reasons, silenced, declined, through, fired)

    def _drawn(
        self,
        draw: Draw,
        limits: LetThrough,
        auth: Authorization,
        of: Said,
        blocks: Sequence[Listing],
        amount_minor: int,
    ) -> int | None:
        """Probability with which a would-be decline is let through, 0 if it is drawn and the day's
        budget is spent, None if it is not drawn or never let through: on a block list, declined for
        a reason in ``never``, too large, or without a score from which anything could be learnt."""
        if (
            of.level >= D2
            or amount_minor > limits.amount_max_minor
            or of.fired & self._decline_bits & self._never_bits
            or any(listing.outcome is Outcome.DECLINE for listing in blocks)
            or not draw.drawn(auth.tenant, auth.authorization_id, limits.share_ppm)
        ):
            return None
        return limits.share_ppm if draw.spend(limits, amount_minor) else 0

    def causes(self, mask: int) -> list[str]:
        """What declined a row, from its mask in ``Verdicts.declined``."""
        found = [f"rule {rule.id}" for i, rule in enumerate(self.rules.rules) if mask >> i & 1]
        found += [LISTS] if mask & _LISTS_BIT else []
        return found + ([MODEL] if mask & _MODEL_BIT else [])

    def ids(self, fired: int) -> list[str]:
        """Of the rules whose bits are set."""
        return [rule.id for i, rule in enumerate(self.rules.rules) if fired >> i & 1]

    @property
    def leaves_out_of_domain(self) -> bool:
        """Whether the model is left out while it is out of its domain."""
        return self.pack.out_of_domain == "leave_out"

    def rule(self, cause: str) -> Rule | None:
        """The rule of a cause, None if it is no rule, or none of ours."""
        return next((rule for rule in self.rules.rules if f"rule {rule.id}" == cause), None)

    def severities(
        self,
        auths: Sequence[Authorization],
        features: Ints,
        *,
        missing: Ints,
        level: Ints,
        score_ppm: Ints,
        left_out: LeftOut = _NOTHING_LEFT_OUT,
    ) -> npt.NDArray[np.int8]:
        """(n,) severities alone, the same as :meth:`decide`'s without a draw, without its loop
        over the rows.

        score_ppm: (n,), read where level is 0 or 1.
        """
        said = self.judge(features, missing, level, score_ppm)
        final, by_model = said[:, 0].copy(), np.maximum(said[:, 2], said[:, 3])
        for tenant, causes in left_out.items():
            mask = self._mask(causes)
            for i in np.flatnonzero(said[:, 1] & mask).tolist():
                if auths[i].tenant == tenant:
                    final[i] = self._without(Said(*said[i].tolist()), mask).by_rules
        for entry in self._allows:
            most = entry.spec.outcome.severity
            by_model = np.where(_listed(entry, auths), np.minimum(by_model, most), by_model)
        for entry in self._blocks:
            least = entry.spec.outcome.severity
            final = np.where(_listed(entry, auths), np.maximum(final, least), final)
        for i in np.flatnonzero(level == D3).tolist():
            amount = int(features[i, self._amount_column])
            final[i] = max(final[i], severity_at(self.pack.table[auths[i].channel], amount))
        return np.maximum(final, by_model).astype(np.int8)

    def _mask(self, causes: frozenset[str]) -> int:
        return sum(1 << i for i, rule in enumerate(self.rules.rules) if f"rule {rule.id}" in causes)

    def _without(self, of: Said, mask: int) -> Said:
        fired = of.fired & ~mask
        by_rules = max((severity for bit, severity in self._severities if fired & bit), default=0)
        return of._replace(fired=fired, by_rules=by_rules)

    def _asked(self, mask: int, level: int) -> Iterator[str]:
        """Ids of the rules in the mask that are asked at this degradation level."""
        for i, (rule, row) in enumerate(zip(self.rules.rules, self.rules.table, strict=True)):
            if mask >> i & 1 and level >= row[5]:
                yield rule.id

    def refuses_unidentified(self, channel: Channel) -> bool:
        """Whether an authorization is refused rather than decided while its id is known to nobody:
        an earlier answer may have been another one."""
        return self.pack.unidentified.get(channel) != "decide"

    def judge(self, features: Ints, missing: Ints, level: Ints, score_ppm: Ints) -> Ints:
        """What rules and thresholds say: see :func:`sluice.domain.policy.rules.judge`."""
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
        return [entry.spec for entry in lists if key_of(auth, entry.spec.entity) in entry.members]


def _listed(entry: _List, auths: Sequence[Authorization]) -> npt.NDArray[np.bool_]:
    members, entity = entry.members, entry.spec.entity
    return np.array([(key_of(auth, entity) or "") in members for auth in auths], np.bool_)


def _lists(
    specs: Sequence[Listing], entries: Mapping[str, Members], where: str
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
        members = entries[spec.file]
        if len(members) > MAX_LIST_ENTRIES:
            raise Misconfigured(
                f"{len(members)} entries, at most {MAX_LIST_ENTRIES} fit", where=place
            )
        if len(members):
            by_effect[spec.effect].append(_List(spec, members))
    return by_effect["block"], by_effect["allow"]


def digest_of(pack: Pack, fx: Fx, lists: Mapping[str, Sequence[str]]) -> str:
    """SHA-256 of what the pack means: no comments, no white space, entries in order.

    lists: entries by file name. O(n log n): worked out once, by whoever read them.
    """
    used = {spec.file: sorted(set(lists.get(spec.file, ()))) for spec in pack.lists}
    body = msgspec.json.encode({"pack": pack, "fx": fx, "lists": used}, order="sorted")
    return hashlib.sha256(body).hexdigest()
