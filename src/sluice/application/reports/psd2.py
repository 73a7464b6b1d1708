"""The figures of articles 19 to 21 of Delegated Regulation (EU) 2018/389, from a quarter's log.

Each log is verified once, and read again up to the same checkpoint: a fraud is known after its
payment, so what is known of authorizations is gathered first. Held are the authorizations that have
a label, LABELLED_MAX at a time; where there are more, the logs are read again for each further part
of them. Everything else is sums by day.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import msgspec

from sluice.application.read_log import Unverifiable
from sluice.application.reports import fraud_rates as rates
from sluice.application.reports.document import (
    Cell,
    Document,
    Fact,
    Pack,
    Section,
    Table,
    amount,
    counted,
    instant,
)
from sluice.application.reports.evidence import Checked, Log, Progress, check, checkpoints
from sluice.application.reports.fraud_rates import (
    AUTHENTICATED,
    NOT_TOLD,
    NOTHING,
    REMOTE,
    TYPES,
    Quarter,
    Standing,
    Sums,
    Totals,
    day_date,
    day_of,
    percent,
    rounded,
    total,
)
from sluice.domain.clock import DAY_US
from sluice.domain.records import standing as reports
from sluice.domain.records.authorization import Channel, ScaExemption, ThreeDs
from sluice.domain.records.label import LabelKind
from sluice.domain.records.outcome import Outcome
from sluice.domain.sca import ARTICLES, ETV_CURRENCY, MEANINGS, OUT_OF_SCOPE, THRESHOLDS
from sluice.errors import Rejected

LABELLED_MAX = 100_000
"""Authorizations with a label that are held at once, some 450 bytes each."""
_DECISION, _LABEL, _OVERRIDE = b'{"type":"decision"', b'{"type":"label"', b'{"type":"override"'
_TITLES: dict[rates.Type, str] = {
    "remote_card": "Remote electronic card payments (e-commerce)",
    "card_present": "Card payments at a terminal, not remote (chip, stripe, contactless)",
    "cash_withdrawal": "Cash withdrawals, not remote",
    "mail_or_telephone": "Mail and telephone orders, not electronic",
}
_KINDS = {
    "chargeback": "chargeback",
    "verdict": "verdict of an analyst",
    "issuer_report": "fraud report of an issuer (TC40, SAFE)",
    "alert": "alert alone: a suspicion that nobody examined",
}
_COLUMNS = [
    "Payments",
    "Share",
    "Value",
    "Average",
    "Fraudulent",
    "Fraudulent value",
    "Fraud rate",
]
"""Of `_cells`, in their order."""
_LIMITS = [
    "A decision is no clearing: an approved authorization counts as an executed payment of its "
    "authorized amount, on the UTC day of its own time. Reversals, partial clearings and refunds "
    "are not in the log; neither is what never asked for an authorization.",
    "Declined authorizations are no payments. One that was challenged or referred to a person "
    "counts only if a later authorization of the payment was approved.",
    "Amounts are in the reference currency, converted when it was decided.",
    "A payment counts as authenticated where 3-D Secure ended with a passed challenge. What the "
    "log does not tell counts as not told: at a terminal it has no field for chip and PIN. In the "
    "rate of article 19 a remote payment of which nothing is told counts as within scope.",
    "Payees that initiate a payment, mail and telephone orders, and payments with one provider "
    "outside the EEA are out of scope where sluice was told so; they are in no rate of article 19.",
    "A fraud counts on the day of its payment, whenever it became known, as in the EBA's "
    "guidelines on fraud reporting (EBA/GL/2018/05). What becomes known later changes the figures: "
    "the checkpoints below say up to when this document knew.",
    "Fraudulent is what the strongest report says, of equals the last: chargebacks and verdicts "
    "before issuers' reports before alerts. Whether the payer was manipulated or acted "
    "fraudulently, and who bears the loss, is not in the log.",
    "The rate is of the tenants named above in these logs. The regulation asks for one of the "
    "whole payment service provider, over all its transactions of the type.",
    "A quarter is a calendar quarter: the rolling quarterly basis of article 19 is one calculation "
    "for each (EBA Q&A 2018_4045). The 90 days that end with each day are for monitoring.",
    "Credit transfers are no card payments; the Annex's second column is not here.",
]


class _Sca(msgspec.Struct, frozen=True, gc=False):
    exemption: str | None
    three_ds: ThreeDs | None
    tra: dict[str, int | None] | None = None


class _DecisionBody(msgspec.Struct, frozen=True, gc=False):
    tenant: str
    channel: Channel
    amount_minor: int
    currency: str
    outcome: Outcome
    sca: _Sca


class _Decision(msgspec.Struct, frozen=True, gc=False):
    """What counts of a decision's record."""

    recorded_at: int
    authorization_id: str
    event_at: int
    body: _DecisionBody


