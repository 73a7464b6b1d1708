"""The sync door: ``POST /v1/authorizations`` and Open Inference v2, in front of KServe's router.

A raw ASGI application. Requests that arrive in one turn of the event loop are decided together,
so that a loaded door works in micro-batches without ever waiting for one to fill. What it does
not know itself it passes on to KServe.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from services.decider import open_inference, openapi
from services.decider.problems import PROBLEM_JSON, RETRY_AFTER_S, Problem, problem, problem_of
from sluice import telemetry
from sluice.application.decide import (
    Busy,
    Conflict,
    Decided,
    Repeated,
    Result,
    Unrecorded,
    deadline_after,
)
from sluice.application.ports import Arrival
from sluice.domain.authorization import MAX_BODY_BYTES
from sluice.domain.clock import SystemClock
from sluice.domain.decision import Decision
from sluice.errors import Rejected, SluiceError
from sluice.telemetry import METRICS, Line

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

BATCH_MAX = 128
"""Authorizations decided together: more would hold the event loop for over 10 ms."""
DEADLINE_MS, DEADLINE_MIN_MS, DEADLINE_MAX_MS = 50, 5, 1000
READY_FOR_S = 1.0
"""A rehearsal counts for this long, so that probes cannot become load."""
TELL_AFTER_S = 0.05
TELL_ROWS = 256
"""Metrics and log lines wait for either, because counting 100 together costs 1/20 each."""
LINGER_BYTES, LINGER_S = 2 * 1024 * 1024, 2.0
"""What is read and thrown away of a body too large, so that its sender reads our answer before
the connection is reset; then we close."""

_JSON = (b"content-type", b"application/json")
_CLOSE = (b"connection", b"close")
_encoder = msgspec.json.Encoder()
_REFUSALS: dict[type, Problem] = {
    Conflict: problem("conflict"),
    Busy: problem("busy"),
    Unrecorded: problem("unrecorded"),
}


class Decider(Protocol):
    """What the doors need of :class:`sluice.application.decide.Decider`."""

    def arrive(self, raw: bytes, *, traceparent: str | None = None) -> Arrival:
        """Parse and check. Raises Rejected."""
        ...

    async def decide(
        self, batch: Sequence[Arrival], *, deadline_us: int | None = None
    ) -> list[Result]:
        """One result an arrival, in order."""
        ...

    def score_rows(self, features: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """(n, f) to (n,) parts per million. Raises Unavailable."""
        ...

    async def rehearse(self) -> None:
        """One inference without a record. Raises Unavailable."""
        ...

    @property
    def release(self) -> str | None:
        """Name of the serving release."""
        ...


@dataclass(slots=True)
class _Waiting:
    arrival: Arrival
    result: asyncio.Future[Result]


@dataclass(slots=True)
class _Told:
    """What is still to be counted and logged of one authorization."""

    code: str
    seconds: float
    trace_id: str
    arrival: Arrival | None = None
    decision: Decision | None = None


class SyncDoor:
    """The ASGI application. Lives in one event loop; ``close`` when the server has stopped.

    name: the model's name in ``/v2/models/{name}``. columns: features of a row, in order.
    fallback: KServe's application. in_flight_max: requests past it are refused, never queued.
    deadline_ms: of a request that names none.
    """

    def __init__(
        self,
        decider: Decider,
        fallback: App,
        *,
        name: str,
        columns: Sequence[str],
        in_flight_max: int,
        deadline_ms: int = DEADLINE_MS,
        metrics: telemetry.Metrics = METRICS,
        service: str = "decider",
    ) -> None:
        self.draining = False
        self._decider = decider
        self._fallback = fallback
        self._name = name
        self._columns = len(columns)
        self._deadline_ms = deadline_ms
        self._in_flight = 0
        self._in_flight_max = in_flight_max
        self._metrics = metrics
        self._service = service
        self._waiting: dict[int, list[_Waiting]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._told: list[_Told] = []
        self._batches: list[int] = []
        """Rows of the batches decided since the last time we told."""
        self._rehearsed_at = float("-inf")
        self._rehearsal: asyncio.Task[bool] | None = None
        self._openapi = openapi.document(name, self._columns)
        model = f"/v2/models/{name}"
        self._routes: dict[str, tuple[str, App]] = {
            "/v1/authorizations": ("POST", self._authorize),
            f"{model}/infer": ("POST", self._infer),
            "/v2/health/live": ("GET", self._live),
            "/v2/health/ready": ("GET", self._ready),
            f"{model}/ready": ("GET", self._ready),
            "/openapi.json": ("GET", self._describe),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        route = self._routes.get(scope["path"])
        if route is None:
            await self._pass_on(scope, receive, send)
        elif route[0] != scope["method"] and (route[0], scope["method"]) != ("GET", "HEAD"):
            allow = (b"allow", route[0].encode())
            await self._refuse(send, problem("method_not_allowed"), allow)
        else:
            await route[1](scope, receive, send)

    # ------------------------------------------------------------ authorizations

    async def _authorize(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        content_type = deadline = caller = encoding = b""
        for name, value in scope["headers"]:
            if name == b"content-type":
                content_type = value
            elif name == b"traceparent":
                caller = value
            elif name == b"x-deadline-ms":
                deadline = value
            elif name == b"content-encoding":
                encoding = value
        trace = telemetry.continue_trace(caller.decode("latin-1"))
        traceparent = str(trace)
        header = (b"traceparent", traceparent.encode())
        if self._in_flight >= self._in_flight_max:
            self._tell(_Told("overloaded", time.perf_counter() - began, trace.trace_id))
            await self._refuse(send, problem("overloaded"), header)
            return
        self._in_flight += 1
        arrival: Arrival | None = None
        try:
            if not _is_json(content_type) or encoding:
                raise Rejected("", code="unsupported_content_type")
            deadline_ms = _deadline_ms(deadline) if deadline else self._deadline_ms
            raw = await _body(scope, receive, MAX_BODY_BYTES)
            arrival = self._decider.arrive(raw, traceparent=traceparent)
            result = await self._queue(arrival, deadline_ms)
        except SluiceError as error:
            refusal = problem_of(error)
            self._tell(_Told(refusal.code, time.perf_counter() - began, trace.trace_id, arrival))
            if isinstance(error, _Unread):
                await _linger(receive, send, refusal, header)
            else:
                await self._refuse(send, refusal, header)
            return
        finally:
            self._in_flight -= 1
        code, decision = "repeated", None
        if isinstance(result, Decided):
            code, decision = "decided", result.decision
            await self._answer(send, result.answer, header)
        elif isinstance(result, Repeated):
            await self._answer(send, result.answer, header, (b"idempotent-replay", b"true"))
        else:
            refusal = _REFUSALS[type(result)]
            code = refusal.code
            await self._refuse(send, refusal, header)
        self._tell(_Told(code, time.perf_counter() - began, trace.trace_id, arrival, decision))

    async def _queue(self, arrival: Arrival, deadline_ms: int) -> Result:
        """Join the batch of this turn of the event loop, and wait for the result."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._flush)
        waiting = _Waiting(arrival, loop.create_future())
        self._waiting.setdefault(deadline_ms, []).append(waiting)
        return await waiting.result

    def _flush(self) -> None:
        groups, self._waiting = self._waiting, {}
        for deadline_ms, rows in groups.items():
            for start in range(0, len(rows), BATCH_MAX):
                task = asyncio.create_task(
                    self._decide(rows[start : start + BATCH_MAX], deadline_ms)
                )
                self._running.add(task)
                task.add_done_callback(self._running.discard)

    async def _decide(self, rows: list[_Waiting], deadline_ms: int) -> None:
        self._batches.append(len(rows))
        deadline_us = deadline_after(rows[0].arrival.received_at, deadline_ms)
        try:
            results = await self._decider.decide(
                [row.arrival for row in rows], deadline_us=deadline_us
            )
        except Exception as error:  # whatever it is, no caller may wait forever
            telemetry.event("batch_failed", level=40, error=True, rows=len(rows))
            known = error if isinstance(error, SluiceError) else SluiceError("internal")
            for row in rows:
                if not row.result.done():
                    row.result.set_exception(known)
            return
        for row, result in zip(rows, results, strict=True):
            if not row.result.done():
                row.result.set_result(result)

    # ------------------------------------------------------------ Open Inference v2

    async def _infer(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        json_length = caller = encoding = b""
        for name, value in scope["headers"]:
            if name == open_inference.JSON_LENGTH_HEADER:
                json_length = value
            elif name == b"traceparent":
                caller = value
            elif name == b"content-encoding":
                encoding = value
        trace = telemetry.continue_trace(caller.decode("latin-1"))
        if self._in_flight >= self._in_flight_max:
            await self._refuse(send, problem("overloaded"))
            return
        self._in_flight += 1
        try:
            if encoding:
                raise Rejected("", code="unsupported_content_type")
            raw = await _body(scope, receive, open_inference.MAX_INFER_BYTES)
            length = int(json_length) if json_length.isdigit() else None
            request = open_inference.decode(raw, length, columns=self._columns)
            result: npt.NDArray[np.int64] | list[bytes]
            if request.features is not None:
                result = self._decider.score_rows(request.features)
            else:
                outcome = await self._judge(request.authorizations or [], trace)
                if isinstance(outcome, Problem):
                    await self._refuse(send, outcome)
                    return
                result = outcome
        except SluiceError as error:
            refusal = problem_of(error)
            if isinstance(error, _Unread):
                await _linger(receive, send, refusal)
            else:
                await self._refuse(send, refusal)
            return
        finally:
            self._in_flight -= 1
        body, json_part = open_inference.encode(
            request, result, model=self._name, version=self._decider.release or ""
        )
        kserve_predict_seconds(self._name, time.perf_counter() - began)
        if json_part is None:
            await self._answer(send, body)
            return
        await _respond(
            send,
            200,
            body,
            (b"content-type", b"application/octet-stream"),
            (open_inference.JSON_LENGTH_HEADER, str(json_part).encode()),
        )

    async def _judge(
        self, raws: Sequence[bytes], trace: telemetry.TraceContext
    ) -> list[bytes] | Problem:
        """(n,) authorizations to (n,) answers; a row that got none holds its problem instead.

        If no row got an answer, the problem of the first.
        """
        began = time.perf_counter()
        rows: list[Arrival | Problem] = []
        for raw in raws:
            try:
                rows.append(self._decider.arrive(raw, traceparent=str(trace.child())))
            except Rejected as error:
                rows.append(problem_of(error))
        decided = iter(
            await asyncio.gather(
                *(self._queue(row, self._deadline_ms) for row in rows if isinstance(row, Arrival))
            )
        )
        answers: list[bytes] = []
        answered, first = False, None
        for row in rows:
            result = row if isinstance(row, Problem) else next(decided)
            arrival = None if isinstance(row, Problem) else row
            decision = result.decision if isinstance(result, Decided) else None
            if isinstance(result, Decided | Repeated):
                answered = True
                code = "decided" if isinstance(result, Decided) else "repeated"
                answers.append(result.answer)
            else:
                refusal = result if isinstance(result, Problem) else _REFUSALS[type(result)]
                first, code = first or refusal, refusal.code
                answers.append(_encoder.encode(refusal))
            seconds = time.perf_counter() - began
            self._tell(_Told(code, seconds, trace.trace_id, arrival, decision))
        return answers if answered or first is None else first

    async def judge(self, instances: Sequence[Any], traceparent: str | None) -> Any:
        """For KServe's V1 protocol: decoded authorizations to decoded answers or problems."""
        raws = [_encoder.encode(instance) for instance in instances]
        answers = await self._judge(raws, telemetry.continue_trace(traceparent))
        if isinstance(answers, Problem):
            return answers
        return [msgspec.json.decode(answer) for answer in answers]

    # ------------------------------------------------------------ health and description

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._answer(send, b'{"live":true}')

    async def _ready(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not await self.ready():
            why = "draining" if self.draining else "the rehearsal failed, see the log"
            await self._refuse(send, problem("not_ready", why))
        elif scope["path"] == "/v2/health/ready":
            await self._answer(send, b'{"ready":true}')
        else:
            await self._answer(send, _encoder.encode({"name": self._name, "ready": True}))

    async def ready(self) -> bool:
        """Whether new requests are welcome: one real inference ran less than a second ago."""
        if self.draining:
            return False
        if time.monotonic() - self._rehearsed_at < READY_FOR_S:
            return True
        if self._rehearsal is None:
            self._rehearsal = asyncio.create_task(self._rehearse())
        return await asyncio.shield(self._rehearsal)

    async def _rehearse(self) -> bool:
        try:
            await self._decider.rehearse()
        except SluiceError as error:
            telemetry.event("not_ready", level=30, code=error.code, what=str(error))
            return False
        else:
            self._rehearsed_at = time.monotonic()
            return not self.draining
        finally:
            self._metrics.set("sluice_decider_ready", self._rehearsed_at > time.monotonic() - 1)
            self._rehearsal = None

    async def _describe(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._answer(send, self._openapi)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """To KServe, with two corrections: nobody unloads the model, and bodies have a limit."""
        if scope["path"].startswith("/v2/repository"):
            await self._refuse(send, problem("not_found"))
            return
        left = open_inference.MAX_INFER_BYTES
        for name, value in scope["headers"]:
            if name == b"content-length" and int(value) > left:
                await _linger(receive, send, problem("too_large"))
                return

        async def bounded() -> MutableMapping[str, Any]:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            return message if left >= 0 else {"type": "http.disconnect"}

        await self._fallback(scope, bounded, send)

    # ------------------------------------------------------------ answers, metrics, log

    async def _answer(self, send: Send, body: bytes, *headers: tuple[bytes, bytes]) -> None:
        if self.draining:
            headers = (*headers, _CLOSE)
        await _respond(send, 200, body, _JSON, *headers)

    async def _refuse(self, send: Send, what: Problem, *headers: tuple[bytes, bytes]) -> None:
        if self.draining:
            headers = (*headers, _CLOSE)
        await _respond_problem(send, what, *headers)

    def _tell(self, told: _Told) -> None:
        if not self._told:
            asyncio.get_running_loop().call_later(TELL_AFTER_S, self.tell)
        self._told.append(told)
        if len(self._told) >= TELL_ROWS:
            self.tell()

    def tell(self) -> None:
        """Count and log what was answered since the last time."""
        told, self._told = self._told, []
        if not told:
            return
        codes: dict[str, int] = {}
        for one in told:
            codes[one.code] = codes.get(one.code, 0) + 1
        self._metrics.count_each("sluice_decider_requests_total", codes, "sync")
        self._metrics.set("sluice_decider_in_flight", self._in_flight)
        batches, self._batches = self._batches, []
        self._metrics.observe_each("sluice_decider_batch_rows", batches, "sync")
        decided = [one for one in told if one.decision is not None]
        if decided:
            telemetry.observe_decisions(
                self._metrics,
                "sync",
                [one.decision for one in decided if one.decision is not None],
                [one.seconds for one in decided],
            )
        at_us = SystemClock().now_us()
        telemetry.write_lines([self._line(one, at_us) for one in told])

    def _line(self, told: _Told, at_us: int) -> Line:
        duration_us = int(told.seconds * 1_000_000)
        if told.decision is not None:
            return telemetry.decided_line(
                told.decision,
                service=self._service,
                at_us=at_us,
                duration_us=duration_us,
                trace_id=told.trace_id,
            )
        auth = told.arrival.auth if told.arrival else None
        return Line(
            at_us=at_us,
            event="authorization",
            service=self._service,
            door="sync",
            code=told.code,
            authorization_id=auth.authorization_id if auth else "",
            tenant=auth.tenant if auth else "",
            region=auth.region if auth else "",
            trace_id=told.trace_id,
            duration_us=duration_us,
        )

    async def close(self) -> None:
        """Finish the running batches and tell the rest."""
        while self._running:
            await asyncio.wait(self._running)
        self.tell()


def kserve_predict_seconds(model: str, seconds: float) -> None:
    """Keep KServe's own histogram of inferences true, although we answer in front of it."""
    from kserve.metrics import PREDICT_HIST_TIME, get_labels  # noqa: PLC0415 - heavy to import

    PREDICT_HIST_TIME.labels(**get_labels(model)).observe(seconds)


def _is_json(content_type: bytes) -> bool:
    if content_type == b"application/json":
        return True
    kind, _, parameter = content_type.lower().partition(b";")
    return kind.strip() == b"application/json" and parameter.strip() in (b"", b"charset=utf-8")


def _deadline_ms(header: bytes) -> int:
    if not header.isdigit() or not DEADLINE_MIN_MS <= int(header[:5]) <= DEADLINE_MAX_MS:
        raise Rejected("", code="invalid_deadline")
    return int(header)


async def _body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Read the body; stop as soon as it is past the limit. Raises Rejected, or _Unread."""
    message = await receive()
    body: bytes = message.get("body", b"")
    if len(body) <= limit and not message.get("more_body", False):
        return body
    more = message.get("more_body", False)
    for name, value in scope["headers"]:
        if more and name == b"content-length" and int(value) > limit:
            raise _unread(limit)
    chunks, size = [body], len(body)
    while more and size <= limit:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Rejected("the sender left before the end of the body", code="invalid_json")
        more = message.get("more_body", False)
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
    if more:
        raise _unread(limit)
    if size > limit:
        raise Rejected(f"at most {limit} bytes are read", code="too_large")
    return b"".join(chunks)


class _Unread(Rejected):
    """A body past its limit, whose rest is still to come."""

    code = "too_large"


def _unread(limit: int) -> _Unread:
    return _Unread(f"at most {limit} bytes are read")


async def _respond(send: Send, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})


def _problem_headers(what: Problem) -> list[tuple[bytes, bytes]]:
    headers = [(b"content-type", PROBLEM_JSON)]
    if what.status == 503:
        headers.append((b"retry-after", str(RETRY_AFTER_S).encode()))
    return headers


async def _respond_problem(send: Send, what: Problem, *headers: tuple[bytes, bytes]) -> None:
    body = _encoder.encode(what)
    await _respond(send, what.status, body, *_problem_headers(what), *headers)


async def _linger(
    receive: Receive, send: Send, what: Problem, *headers: tuple[bytes, bytes]
) -> None:
    """Answer, throw away the rest of the body up to a bound, close."""
    body = _encoder.encode(what)
    length = (b"content-length", str(len(body)).encode())
    await send(
        {
            "type": "http.response.start",
            "status": what.status,
            "headers": [length, *_problem_headers(what), *headers, _CLOSE],
        }
    )
    await send({"type": "http.response.body", "body": body, "more_body": True})
    left = LINGER_BYTES
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    break
    await send({"type": "http.response.body", "body": b""})
