"""A decision explained to the one whom it was about (GDPR 15(1)(h)).

After CJEU C-203/22 (Dun & Bradstreet Austria, 27 February 2025): the procedure and the principles
actually applied, in plain words, so that it can be understood which personal data were used and
how; a formula is neither needed nor enough; how another value would have led to another result may
be what makes it plain. What is said to be a trade secret goes to the authority or the court, which
weighs it: ``authority`` is the document with thresholds, score and exact edges in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from sluice.application.explain import FeatureRow, feature_rows
from sluice.application.reports.document import (
    Cell,
    Document,
    Fact,
    Pack,
    Section,
    Table,
    counted,
    instant,
)
from sluice.application.reports.evidence import Log, Progress, checkpoints
from sluice.application.reports.of_authorization import (
    OUTCOMES,
    Access,
    OfAuthorization,
    Personal,
    Sealed,
    access_said,
    gather,
    opened,
    payment,
    reasons,
)
from sluice.application.what_if import Flip
from sluice.domain.features import catalogue
from sluice.domain.records.decision import DegradationLevel
from sluice.domain.records.log_record import DecisionRecord, OverrideRecord, Steps
from sluice.domain.records.outcome import SEVERITY, Outcome

Audience = Literal["customer", "authority"]
CHANGES_MAX = 3
"""Named to a customer, the smallest first."""
DIGITS = 2
"""Of an amount that is named to a customer: enough to understand, too few to walk along the edge.
"""
_OWN = ("context", "card", "device")
"""Entities whose values are about the customer; the others' are about a shop and everybody who
pays there."""
_HOW: dict[DegradationLevel, list[str]] = {
    "D0": [
        "From earlier payments with the card, at the terminal, at the merchant and on the device, "
        "figures were made: how often, how much, where, how long ago, and what was reported as "
        "fraud.",
        "A statistical model was given these figures. It has learned from past payments of which "
        "it became known whether they were fraud, and estimates how likely this one was.",
        "Besides, rules and lists that people wrote were applied to the same figures.",
    ],
    "D2": [
        "The statistical model did not take part: it, or what it needs, could not be had in time.",
        "Rules that people wrote were applied to figures made of earlier payments, with stricter "
        "rules for when there is no model.",
    ],
    "D3": [
        "Neither earlier payments nor the statistical model could be had in time. A fixed table "
        "decided by the amount and the way of payment, and rules and lists that need no more.",
    ],
}
_STRICTEST = (
    "Each of them may ask for more than an approval: a confirmation by the payer, a look by a "
    "person, or a refusal. The strictest is what was answered."
)
_NOT_KNOWN = (
    "It is not given, and no rule sees: name, address, date of birth, sex, nationality, health, "
    "belief, income, what was bought, or anything from outside these payments. The country in "
    "which the card was issued is used. A customer number and the network that an online payment "
    "came from are stored with the payment where the merchant's bank sent them; neither model nor "
    "rules use them."
)
_RIGHTS = [
    "You may ask the one who decided, or the bank that sent you this, to correct what is wrong in "
    "these data (GDPR 16).",
    "Where a decision rests on automated processing alone and affects you significantly, you may "
    "have a person look at it, say what you think of it, and contest it (GDPR 22(3)).",
    "You may complain to a supervisory authority. If it or a court asks, it is given the "
    "thresholds and exact values that this letter leaves out as trade secrets (CJEU C-203/22).",
]


class Instead(NamedTuple):
    """What would have led to another outcome. flips: the smallest changes first. why_not: why
    nothing can be said, or ""."""

    flips: Sequence[Flip]
    why_not: str


def explain_to_customer(
    logs: Sequence[Log],
    authorization_id: str,
    access: Access,
    *,
    audience: Audience,
    now_us: int,
    instead: Callable[[DecisionRecord, Personal], Instead],
    progress: Progress = lambda _done, _of: None,
) -> Pack:
    """instead: is asked once what is sealed was opened. Raises as gather and opened do."""
    of = gather(logs, authorization_id, progress)
    sealed = opened(of.decision, access)
    body = of.body
    counterfactual = (
        Instead((), "Without the values used nothing can be computed again.")
        if sealed.personal is None
        else instead(of.header, sealed.personal)
    )
    official = audience == "authority"
    return Pack(
        Document(
            kind="explain-to-customer",
            title="How your card payment was decided",
            subject=f"Authorization {authorization_id}",
            audience="A supervisory authority or a court: it holds trade secrets"
            if official
            else "The holder of the card",
            made_at=instant(now_us),
            lead=_lead(of),
            rests_on=[one.rests_on for one in of.logs],
            sections=[
                Section(title="The payment", facts=payment(of, sealed)),
                _decision(of),
                _why(of),
                _instead(body.outcome, counterfactual, official=official),
                *_used(of, sealed, official=official),
                _model(of),
                *([_secrets(of)] if official else []),
                Section(title="Your rights", text=_RIGHTS),
                Section(title="Who looked", text=[access_said(access, sealed)]),
            ],
            limits=[
                "It tells what was recorded when the payment was decided. Whether the data were "
                "right is not in it.",
                "It is about this decision. What else is stored about you is another request "
                "(GDPR 15(1)(a) to (g) and 15(3)).",
                *(
                    []
                    if official
                    else [
                        "Thresholds, weights, the score, and figures about shops and other payers "
                        "are left out."
                    ]
                ),
            ],
        ),
        checkpoints(of.logs),
    )


def _lead(of: OfAuthorization) -> str:
    body = of.body
    alone = (
        "No person took part in that decision."
        if body.solely_automated
        else "It was not decided by automated means alone: a person was to decide."
    )
    return f"On {instant(body.decided_at)} this payment was {OUTCOMES[body.outcome]}. {alone}"


def _decision(of: OfAuthorization) -> Section:
    body = of.body
    overrides = [
        one.found.record for one in of.records if isinstance(one.found.record, OverrideRecord)
    ]
    level: DegradationLevel = "D0" if body.degradation_level == "D1" else body.degradation_level
    missing = (
        ["Not all of it could be had in time. Missing were: " + ", ".join(body.degraded) + "."]
        if body.degraded
        else []
    )
    return Section(
        title="How it was decided",
        text=[*_HOW[level], *missing, _STRICTEST],
        facts=[
            Fact("Outcome", OUTCOMES[body.outcome]),
            Fact("Solely automated", "yes" if body.solely_automated else "no"),
            Fact("Took", f"{body.latency_us / 1000:.1f} thousandths of a second"),
            *(
                Fact(
                    f"A person set it aside on {instant(one.recorded_at)}",
                    f"{OUTCOMES[one.body.before]}, then {OUTCOMES[one.body.outcome]} "
                    f"({one.body.reason})",
                )
                for one in overrides
            ),
        ],
    )


def _why(of: OfAuthorization) -> Section:
    body = of.body
    if body.reasons:
        text = ["What weighed most, strongest first:", *reasons(body.reasons)]
    else:
        text = [
            "Nothing weighed against it: no rule and no list was at work, and where the model took "
            "part its estimate was low enough to approve."
        ]
    if body.policy.silenced:
        text.append(
            f"{counted(len(body.policy.silenced), 'rule')} could not be applied, for want of data "
            "or because they had been switched off by a safeguard."
        )
    return Section(title="Why", text=text)


def _used(of: OfAuthorization, sealed: Sealed, *, official: bool) -> list[Section]:
    title = "The values used"
    if sealed.personal is None:
        return [Section(title=title, text=[sealed.why])]
    personal = sealed.personal
    if of.body.catalogue != catalogue.DIGEST or len(personal.features) != catalogue.N:
        return [
            Section(
                title=title,
                text=[
                    f"They were named by another version of the software (catalogue "
                    f"{of.body.catalogue}), with which this report has to be made to show them."
                ],
            )
        ]
    device = personal.authorization.device_id is not None
    by_entity = feature_rows(personal.features, device=device, everything=official)
    shown = [entity for entity in by_entity if official or entity in _OWN]
    rows: list[list[Cell]] = [
        [row.description, row.value, row.name] if official else _plainly(row)
        for entity in shown
        for row in by_entity[entity]
    ]
    others = sum(len(rows) for entity, rows in by_entity.items() if entity not in shown)
    text = ["As they were at that moment. What was zero or had never happened is left out."]
    if official:
        text = ["As they were at that moment, all of them."]
    if others:
        text.append(
            f"Besides, {counted(others, 'figure')} about the terminal and the merchant, made of "
            "the payments of everybody there: how busy they are, and what was reported of them."
        )
    columns = ["What", "Value", *(["Name"] if official else [])]
    return [Section(title=title, text=text, table=Table(columns, rows))]


def _plainly(row: FeatureRow) -> list[Cell]:
    """A flag is a yes.

    >>> _plainly(FeatureRow("is_ecom", "1", "1 if e-commerce"))
    ['E-commerce', 'yes']
    """
    _, flag, said = row.description.partition("1 if ")
    if not flag:
        return [row.description, row.value]
    return [said[:1].upper() + said[1:], "yes" if row.value == "1" else "no"]


def _model(of: OfAuthorization) -> Section:
    groups = list(dict.fromkeys(feature.group for feature in catalogue.FEATURES))
    model = of.body.model
    text = [
        "Model and rules work on figures of these kinds: " + ", ".join(groups) + ".",
        _NOT_KNOWN,
    ]
    if model is None:
        text.insert(0, "No model took part in this decision.")
    return Section(title="What is known to the model and the rules, and what is not", text=text)


def _instead(outcome: Outcome, told: Instead, *, official: bool) -> Section:
    title = "What would have led to another outcome"
    if told.why_not:
        return Section(title=title, text=[told.why_not])
    if official:
        rows: list[list[Cell]] = [
            [flip.name, flip.was, flip.becomes, OUTCOMES[flip.outcome],
             "payment" if flip.field else "that figure alone"]
            for flip in told.flips
        ]  # fmt: skip
        return Section(
            title=title,
            text=[
                "The decision was made again from the archive, to the same bits, and then with one "
                "thing changed. Named is the edge: one unit less leads to the same outcome."
                if rows
                else "The decision was made again from the archive, to the same bits. No single "
                "change of the payment or of one figure leads to another outcome."
            ],
            table=Table(["What", "Was", "Becomes", "Outcome", "Changed"], rows) if rows else None,
        )
    if outcome is Outcome.APPROVE:
        return Section(title=title, text=["The payment was approved: no change is named."])
    milder = [
        flip for flip in told.flips if flip.field and SEVERITY[flip.outcome] < SEVERITY[outcome]
    ][:CHANGES_MAX]
    if not milder:
        return Section(
            title=title,
            text=[
                "No change of the amount, the way of payment, the authentication or the country "
                "alone would have led to a milder outcome: it rests on what was known of earlier "
                "payments."
            ],
        )
    return Section(
        title=title,
        text=[
            "The decision was made again with one thing changed and all else as it was:",
            *(_change(flip) for flip in milder),
        ],
    )


_NAMES = {
    "amount": "an amount of about",
    "channel": "as the way of payment",
    "three_ds": "3-D Secure",
    "merchant_country": "a merchant in the country",
}


def _change(flip: Flip) -> str:
    value = flip.becomes
    if flip.name == "amount":
        number, _, currency = flip.becomes.partition(" ")
        value = f"{_rounded(number)} {currency}"
    name = _NAMES.get(flip.name, flip.name)
    return f"With {name} {value} (it was {flip.was}) it would have been {OUTCOMES[flip.outcome]}."


def _rounded(number: str) -> str:
    """An amount with DIGITS significant digits.

    >>> _rounded("1234.56"), _rounded("0.50"), _rounded("87.99")
    ('1200', '0.5', '88')
    """
    value = float(number.replace(",", ""))
    rounded = float(f"{value:.{DIGITS}g}")
    return f"{rounded:.0f}" if rounded == int(rounded) else f"{rounded:g}"


def _secrets(of: OfAuthorization) -> Section:
    body, policy, model = of.body, of.body.policy, of.body.model
    return Section(
        title="Score, thresholds and versions",
        text=[
            "Thresholds are the values from which on a confirmation, a look by a person and a "
            "refusal are asked for."
        ],
        facts=[
            Fact("Score, in a million", body.score_ppm),
            Fact("Thresholds on the score", _steps(policy.score_ppm)),
            Fact(
                "Thresholds on the expected loss, minor units", _steps(policy.expected_loss_minor)
            ),
            Fact("Rules that fired", ", ".join(policy.rules or []) or "none"),
            Fact("Policy", f"{policy.id}, SHA-256 {policy.digest or 'not told'}"),
            Fact(
                "Model",
                f"{model.release}, SHA-256 {model.digest or 'not told'}" if model else "none",
            ),
            Fact("Degradation level", body.degradation_level),
            Fact("Built from", body.provenance.build or "not told"),
        ],
    )


def _steps(steps: Steps | None) -> str:
    if steps is None:
        return "not told"
    return ", ".join("never" if step is None else f"{step:,}" for step in steps)