class _LabelBody(msgspec.Struct, frozen=True, gc=False):
    tenant: str
    known_at: int
    is_fraud: bool
    kind: LabelKind


class _Label(msgspec.Struct, frozen=True, gc=False):
    """What counts of a label's record."""

    authorization_id: str
    event_at: int
    body: _LabelBody


class _Any(msgspec.Struct, frozen=True, gc=False):
    recorded_at: int


_decision = msgspec.json.Decoder(_Decision)
_label = msgspec.json.Decoder(_Label)
_any = msgspec.json.Decoder(_Any)


class _Known(NamedTuple):
    """What is known of an authorization, by which kind of report, and when it was."""

    standing: reports.Standing
    kind: LabelKind
    event_us: int


class _Window(NamedTuple):
    """Whose days count: tenants, none for all, and [first, until)."""

    tenants: frozenset[str]
    first: int
    until: int

    def has(self, tenant: str, event_us: int) -> bool:
        return self.first <= day_of(event_us) < self.until and (
            not self.tenants or tenant in self.tenants
        )


def _digest(tenant: str, authorization_id: str) -> bytes:
    return hashlib.blake2b(f"{tenant}\0{authorization_id}".encode(), digest_size=16).digest()


class _Labels:
    """Gathers what is known of the authorizations of one part, of parts."""

    def __init__(self, window: _Window, part: int = 0, parts: int = 1) -> None:
        self._window, self.part, self.parts = window, part, parts
        self.known: dict[bytes, _Known] = {}
        self.labels = 0
        self.first_us: int | None = None
        self.last_us = 0
        self.overrides = 0

    def mine(self, digest: bytes) -> bool:
        """Whether an authorization is of this part."""
        return int.from_bytes(digest[:4], "big") % self.parts == self.part

    @property
    def too_many(self) -> bool:
        """Whether those of one part alone are too many to hold."""
        return self.parts == 1 and self.labels > LABELLED_MAX

    def __call__(self, _first: int, entries: Sequence[bytes]) -> None:
        if not entries:
            return
        at = [_any.decode(entries[i].partition(b"\n")[0]).recorded_at for i in (0, -1)]
        self.first_us = at[0] if self.first_us is None else min(self.first_us, at[0])
        self.last_us = max(self.last_us, at[1])
        for entry in entries:
            if entry.startswith(_LABEL):
                self._take(_label.decode(entry[: entry.index(b"\n")]))
            elif entry.startswith(_OVERRIDE):
                self.overrides += 1

    def _take(self, label: _Label) -> None:
        body = label.body
        if not self._window.has(body.tenant, label.event_at):
            return
        self.labels += 1
        if self.too_many:
            self.known.clear()
            return
        digest = _digest(body.tenant, label.authorization_id)
        if self.mine(digest):
            before = self.known.get(digest)
            now, _ = reports.judged(before and before.standing, body)
            its_own = now.rank, now.known_at
            counts = before is None or its_own == (reports.RANKS[body.kind], body.known_at)
            kind = before.kind if before is not None and not counts else body.kind
            self.known[digest] = _Known(now, kind, label.event_at)


