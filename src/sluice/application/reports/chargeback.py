"""What to show when a payment is disputed: what was decided, what was known then, what became known
later, and a proof of each record."""

from __future__ import annotations

from collections.abc import Sequence

from sluice.application.explain import feature_rows
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
from sluice.application.reports.evidence import Log, Progress, checkpoints, proof_of
from sluice.application.reports.of_authorization import (
    OUTCOMES,
    THREE_DS,
    Access,
    OfAuthorization,
    Placed,
    Sealed,
    access_said,
    gather,
    opened,
    payment,
    reasons,
)
from sluice.domain.features import catalogue
from sluice.domain.records.log_record import LabelRecord, OverrideRecord

_LIMITS = [
    "It is what our log holds. The slip, the delivery and what the customer wrote are not in it.",
    "A proof says that the record stands in the log and was not changed since. It does not say "
    "that what the record tells was true when it was written.",
    "Who bears the loss follows from the scheme's rules and the contract, not from this.",
]


def chargeback(
    logs: Sequence[Log],
    authorization_id: str,
    access: Access | None,
    *,
    now_us: int,
    progress: Progress = lambda _done, _of: None,
) -> Pack:
    """The bundle of one authorization. access: to what is sealed, if there is a grant. Raises as
    gather and opened do."""
    of = gather(logs, authorization_id, progress)
    sealed = opened(of.decision, access)
    body = of.body
    files = checkpoints(of.logs)
    for one in of.records:
        files[one.proof] = proof_of(one.log, one.found.place)
    return Pack(
        Document(
            kind="chargeback",
            title="Evidence for a disputed payment",
            subject=f"Authorization {authorization_id}",
            audience="The scheme, the acquirer or the issuer that hears the dispute",
            made_at=instant(now_us),
            lead=(
                f"The authorization was {OUTCOMES[body.outcome]} on {instant(body.decided_at)}. "
                f"{THREE_DS[body.sca.three_ds]}. {_known(_labels(of))}"
            ),
            rests_on=[one.rests_on for one in of.logs],
            sections=[
                Section(title="The payment", facts=payment(of, sealed)),
                _authentication(of),
                _decision(of),
                _known_then(of, sealed),
                _known_later(of),
                *([Section(title="Who looked", text=[access_said(access, sealed)])]
                  if access else []),
                _proofs(of),
            ],
            limits=_LIMITS,
        ),
        files,
    )  # fmt: skip


def _labels(of: OfAuthorization) -> list[tuple[Placed, LabelRecord]]:
    """By the time at which they became known."""
    found = [
        (one, one.found.record) for one in of.records if isinstance(one.found.record, LabelRecord)
    ]
    return sorted(found, key=lambda pair: pair[1].body.known_at)


def _known(labels: list[tuple[Placed, LabelRecord]]) -> str:
    if not labels:
        return "Nothing was reported of it since, as far as these logs tell."
    frauds = sum(label.body.is_fraud for _, label in labels)
    return f"Since then {counted(len(labels), 'report')} came in, {frauds:,} of them of fraud."


def _authentication(of: OfAuthorization) -> Section:
    sca = of.body.sca
    return Section(
        title="Authentication of the payer",
        text=[
            "As the authorization told it when it came in; what the issuer holds may say more."
        ],
        facts=[
            Fact("3-D Secure", sca.three_ds),
            Fact("Which means", THREE_DS[sca.three_ds]),
            Fact(
                "Exemption from strong authentication",
                sca.exemption or "none was told to the log",
            ),
        ],
    )  # fmt: skip


def _decision(of: OfAuthorization) -> Section:
    body, policy, model = of.body, of.body.policy, of.body.model
    overrides = [
        one.found.record for one in of.records if isinstance(one.found.record, OverrideRecord)
    ]
    return Section(
        title="What was decided, and why",
        text=reasons(body.reasons) or ["Nothing weighed against it."],
        facts=[
            Fact("Outcome", body.outcome),
            Fact("Received", instant(body.received_at)),
            Fact("Decided", f"{instant(body.decided_at)}, after {body.latency_us / 1000:.1f} ms"),
            Fact("Reason codes", ", ".join(body.reasons) or "none"),
            Fact("Rules that fired", ", ".join(policy.rules or []) or "none"),
            Fact("Score, in a million", body.score_ppm),
            Fact("Model", model.release if model else "none"),
            Fact("Policy", policy.id),
            Fact("Without", ", ".join(body.degraded) or "nothing was missing"),
            Fact("Solely automated", "yes" if body.solely_automated else "no"),
            *(
                Fact(
                    f"Set aside by {one.body.actor}",
                    f"{one.body.before}, then {one.body.outcome} ({one.body.reason}), "
                    f"{instant(one.recorded_at)}",
                )
                for one in overrides
            ),
        ],
    )


def _known_then(of: OfAuthorization, sealed: Sealed) -> Section:
    title = "What was known when it was decided"
    if sealed.personal is None:
        return Section(title=title, text=[sealed.why])
    personal = sealed.personal
    if of.body.catalogue != catalogue.DIGEST or len(personal.features) != catalogue.N:
        return Section(
            title=title,
            text=[f"Named by another version of the software: catalogue {of.body.catalogue}."],
        )
    device = personal.authorization.device_id is not None
    rows: list[list[Cell]] = [
        [entity, row.description, row.value]
        for entity, found in feature_rows(personal.features, device=device).items()
        for row in found
    ]
    return Section(
        title=title,
        text=["The figures that were served; those that were 0 or never are left out."],
        table=Table(["Of the", "What", "Value"], rows),
    )


def _known_later(of: OfAuthorization) -> Section:
    rows: list[list[Cell]] = [
        [
            instant(label.body.known_at),
            "fraud" if label.body.is_fraud else "genuine",
            label.body.kind,
            label.body.source,
            label.body.reason,
            placed.found.place,
        ]
        for placed, label in _labels(of)
    ]
    return Section(
        title="What became known later",
        text=["Reports of the authorization, as they became known."]
        if rows
        else ["No report of it is in these logs."],
        table=Table(["Known", "It was", "By", "Source", "Reason", "Entry"], rows) if rows else None,
    )


def _proofs(of: OfAuthorization) -> Section:
    rows: list[list[Cell]] = [
        [
            one.log.rests_on.log,
            one.found.place,
            one.found.record.type,
            instant(one.found.record.recorded_at),
            one.proof,
        ]
        for one in of.records
    ]
    return Section(
        title="Proofs",
        text=[
            "Each file holds a record as it stands in the log, its place in the tree, and the "
            "signed checkpoint. Nothing else is needed but the log's key: "
            "`sluice log verify-proof FILE --key KEY`.",
        ],
        table=Table(["Log", "Entry", "Record", "Recorded", "File"], rows),
    )
