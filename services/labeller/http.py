"""``POST /v1/labels``: one report, or a list of them, behind the access rules of the sync API.

Requests that come while others are being written are written together: a transaction takes some
hundredths of a second, however many reports are in it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Protocol

import msgspec

from services.decider.access import PEER, Access, Caller, Routes
from services.decider.asgi import (
    CLOSE,
    Receive,
    Scope,
    Send,
    Unread,
    linger,
    problem_headers,
    read_body,
    respond,
    respond_problem,
)
from services.decider.problems import Problem, problem, problem_of, unforeseen
from sluice import telemetry
from sluice.application import access
from sluice.application.access import Refused
from sluice.application.label import TAKE_MAX, Result, summed
from sluice.domain.records.report import Report, decode_report
from sluice.errors import Rejected, SluiceError, Unavailable
from sluice.telemetry import METRICS

LABELS = "/v1/labels"
BODY_MAX_BYTES = 1024 * 1024
REPORTS_MAX = 500
"""Of one request."""
WAITING_MAX = 5_000
"""Reports that wait for their transaction, of all requests; beyond it 503, no queue."""
API = Routes(
    {
        LABELS: frozenset({access.Scope.LABEL}),
        "/v2/health/live": frozenset(),
        "/v2/health/ready": frozenset(),
    }
)
_JSON = (b"content-type", b"application/json")
_encoder = msgspec.json.Encoder()
_list = msgspec.json.Decoder(list[msgspec.Raw])


class Takes(Protocol):
    """What the API needs of :class:`sluice.application.label.Labeller`."""

    def take(self, reports: Sequence[Report]) -> list[Result]:
        """(k,) reports to (k,) results. Raises Unavailable, Corrupt."""
        ...


class Desk:
    """Gathers reports of many requests into transactions, one after the other."""

    def __init__(self, labeller: Takes, metrics: telemetry.Metrics = METRICS) -> None:
        self._labeller = labeller
        self._metrics = metrics
        self._waiting: list[tuple[Report, asyncio.Future[Result]]] = []
        self._inside = 0
        self._work: asyncio.Task[None] | None = None

    async def take(self, reports: Sequence[Report]) -> list[Result]:
        """(k,) reports to (k,) results, durable. Raises Unavailable."""
        if self._inside + len(reports) > WAITING_MAX:
            raise Unavailable("too many reports wait", code="overloaded")
        loop = asyncio.get_running_loop()
        mine = [(report, loop.create_future()) for report in reports]
        self._waiting += mine
        self._add(len(mine))
        if self._work is None:
            self._work = asyncio.create_task(self._until_empty())
        try:
            return await asyncio.gather(*(future for _, future in mine))
        finally:
            self._add(-len(mine))

    def _add(self, reports: int) -> None:
        self._inside += reports
        self._metrics.set("sluice_labeller_waiting", self._inside)

    async def _until_empty(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:TAKE_MAX], self._waiting[TAKE_MAX:]
            began = time.perf_counter()
            try:
                results = await asyncio.to_thread(
                    self._labeller.take, [report for report, _ in batch]
                )
            except Exception as error:
                self._fail(batch, unforeseen(error))
            else:
                for (_, future), result in zip(batch, results, strict=True):
                    if not future.done():
                        future.set_result(result)
                seconds = time.perf_counter() - began
                self._metrics.observe("sluice_labeller_take_duration_seconds", seconds)
        self._work = None

    def _fail(
        self, batch: Sequence[tuple[Report, asyncio.Future[Result]]], error: SluiceError
    ) -> None:
        """Nobody knows what became of these: whoever sent them sends them again."""
        self._metrics.count("sluice_labeller_failed_total", error.code)
        telemetry.event(
            "reports_not_taken",
            level=logging.ERROR,
            error=not isinstance(error, Unavailable),
            code=error.code,
            reason=str(error)[:512],
            reports=len(batch),
        )
        for _, future in batch:
            if not future.done():
                future.set_exception(error)


class LabelApi:
    """The ASGI application. access: who may send reports; None lets everybody."""

    def __init__(
        self,
        labeller: Takes,
        *,
        access: Access | None = None,
        health: telemetry.Health = telemetry.HEALTH,
        metrics: telemetry.Metrics = METRICS,
    ) -> None:
        self.draining = False
        self._desk = Desk(labeller, metrics)
        self._access = access
        self._health = health
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, if whoever sends it may."""
        caller: Caller | None = None
        if self._access is not None:
            try:
                caller = self._access.admit(scope["headers"], scope.get(PEER), scope["path"], API)
            except Refused as refused:
                what = problem_of(refused)
                headers = problem_headers(what, refused.retry_after_s)
                await respond(send, what.status, _encoder.encode(what), *headers)
                return
        try:
            await self._route(scope, receive, send, caller)
        finally:
            if self._access is not None and caller is not None:
                self._access.leave(caller)

    async def _route(
        self, scope: Scope, receive: Receive, send: Send, caller: Caller | None
    ) -> None:
        path, method = scope["path"], scope["method"]
        if path not in API.table:
            await self._refuse(send, problem("not_found"))
        elif path == LABELS and method != "POST":
            await self._refuse(send, problem("method_not_allowed"), (b"allow", b"POST"))
        elif path == LABELS:
            await self._labels(scope, receive, send, caller)
        elif method not in ("GET", "HEAD"):
            await self._refuse(send, problem("method_not_allowed"), (b"allow", b"GET"))
        elif path == "/v2/health/live":
            await self._answer(send, b'{"live":true}')
        elif self.draining or not self._health.ready():
            why = "draining" if self.draining else "see its admin port"
            await self._refuse(send, problem("not_ready", why))
        else:
            await self._answer(send, b'{"ready":true}')

    async def _labels(
        self, scope: Scope, receive: Receive, send: Send, caller: Caller | None
    ) -> None:
        try:
            if _content_type(scope) != b"application/json":
                await self._refuse(send, problem("unsupported_content_type"))
                return
            raw = await read_body(scope, receive, BODY_MAX_BYTES)
            answer = await self._take(raw, caller)
        except Unread as error:
            await linger(receive, send, problem_of(error))
            return
        except SluiceError as error:
            self._metrics.count("sluice_labeller_reports_total", "http", error.code)
            answer = problem_of(error)
        except Exception as error:  # a bug of ours stops at its own request
            telemetry.event("request_failed", level=logging.ERROR, error=True)
            answer = problem_of(unforeseen(error))
        if isinstance(answer, Problem):
            await self._refuse(send, answer)
        else:
            await self._answer(send, answer)

    async def _take(self, raw: bytes, caller: Caller | None) -> bytes | Problem:
        """A body to the body of its answer, or to the problem of a report that is alone. Of a list
        each report has its answer or problem, in order. Raises SluiceError."""
        alone = raw.lstrip()[:1] != b"["
        raws = [msgspec.Raw(raw)] if alone else _listed(raw)
        if self._access is not None and caller is not None:
            self._access.charge(caller, len(raws) - 1)
        read: list[Report | Rejected] = [self._read(one, caller) for one in raws]
        reports = [one for one in read if isinstance(one, Report)]
        taken = iter(await self._desk.take(reports) if reports else [])
        results = [next(taken) if isinstance(one, Report) else one for one in read]
        self._metrics.count_each("sluice_labeller_reports_total", summed(results), "http")
        answers = [problem_of(one) if isinstance(one, Rejected) else one for one in results]
        if not alone:
            return _encoder.encode(answers)
        [only] = answers
        return only if isinstance(only, Problem) else _encoder.encode(only)

    def _read(self, raw: msgspec.Raw, caller: Caller | None) -> Report | Rejected:
        try:
            report = decode_report(raw)
            if self._access is not None and caller is not None:
                self._access.belongs(caller, report.tenant)
        except Rejected as error:
            return error
        return report

    async def _answer(self, send: Send, body: bytes) -> None:
        await respond(send, 200, body, _JSON, *([CLOSE] if self.draining else []))

    async def _refuse(self, send: Send, what: Problem, *headers: tuple[bytes, bytes]) -> None:
        await respond_problem(send, what, *headers, *([CLOSE] if self.draining else []))


def _listed(raw: bytes) -> list[msgspec.Raw]:
    """The reports of a list, unread. Raises Rejected."""
    try:
        reports = _list.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise Rejected(f"not JSON: {exc}", code="invalid_json") from None
    if not 1 <= len(reports) <= REPORTS_MAX:
        raise Rejected(
            f"{len(reports)} reports, 1 to {REPORTS_MAX} are taken at once",
            fix="send the rest with the next request",
            code="too_large" if reports else "missing_field",
        )
    return reports


def _content_type(scope: Scope) -> bytes:
    """Without its parameters; empty if there is none, or the body is compressed."""
    found = dict(scope["headers"])
    if found.get(b"content-encoding", b"identity").strip().lower() != b"identity":
        return b""
    return found.get(b"content-type", b"").partition(b";")[0].strip().lower()
