"""What an erasure took and what it left, from its own record in the log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from sluice.application.read_log import Unverifiable
from sluice.application.reports.document import (
    Document,
    Fact,
    Pack,
    Section,
    Table,
    counted,
    instant,
)
from sluice.application.reports.evidence import (
    Checked,
    Kept,
    Log,
    Progress,
    check,
    checkpoints,
    found_at,
    named,
    proof_file,
    proof_of,
)
from sluice.application.sealing import Erased, SealingKey
from sluice.domain.records.log_record import (
    AnyRecord,
    DuplicateRecord,
    ErasureRecord,
    HoldRecord,
    Sealed,
)

_STAYS = [
    "Of each record the header stays, which holds no name, no card number and no card token: "
    "outcome, reasons, score, amount in the reference currency, times, model, policy, the id of "
    "the authorization and the card's pseudonym. It is kept so that what was decided can be "
    "counted and shown to be complete, and so that nobody can take a decision out of the log "
    "unseen.",
    "The sealed bytes stay too, since every proof is over them. Without the key they cannot be "
    "opened by anybody, and so they say nothing.",
    "The record of the erasure stays, with the pseudonym, so that no key is made again.",
]
_LIMITS = [
    "A log says what was recorded, and the keystore's record is written in the transaction that "
    "destroys the keys. That no copy of keystore and root keys together lies anywhere is not in "
    "it.",
    "Topics keep what they hold until their retention ends; the online store keeps the card's "
    "last state until it is deleted there; training sets and copies of the archive are kept by "
    "whoever made them (docs/explanation/erasure.md).",
    "An erasure in the archive rewrites the rows that it finds. Rows that came into it later are "
    "taken by `sluice log keys sweep`.",
]


class Keys(Protocol):
    """The keystore's side of a receipt."""

    def existing(self, subject: str, period: str) -> SealingKey:
        """See :class:`sluice.application.ports.Keystore`."""
        ...


class _Erasure:
    """One record of an erasure, and where it stands."""

    def __init__(self, of: Checked, place: int, record: ErasureRecord) -> None:
        self.of, self.place, self.record = of, place, record

    @property
    def proof(self) -> str:
        return proof_file(self.of, "erasure", self.place)


class _Counts:
    """Entries of subjects, by subject, type and period of the key that sealed them."""

    def __init__(self, subjects: set[str]) -> None:
        self._marks = [subject.encode() for subject in subjects]
        self._subjects = subjects
        self.sealed: dict[str, Counter[tuple[str, str]]] = {one: Counter() for one in subjects}
        self.holds: list[HoldRecord] = []

    def __call__(self, first: int, entries: Sequence[bytes]) -> None:
        for place, entry in enumerate(entries, first):
            if any(mark in entry for mark in self._marks):
                self._take(found_at(place, entry).record)

    def _take(self, record: AnyRecord) -> None:
        if isinstance(record, HoldRecord) and record.body.subject in self._subjects:
            self.holds.append(record)
        sealed: Sealed | None = record.sealed
        if sealed is not None and sealed.subject in self._subjects:
            kind = "second record" if isinstance(record, DuplicateRecord) else record.type
            self.sealed[sealed.subject][sealed.period, kind] += 1


def erasure_receipt(
    logs: Sequence[Log],
    request: str,
    *,
    now_us: int,
    progress: Progress = lambda _done, _of: None,
    keys: Keys | None = None,
) -> Pack:
    """Of all erasures that were done for one request. keys: to ask whether the keys are gone.

    The logs are verified twice: what belongs to a subject is known once its erasure was found, and
    stands before it. Raises Unfounded; Unverifiable if no log tells of the request.
    """
    checked: list[Checked] = []
    erasures: list[_Erasure] = []
    for log in logs:
        kept = Kept(named("request", request))
        one = check(log, kept, progress)
        checked.append(one)
        erasures += [
            _Erasure(one, found.place, found.record)
            for found in kept.found
            if isinstance(found.record, ErasureRecord) and found.record.body.request == request
        ]
    if not erasures:
        raise Unverifiable(
            f"no erasure for {request} in {sum(one.rests_on.size for one in checked):,} entries; "
            "the auditor appends it within seconds, and a checkpoint follows"
        )
    counts = _Counts({one.record.body.subject for one in erasures})
    for one in checked:
        check(one.log, counts, progress)
    files = checkpoints(checked)
    for erasure in erasures:
        files[erasure.proof] = proof_of(erasure.of, erasure.place)
    subjects = list(dict.fromkeys(one.record.body.subject for one in erasures))
    return Pack(
        Document(
            kind="erasure-receipt",
            title=f"Receipt of an erasure: {request}",
            subject=f"Request {request}, {counted(len(subjects), 'card')}",
            audience="Whoever asked for the erasure, and whoever has to show that it was done",
            made_at=instant(now_us),
            lead=_lead(erasures),
            rests_on=[one.rests_on for one in checked],
            sections=[
                _destroyed(erasures),
                *([_asked(erasures, keys)] if keys is not None else []),
                _left(counts, erasures),
                _held(counts, subjects),
                Section(title="What stays, and why", text=_STAYS),
                Section(
                    title="How to check it",
                    text=[
                        "Each file below proves that the record of the erasure stands in the log. "
                        "It needs no log, only the log's key: `sluice log verify-proof FILE "
                        "--key KEY`.",
                    ],
                    facts=[Fact(f"Entry {one.place}", one.proof) for one in erasures],
                ),
            ],
            limits=[
                *_LIMITS,
                *([] if keys is not None else ["The keystore itself was not looked into."]),
            ],
        ),
        files,
    )