class Figures:
    """What is counted of the decisions of a quarter, the one before, and the 90 days before each.

    quarter: that is asked for. first_us, as_of_us: of the logs' entries.
    """

    def __init__(self, quarter: Quarter, first_us: int, as_of_us: int) -> None:
        self.quarter = quarter
        self.first_us, self.as_of_us = first_us, as_of_us
        self.totals = Totals()
        self.delays = rates.Delays()
        self.tenants: set[str] = set()
        self.currencies: set[str] = set()
        self.outcomes: dict[Outcome, Sums] = {}
        self.by_etv: dict[int | None, Sums] = {}
        self.by_kind: dict[str, Sums] = {}
        self.not_executed = 0
        """Frauds of the quarter that were not approved."""
        self.unknown = 0
        """Frauds of the quarter of which these logs have no decision."""
        self.beyond = 0
        """Payments that name an exemption which their channel cannot have."""
        self.overrides = 0

    def in_quarter(self, event_us: int) -> bool:
        """Whether a time is in the quarter asked for."""
        return self.quarter.first <= day_of(event_us) < self.quarter.until

    def take(self, record: _Decision, known: _Known | None) -> None:
        """One decision. Raises Rejected for a second reference currency."""
        body = record.body
        self.tenants.add(body.tenant)
        self.currencies.add(body.currency)
        if len(self.currencies) > 1:
            raise Rejected(
                f"amounts are in {' and in '.join(sorted(self.currencies))}: a rate over both is "
                "none",
                fix="report the tenants of one reference currency: --tenant",
            )
        fraud = known is not None and known.standing.is_fraud
        sums = Sums(1, body.amount_minor, int(fraud), body.amount_minor if fraud else 0)
        asked = self.in_quarter(record.event_at)
        if asked:
            self.outcomes[body.outcome] = self.outcomes.get(body.outcome, NOTHING).plus(sums)
        if body.outcome is not Outcome.APPROVE:
            self.not_executed += asked and fraud
            return
        kind, sca = TYPES[body.channel], body.sca
        by = rates.how(body.channel, sca.exemption, sca.three_ds)
        self.totals.take(day_of(record.event_at), kind, by, body.amount_minor, fraud=fraud)
        if not asked:
            return
        self.beyond += not _possible(kind, sca.exemption)
        if fraud and known is not None:
            self.by_kind[known.kind] = self.by_kind.get(known.kind, NOTHING).plus(sums)
        if kind == REMOTE and by == ScaExemption.TRANSACTION_RISK_ANALYSIS:
            etv = sca.tra["etv_eur"] if sca.tra else None
            self.by_etv[etv] = self.by_etv.get(etv, NOTHING).plus(sums)


_NOT_REMOTE = {ScaExemption.CONTACTLESS, ScaExemption.UNATTENDED_TERMINAL}
_REMOTE_ONLY = {ScaExemption.LOW_VALUE, ScaExemption.TRANSACTION_RISK_ANALYSIS}


def _possible(kind: rates.Type, exemption: str | None) -> bool:
    if exemption == ScaExemption.MOTO:
        return kind == "mail_or_telephone"
    return exemption not in (_NOT_REMOTE if kind == REMOTE else _REMOTE_ONLY)


class _Decisions:
    """Counts the decisions of one part."""

    def __init__(self, window: _Window, labels: _Labels, figures: Figures) -> None:
        self._window, self._labels, self._figures = window, labels, figures
        self._seen: set[bytes] = set()

    def __call__(self, _first: int, entries: Sequence[bytes]) -> None:
        labels, take = self._labels, self._figures.take
        for entry in entries:
            if entry.startswith(_DECISION):
                record = _decision.decode(entry[: entry.index(b"\n")])
                if not self._window.has(record.body.tenant, record.event_at):
                    continue
                digest = _digest(record.body.tenant, record.authorization_id)
                if labels.mine(digest):
                    known = labels.known.get(digest)
                    if known is not None:
                        self._seen.add(digest)
                    take(record, known)

    def end(self) -> None:
        """After the last log."""
        figures = self._figures
        for digest, known in self._labels.known.items():
            if known.standing.is_fraud:
                figures.delays.take(known.event_us, known.standing.since_us, figures.as_of_us)
                if digest not in self._seen and figures.in_quarter(known.event_us):
                    figures.unknown += 1


