"""The labeller: reports become labels, each once, and each says whether it changes anything.

What is known is what ``labels.v1`` says: read whole at the start, and read on before anything is
taken after a write whose end was not heard. So nothing is kept beside the topic, a report is taken
once by its source and id, and an answer means that the label is durable.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, Protocol

import msgspec

from sluice.application.label_maturity import Delays, Maturity
from sluice.application.ports import Count, Message, uncounted
from sluice.domain.clock import DAY_US, MINUTE_US, SECOND_US, Clock
from sluice.domain.records.authorization import encode
from sluice.domain.records.label import Label
from sluice.domain.records.report import ENTITIES, Named, Report, label_of_report
from sluice.domain.records.standing import Standing, judged
from sluice.errors import Corrupt, Rejected

TAKE_MAX = 1_000
"""Reports of one transaction."""
LATE_US = DAY_US
"""A report that reaches us so long after its source knew is counted as late."""
AHEAD_US = 5 * MINUTE_US
"""How far a source's clock may be ahead of ours."""
REFRESH_US = SECOND_US
"""What others write to the topic (``sluice publish --labels``, a simulator) is known so late."""
_KEY_BYTES = 16
_CONTENT_BYTES = 8

Outcome = Literal["new", "turned", "repeats", "outranked", "duplicate"]
"""What became of a report: the first of its authorization; otherwise than what was known, and it
counts now; the same again; otherwise, and weaker; or sent before, of which nothing is written."""
Id = tuple[str, str]
"""Tenant and authorization id."""


class LabelTopic(Protocol):
    """``labels.v1``, with one writer."""

    def news(self) -> Iterator[Message]:
        """What came since the last call, at first all there is; what a writer left open has ended
        before. What it wrote itself and heard of may come a moment later. Raises Unavailable."""
        ...

    def write(
        self, labels: Sequence[tuple[str, bytes]], dead_letters: Sequence[tuple[str, bytes]]
    ) -> None:
        """Keys and values, all durable on return or none. Raises Unavailable: then only ``news``
        says which; Corrupt if another writer took over."""
        ...


class Authorizations(Protocol):
    """What was decided before, by id."""

    def find(self, wanted: Mapping[Id, int | None]) -> Mapping[Id, Named]:
        """Those that are there. wanted: with the authorization's own time, if that is known. Raises
        Rejected where too much would have to be searched, Corrupt."""
        ...


class NoAuthorizations:
    """Where nothing can be looked up."""

    def find(self, wanted: Mapping[Id, int | None]) -> Mapping[Id, Named]:
        """Raises Rejected."""
        raise Rejected(
            f"{', '.join(ENTITIES)} are needed: no archive is here to look the authorization up",
            fix="send them, or give the labeller the archive (labeller.look_up)",
            code="missing_field",
        )


class Answered(msgspec.Struct, frozen=True):
    """A report that is durable. is_fraud: what is known of the authorization now."""

    outcome: Outcome
    authorization_id: str
    report_id: str
    is_fraud: bool


Result = Answered | Rejected
DeadLetters = Callable[[Sequence[Result]], Sequence[tuple[str, bytes]]]
"""Keys and values, of reports that became no label."""