def _lead(erasures: Sequence[_Erasure]) -> str:
    destroyed = sum(len(one.record.body.periods) for one in erasures)
    first = min(one.record.event_at or 0 for one in erasures)
    if not destroyed:
        return (
            f"On {instant(first)} the card was marked as erased. There was no key to destroy: "
            "nothing of it had been sealed, or an erasure or retention had taken the keys before."
        )
    return (
        f"On {instant(first)} {counted(destroyed, 'key')} were destroyed. What they had sealed "
        "cannot be opened any more."
        if destroyed > 1
        else f"On {instant(first)} the key was destroyed. What it had sealed cannot be opened any "
        "more."
    )


def _destroyed(erasures: Sequence[_Erasure]) -> Section:
    return Section(
        title="What was destroyed",
        text=[
            "A key seals what is personal in the records of one card and one quarter. Destroyed "
            "were the keys of these quarters; up to the quarter named no key is made again.",
        ],
        table=Table(
            ["Card (pseudonym)", "Keys destroyed", "Up to", "When", "By", "Rows of the archive"],
            [
                [
                    one.record.body.subject,
                    ", ".join(one.record.body.periods) or "there was none",
                    one.record.body.through,
                    instant(one.record.event_at or 0),
                    one.record.body.actor,
                    "no archive was there"
                    if one.record.body.archive_rows is None
                    else one.record.body.archive_rows,
                ]
                for one in erasures
            ],
        ),
    )


def _asked(erasures: Sequence[_Erasure], keys: Keys) -> Section:
    rows: list[list[str | int | None]] = []
    for one in erasures:
        for period in one.record.body.periods:
            try:
                keys.existing(one.record.body.subject, period)
                said = "there is one: the keystore is another one, or was set back"
            except Erased:
                said = "none"
            rows.append([one.record.body.subject, period, said])
    return Section(
        title="What the keystore says now",
        text=["For each quarter it was asked for the key."],
        table=Table(["Card (pseudonym)", "Quarter", "Key"], rows) if rows else None,
    )


def _left(counts: _Counts, erasures: Sequence[_Erasure]) -> Section:
    through: dict[str, str] = {}
    for one in erasures:
        body = one.record.body
        through[body.subject] = max(body.through, through.get(body.subject, ""))
    rows: list[list[str | int | None]] = [
        [
            subject,
            period,
            kind,
            number,
            "cannot be opened" if period <= through[subject] else "of a later quarter: not erased",
        ]
        for subject, found in counts.sealed.items()
        for (period, kind), number in sorted(found.items())
    ]
    return Section(
        title="Records of the card in these logs",
        text=["Counted by the quarter of the key that sealed them."]
        if rows
        else ["No record of the card in these logs has a sealed part."],
        table=Table(["Card (pseudonym)", "Quarter", "Type", "Records", "Sealed part"], rows)
        if rows
        else None,
    )


def _held(counts: _Counts, subjects: Sequence[str]) -> Section:
    placed: dict[tuple[str, str], HoldRecord] = {}
    for record in sorted(counts.holds, key=lambda one: one.sequence or 0):
        if record.body.placed:
            placed[record.body.subject, record.body.case] = record
        else:
            placed.pop((record.body.subject, record.body.case), None)
    if placed:
        text = ["A legal hold lasts: nothing more of this card is erased until it is lifted."]
    elif counts.holds:
        text = [
            f"There were legal holds on {counted(len(subjects), 'card')}; all of them are lifted."
        ]
    else:
        text = ["No legal hold was ever placed on the card, as far as these logs tell."]
    return Section(
        title="Legal holds",
        text=text,
        table=Table(
            ["Card (pseudonym)", "Case", "By", "What", "When"],
            [
                [
                    record.body.subject,
                    record.body.case,
                    record.body.actor,
                    "placed" if record.body.placed else "lifted",
                    instant(record.event_at or 0),
                ]
                for record in counts.holds
            ],
        )
        if counts.holds
        else None,
    )
