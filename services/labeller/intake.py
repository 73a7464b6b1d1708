"""Reports from a topic of somebody else's: each becomes a label or a dead letter."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from services.loop import NOTHING, Done, Handler, Limits, whole
from sluice import telemetry
from sluice.application.label import TAKE_MAX, Labeller, Result, summed
from sluice.application.ports import Message
from sluice.domain.clock import Clock
from sluice.domain.records.dead_letter import dead_letter_of
from sluice.domain.records.decision import Origin
from sluice.domain.records.report import Report, decode_report
from sluice.errors import Rejected
from sluice.telemetry import METRICS

RETRY_S, RETRY_MAX_S = 0.5, 5.0
RETRIES_MAX = 60
"""About five minutes of a broker that is away; then it exits, and is started again."""
LIMITS = Limits(
    batch_max=TAKE_MAX,
    poll_s=0.2,
    pause_s=RETRY_S,
    pause_max_s=RETRY_MAX_S,
    failures_max=RETRIES_MAX,
)


class Reports(Handler):
    """Labels first, then the offset: what comes again is known by its source and id."""

    def __init__(
        self, labeller: Labeller, clock: Clock, metrics: telemetry.Metrics = METRICS
    ) -> None:
        self._labeller = labeller
        self._clock = clock
        self._metrics = metrics

    def handle(self, batch: Sequence[Message]) -> Done:
        """Raises Unavailable: the batch will come again."""
        if not batch:
            return NOTHING
        began = time.perf_counter()
        read = [_read(message.value) for message in batch]

        def dead(taken: Sequence[Result]) -> list[tuple[str, bytes]]:
            return [
                self._dead_letter(message, one)
                for message, one in zip(batch, _all(read, taken), strict=True)
                if isinstance(one, Rejected)
            ]

        reports = [one for one in read if isinstance(one, Report)]
        results = _all(read, self._labeller.take(reports, dead))
        self._metrics.count_each("sluice_labeller_reports_total", summed(results), "kafka")
        codes = summed(one for one in results if isinstance(one, Rejected))
        self._metrics.count_each("sluice_dead_letters_total", codes, "labeller")
        seconds = time.perf_counter() - began
        self._metrics.observe("sluice_labeller_take_duration_seconds", seconds)
        return whole(batch)

    def _dead_letter(self, message: Message, error: Rejected) -> tuple[str, bytes]:
        origin = Origin(message.topic, message.partition, message.offset)
        letter = dead_letter_of(
            message.value, origin, error, service="labeller", now_us=self._clock.now_us()
        )
        return f"{origin.topic}/{origin.partition}", msgspec.json.encode(letter)


def _read(raw: bytes) -> Report | Rejected:
    try:
        return decode_report(raw)
    except Rejected as error:
        return error


def _all(read: Sequence[Report | Rejected], taken: Sequence[Result]) -> list[Result]:
    """Results of all, in order: of those that were taken, and of those that were no reports."""
    left = iter(taken)
    return [next(left) if isinstance(one, Report) else one for one in read]