def count(
    logs: Sequence[Log], quarter: Quarter, tenants: Iterable[str], progress: Progress
) -> tuple[Figures, list[Checked]]:
    """What the logs say of a quarter. Raises Unfounded, Unverifiable, Rejected."""
    window = _Window(
        frozenset(tenants), quarter.before.first - rates.ROLLING_DAYS + 1, quarter.until
    )
    labels = _Labels(window)
    checked = [check(log, labels, progress) for log in logs]
    if labels.first_us is None:
        raise Unverifiable("the logs are empty")
    figures = Figures(quarter, labels.first_us, labels.last_us)
    figures.overrides = labels.overrides
    parts = 1 - (-labels.labels // LABELLED_MAX) if labels.too_many else 1
    for part in range(parts):
        if parts > 1:
            labels = _Labels(window, part, parts)
            _read(checked, labels, progress)
        decisions = _Decisions(window, labels, figures)
        _read(checked, decisions, progress)
        decisions.end()
    return figures, checked


def _read(
    checked: Sequence[Checked], take: Callable[[int, Sequence[bytes]], None], progress: Progress
) -> None:
    for one in checked:
        check(one.log, take, progress)


def psd2(
    logs: Sequence[Log],
    quarter_name: str,
    *,
    now_us: int,
    tenants: Sequence[str] = (),
    progress: Progress = lambda _done, _of: None,
) -> Pack:
    """The document of a quarter. tenants: of one payment service provider; none for all.

    Raises Unfounded for a log that does not hold, Unverifiable if the logs say nothing of the
    quarter, Rejected for what is no quarter and for amounts in two currencies.
    """
    quarter = rates.quarter_of(quarter_name)
    figures, checked = count(logs, quarter, tenants, progress)
    if not figures.outcomes:
        raise Unverifiable(
            f"no decision of {quarter.name} is in these logs"
            + (f" of the tenants {', '.join(tenants)}" if tenants else "")
        )
    (currency,) = figures.currencies
    document = _Page(figures, currency).document(now_us, checked)
    return Pack(document, checkpoints(checked))


class _Page:
    """Figures in words."""

    def __init__(self, figures: Figures, currency: str) -> None:
        self._figures, self._currency = figures, currency
        totals, quarter = figures.totals, figures.quarter
        self._now = totals.in_rate(quarter.first, quarter.until)
        self._before = totals.in_rate(quarter.before.first, quarter.before.until)
        self._rolling = totals.rolling(quarter)
        self._reaches_before = day_of(figures.first_us) <= quarter.before.first
        self._standings = {
            one: Standing(
                self._now.exceeds(one.reference_rate_ppm) if self._now.value_minor else None,
                self._before.exceeds(one.reference_rate_ppm)
                if self._before.value_minor and self._reaches_before
                else None,
            )
            for one in THRESHOLDS
        }

    def document(self, now_us: int, checked: Sequence[Checked]) -> Document:
        """All of it."""
        figures, quarter = self._figures, self._figures.quarter
        last = day_date(quarter.until - 1)
        return Document(
            kind="psd2",
            title=f"Fraud rates and exemptions, {quarter.name}",
            subject=(
                f"Payments of {day_date(quarter.first)} to {last} (UTC), of "
                f"{', '.join(sorted(figures.tenants))}; amounts in {self._currency}"
            ),
            audience=(
                "The competent authority, on request (articles 19(3) and 21(2) of Delegated "
                "Regulation (EU) 2018/389), and the audit of article 3(2)"
            ),
            made_at=instant(now_us),
            lead=self._lead(),
            rests_on=[one.rests_on for one in checked],
            sections=[
                self._against_the_annex(),
                *(self._of_type(kind) for kind in _TITLES),
                self._risk_analysis(),
                self._labels(),
                self._decisions(),
                self._each_day(),
            ],
            limits=_LIMITS,
        )

    def _money(self, minor: int) -> str:
        return amount(minor, self._currency)

    def _lead(self) -> str:
        now, quarter = self._now, self._figures.quarter
        if not now.value_minor:
            return (
                f"In {quarter.name} there was no remote electronic card payment within scope, so "
                "there is no fraud rate to compare with the Annex."
            )
        allowed = [one for one, found in self._standings.items() if found.now is False]
        told = (
            f"By it transaction risk analysis may be used up to EUR {allowed[-1].etv_eur}."
            if allowed
            else "It is above every reference rate, so transaction risk analysis may not be used."
        )
        ceased = [one for one, found in self._standings.items() if found.now and found.before]
        if ceased:
            ranges = ", ".join(f"EUR {one.etv_eur}" for one in ceased)
            told += f" For the threshold of {ranges} it was exceeded in two consecutive quarters."
        return (
            f"In {quarter.name} the fraud rate of remote electronic card payments was "
            f"{percent(now.rate)}: {self._money(now.fraud_minor)} of "
            f"{self._money(now.value_minor)}. {told}{self._not_whole()}"
        )

    def _not_whole(self) -> str:
        figures, quarter = self._figures, self._figures.quarter
        told = ""
        if day_of(figures.first_us) > quarter.first:
            told += f" These logs begin on {instant(figures.first_us)}, within the quarter."
        if figures.as_of_us < quarter.until * DAY_US:
            told += f" They end on {instant(figures.as_of_us)}: the quarter is not over in them."
        return told

    def _against_the_annex(self) -> Section:
        now, before, quarter = self._now, self._before, self._figures.quarter
        last_day, last = self._rolling[-1]
        with_rate = [(sums.rate, day) for day, sums in self._rolling if sums.rate is not None]
        highest, highest_day = max(with_rate, default=(None, None))
        rows: list[list[Cell]] = [
            [
                f"EUR {one.etv_eur}",
                percent(Fraction(one.reference_rate_ppm, rates.PPM), 2),
                _word(found.now),
                _word(found.before),
                found.duty,
            ]
            for one, found in self._standings.items()
        ]
        return Section(
            title="The rate against the Annex (articles 18 to 20)",
            text=[
                "Value of the fraudulent payments by value of all, of remote electronic card "
                "payments that were authenticated or exempt. One rate is compared with each "
                "reference rate; the amounts of a range have none of their own (EBA Q&A 2018_4043)."
            ],
            facts=[
                Fact(f"Value of {quarter.name}", self._money(now.value_minor)),
                Fact("Fraudulent", self._money(now.fraud_minor)),
                Fact("Fraud rate", percent(now.rate)),
                Fact("Exactly, in minor units", f"{now.fraud_minor} / {now.value_minor}"),
                Fact(
                    f"Fraud rate of {quarter.before.name}",
                    percent(before.rate)
                    + ("" if self._reaches_before else "; these logs do not reach its first day"),
                ),
                Fact(f"Of the 90 days to {day_date(last_day)}", percent(last.rate)),
                Fact(
                    "Highest of any 90 days that end in the quarter",
                    percent(highest)
                    + (f", to {day_date(highest_day)}" if highest_day is not None else ""),
                ),
            ],
            table=Table(
                [
                    "Exemption threshold value",
                    "Reference rate",
                    quarter.name,
                    quarter.before.name,
                    "What is asked",
                ],
                rows,
            ),
        )

    def _of_type(self, kind: rates.Type) -> Section:
        quarter = self._figures.quarter
        some = self._figures.totals.by_how(kind, quarter.first, quarter.until)
        every = total(some.values())
        if not some:
            return Section(title=_TITLES[kind], text=["There was none."])
        rows = [[_name(by), *self._cells(sums, every)] for by, sums in some.items()]
        rows.append(["All", *self._cells(every, every)])
        if kind == REMOTE:
            rows.append(["All but those out of scope", *self._cells(self._now, every)])
        return Section(
            title=_TITLES[kind],
            text=["Executed payments, by how they were initiated (article 21(1))."],
            table=Table(
                ["Initiated", *_COLUMNS],
                rows,
            ),
        )

    def _cells(self, sums: Sums, every: Sums) -> list[Cell]:
        average = sums.average_minor
        return [
            sums.payments,
            percent(Fraction(sums.payments, every.payments), 2),
            self._money(sums.value_minor),
            None if average is None else self._money(rounded(average)),
            sums.frauds,
            self._money(sums.fraud_minor),
            percent(sums.rate),
        ]

    def _risk_analysis(self) -> Section:
        title = "Payments exempt by transaction risk analysis (article 18)"
        by_etv = self._figures.by_etv
        every = total(by_etv.values())
        if not by_etv:
            return Section(title=title, text=["None was told of."])
        known = [etv for etv in by_etv if etv is not None]
        rows = [[f"up to EUR {etv}", *self._cells(by_etv[etv], every)] for etv in sorted(known)]
        if None in by_etv:
            of = (
                f"above EUR {THRESHOLDS[-1].etv_eur}: no threshold value allows it"
                if self._currency == ETV_CURRENCY
                else f"in {self._currency}, in which the Annex has no threshold value"
            )
            rows.append([of, *self._cells(by_etv[None], every)])
        return Section(
            title=title,
            text=["By the lowest exemption threshold value that the amount does not exceed."],
            table=Table(
                ["Amount", *_COLUMNS],
                rows,
            ),
        )

    def _labels(self) -> Section:
        figures, quarter = self._figures, self._figures.quarter
        payments = figures.totals.payments_by_day(REMOTE, quarter.first, quarter.until)
        share = figures.delays.known_share(payments, figures.as_of_us)
        if share is None:
            told = (
                f"No fraud of these logs is {rates.MATURE_DAYS} days old, so nothing says how many "
                "of the quarter's frauds are still to become known."
            )
        else:
            told = (
                f"Of the frauds among the quarter's remote payments that become known within "
                f"{rates.MATURE_DAYS} days, {percent(share, 1)} are known by now, if they are "
                f"reported as late as the {counted(figures.delays.frauds, 'fraud')} of these logs "
                "that are old enough to tell. The rest is in no rate above."
            )
        rows: list[list[Cell]] = [
            [_KINDS[kind], sums.frauds, self._money(sums.fraud_minor)]
            for kind in _KINDS
            if (sums := figures.by_kind.get(kind)) is not None
        ]
        return Section(
            title="What is known of frauds",
            text=[told],
            facts=[
                Fact("Known up to", instant(figures.as_of_us)),
                Fact("Frauds that were not approved, so no payments", figures.not_executed),
                Fact("Frauds of which these logs have no decision", figures.unknown),
            ],
            table=Table(["Fraud by its strongest report", "Payments", "Value"], rows)
            if rows
            else None,
        )

    def _decisions(self) -> Section:
        figures = self._figures
        text = ["Only what was approved is counted above."]
        if figures.beyond:
            text.append(
                f"{counted(figures.beyond, 'payment')} named an exemption that their channel "
                "cannot have (contactless on the web, low value at a terminal). They are counted "
                "as they say: look into who sends them."
            )
        if figures.overrides:
            text.append(
                f"The logs hold {counted(figures.overrides, 'override')} of an outcome by a "
                "person; they are not applied."
            )
        return Section(
            title="All decisions of the quarter",
            text=text,
            table=Table(
                ["Outcome", "Authorizations", "Value"],
                [
                    [outcome.value, sums.payments, self._money(sums.value_minor)]
                    for outcome in Outcome
                    if (sums := figures.outcomes.get(outcome)) is not None
                ],
            ),
        )

    def _each_day(self) -> Section:
        first = day_date(self._figures.quarter.first - rates.ROLLING_DAYS + 1)
        begins = day_of(self._figures.first_us)
        text = ["The rate of article 19 over the 90 days that end with each day."]
        if begins > self._figures.quarter.first - rates.ROLLING_DAYS + 1:
            text.append(
                f"They would reach back to {first}; these logs begin on {day_date(begins)}, so "
                "earlier windows hold fewer days."
            )
        for one in THRESHOLDS:
            over = [day for day, sums in self._rolling if sums.exceeds(one.reference_rate_ppm)]
            when = f"first above it on {day_date(over[0])}" if over else "never above it"
            text.append(
                f"{percent(Fraction(one.reference_rate_ppm, rates.PPM), 2)} "
                f"(EUR {one.etv_eur}): {when}; above it on {counted(len(over), 'day')}."
            )
        return Section(
            title="Rolling 90 days",
            text=text,
            table=Table(
                ["To", "Value", "Fraudulent value", "Fraud rate"],
                [
                    [
                        str(day_date(day)),
                        self._money(sums.value_minor),
                        self._money(sums.fraud_minor),
                        percent(sums.rate),
                    ]
                    for day, sums in self._rolling
                ],
            ),
        )


def _word(exceeded: bool | None) -> str:
    return {True: "exceeded", False: "within", None: "not known"}[exceeded]


def _name(by: Any) -> str:
    """How a payment was initiated, for people."""
    if by == AUTHENTICATED:
        return "with strong customer authentication"
    if by == NOT_TOLD:
        return "not told"
    try:
        exemption = ScaExemption(by)
    except ValueError:
        return f"{by} (of a newer release)"
    if exemption in OUT_OF_SCOPE:
        return MEANINGS[exemption]
    return f"article {ARTICLES[exemption]}: {MEANINGS[exemption]}"