class Labeller:
    """Takes reports. One writer a process; thread-safe, one batch at a time.

    authorizations: to complete what a report leaves out. count: of what becomes of reports.
    """

    def __init__(
        self,
        topic: LabelTopic,
        authorizations: Authorizations,
        clock: Clock,
        count: Count = uncounted,
    ) -> None:
        self._topic = topic
        self._authorizations = authorizations
        self._clock = clock
        self._count = count
        self._lock = threading.Lock()
        self._seen: dict[bytes, bytes] = {}
        """Digest of a report's source and id to that of what it says."""
        self._known: dict[bytes, Standing] = {}
        self._delays = Delays()
        self._read_at = 0
        """When we last read on; 0 to do so before anything else."""
        self._over: Corrupt | None = None
        """What ended us, for whoever asks next."""

    @property
    def remembered(self) -> tuple[int, int]:
        """Reports by source and id, and authorizations of which something is known."""
        return len(self._seen), len(self._known)

    def maturity(self) -> list[Maturity]:
        """What share of the frauds reported is known after how many days, by channel and source."""
        with self._lock:
            delays = self._delays.copy()
        return delays.by_channel_and_source(self._clock.now_us())

    def refresh(self) -> None:
        """Read on what others wrote, or what we wrote without hearing of it. Raises Unavailable,
        Corrupt, also if ``take`` did."""
        with self._lock, self._ending():
            self._catch_up()

    def take(
        self, reports: Sequence[Report], dead_letters: DeadLetters = lambda _results: ()
    ) -> list[Result]:
        """(k,) reports to (k,) results, in order; what is answered is durable. dead_letters: of the
        same intake, made from the results and written with them.

        Raises Unavailable if nobody knows: the same reports may come again. Raises Corrupt if
        another labeller took over.
        """
        with self._lock, self._ending():
            if self._clock.now_us() - self._read_at > REFRESH_US:
                self._catch_up()
            now_us = self._clock.now_us()
            results: list[Result] = []
            labels: list[Label] = []
            seen: dict[bytes, bytes] = {}
            known: dict[bytes, Standing] = {}
            found = self._look_up(reports)
            for report in reports:
                try:
                    results.append(self._judge(report, found, now_us, seen, known, labels))
                except Rejected as error:
                    results.append(error)
            dead = dead_letters(results)
            if labels or dead:
                records = [(label.authorization_id, encode(label)) for label in labels]
                before, self._read_at = self._read_at, 0  # unless all goes well
                self._topic.write(records, dead)
                self._read_at = before
            self._seen.update(seen)
            self._known.update(known)
            for label in labels:
                self._delays.add(label)
        for label in labels:
            self._count("sluice_labeller_labels_total", label.kind, str(label.is_fraud).lower())
            if now_us - label.known_at > LATE_US:
                self._count("sluice_labeller_late_total", label.kind)
        return results

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """Another labeller that took over, or a record that nobody can read, ends it for good."""
        if self._over is not None:
            raise self._over
        try:
            yield
        except Corrupt as error:
            self._over = error
            raise

    def _look_up(self, reports: Sequence[Report]) -> Mapping[Id, Named] | Rejected:
        """Of the reports that leave something out; or why that cannot be done."""
        wanted = {
            (one.tenant, one.authorization_id): one.event_at for one in reports if not one.complete
        }
        if not wanted:
            return {}
        try:
            return self._authorizations.find(wanted)
        except Rejected as error:
            return error
        except (
            Corrupt
        ) as error:  # of the archive: what says all that is needed is taken all the same
            self._count("sluice_labeller_failed_total", error.code)
            return Rejected(
                f"the authorization cannot be looked up: {error.what}",
                where=error.where,
                fix=f"restore the archive, or send {', '.join(ENTITIES)} with the report",
                code="missing_field",
            )

    def _judge(
        self,
        report: Report,
        found: Mapping[Id, Named] | Rejected,
        now_us: int,
        seen: dict[bytes, bytes],
        known: dict[bytes, Standing],
        labels: list[Label],
    ) -> Answered:
        """What becomes of one report, after those before it. Adds its label. Raises Rejected."""
        name = _digest(report.tenant, report.source, report.report_id)
        content = _content(report.authorization_id, report.kind, report.is_fraud, report.reason)
        about = _digest(report.tenant, report.authorization_id)
        before = known.get(about) or self._known.get(about)
        taken = seen.get(name) or self._seen.get(name)
        if taken is not None:
            if taken != content:
                raise Rejected(
                    "this source sent other content under this report_id before",
                    where="$.report_id",
                    fix="a report_id names one report forever; what changed is a new report",
                    code="report_conflict",
                )
            says = report.is_fraud if before is None else before.is_fraud
            return Answered("duplicate", report.authorization_id, report.report_id, says)
        named = None
        if not report.complete:
            if isinstance(found, Rejected):
                raise found
            named = found.get((report.tenant, report.authorization_id))
            if named is None:
                raise Rejected(
                    "no authorization of this id was decided here, as far as the archive goes back",
                    where="$.authorization_id",
                    fix="send it again in some minutes if it was decided just now; else send "
                    f"{', '.join(ENTITIES)} with it",
                    code="unknown_authorization",
                )
        label = label_of_report(report, named, now_us)
        _check_times(label, now_us)
        standing, why = judged(before, label)
        taken_back = None
        if before is not None and before.is_fraud and not label.is_fraud and why is None:
            taken_back = before.since_us  # since then states count a fraud that was none
        labels.append(msgspec.structs.replace(label, uncounted=why, withdraws=taken_back))
        seen[name] = content
        known[about] = standing
        outcome: Outcome = why or ("new" if before is None else "turned")
        return Answered(outcome, report.authorization_id, report.report_id, standing.is_fraud)

    def _catch_up(self) -> None:
        for message in self._topic.news():
            self._remember(_decoded(message))
        self._read_at = self._clock.now_us()

    def _remember(self, label: Label) -> None:
        """Enter a label of the topic; one that is known already changes nothing."""
        about = _digest(label.tenant, label.authorization_id)
        if label.report_id is not None:
            name = _digest(label.tenant, label.source, label.report_id)
            if name in self._seen:
                return
            self._seen[name] = _content(
                label.authorization_id, label.kind, label.is_fraud, label.reason
            )
        self._known[about] = judged(self._known.get(about), label)[0]
        self._delays.add(label)


_decode = msgspec.json.Decoder(Label).decode


def _decoded(message: Message) -> Label:
    try:
        return _decode(message.value)
    except MemoryError:
        raise
    except Exception as exc:  # text that is no UTF-8, brackets too deep: a place to go on from
        raise Corrupt(
            f"a label that this release cannot read: {exc}",
            where=f"{message.topic}/{message.partition}@{message.offset}",
            fix="run the release that wrote it, or a newer one; find a foreign writer",
        ) from exc


def _check_times(label: Label, now_us: int) -> None:
    if label.known_at > now_us + AHEAD_US:
        raise Rejected(
            "known_at is in the future",
            where="$.known_at",
            fix="microseconds since 1970 UTC, and check the source's clock",
            code="event_in_future",
        )
    if label.known_at < label.event_at:
        raise Rejected(
            "known_at is before the authorization's event_at",
            where="$.known_at",
            fix="known_at says since when the source knows of the fraud",
            code="out_of_range",
        )


def _digest(*texts: str) -> bytes:
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=_KEY_BYTES).digest()


def _content(authorization_id: str, kind: str, is_fraud: bool, reason: str | None) -> bytes:
    said = f"{authorization_id}\0{kind}\0{is_fraud:d}\0{reason or ''}".encode()
    return hashlib.blake2b(said, digest_size=_CONTENT_BYTES).digest()


def summed(results: Iterable[Result]) -> dict[str, int]:
    """Results by outcome, or by the code of what refused them."""
    counts: dict[str, int] = {}
    for result in results:
        code = result.outcome if isinstance(result, Answered) else result.code
        counts[code] = counts.get(code, 0) + 1
    return counts
