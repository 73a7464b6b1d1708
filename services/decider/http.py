"""The sync API: ``POST /v1/authorizations``, Open Inference v2 and KServe's V1 protocol.

A raw ASGI application, and under it ``authorize``, which takes a request that is whole without
ASGI's messages and tasks. Requests that arrive while others are being decided are decided together
(``batches``).
"""

from __future__ import annotations

import asyncio
import logging
import time
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from services.decider import admission, metadata, open_inference, openapi
from services.decider.access import API, CALLER, PEER, Access, Caller, Peer, Routes
from services.decider.admission import Admission, Weights
from services.decider.asgi import (
    CLOSE,
    App,
    Header,
    Receive,
    Scope,
    Send,
    Unread,
    linger,
    problem_headers,
    read_body,
    respond,
    respond_problem,
    whole_number,
)
from services.decider.batches import Batches, Late
from services.decider.problems import Problem, problem, problem_of, unforeseen
from sluice import telemetry
from sluice.application.access import Refused
from sluice.application.decide import (
    Busy,
    Conflict,
    Decided,
    Replayed,
    Result,
    Unidentified,
    Unrecorded,
)
from sluice.application.ports import Arrival
from sluice.domain.clock import Clock, SystemClock
from sluice.domain.records.authorization import MAX_BODY_BYTES
from sluice.domain.records.decision import Decision
from sluice.errors import Rejected, SluiceError, Unavailable
from sluice.telemetry import METRICS, Line
from sluice.traceparent import new_traceparent

Respond = Callable[[int, list[Header], bytes], None]
"""Sends status, headers (all but content-length) and body. Called once a request."""

AUTHORIZATIONS = "/v1/authorizations"
DEADLINE_MS, DEADLINE_MIN_MS, DEADLINE_MAX_MS = 50, 5, 1000
DEADLINES_MS = (
    *(5, 6, 7, 8, 9, 10, 12, 15, 20, 25, 30, 40, 50, 60, 75, 100, 125, 150, 200, 250, 300),
    *(400, 500, 600, 750, 1000),
)
"""A caller's deadline counts as the next lower of these. Only equal deadlines are decided together:
callers who each name another would make as many batches, and a batch of one costs five times a
row of a large one."""
BODIES_MAX_BYTES = 64 * 1024 * 1024
"""Read and kept of all inferences together. Who comes past it is refused."""
READY_FOR_S = 1.0
"""A rehearsal counts for this long, so that probes cannot become load."""
REPORT_AFTER_S = 0.05
REPORT_ROWS = 256
"""Metrics and log lines wait for either, because counting 100 together costs 1/20 each."""
TRACEPARENT = b"traceparent"
_JSON = (b"content-type", b"application/json")
_REPLAY = (b"idempotent-replay", b"true")
_Answered = tuple[bytes, list[Header]] | Problem
_Answer = Callable[[Sequence[Header], bytes], Awaitable[_Answered]]
"""Headers and body of a request to body and headers of its answer. Raises SluiceError."""
_encoder = msgspec.json.Encoder()
_OVERLOADED = problem("overloaded")
_OVERLOADED_HEADERS = problem_headers(_OVERLOADED)
_OVERLOADED_BODY = _encoder.encode(_OVERLOADED)
_REFUSALS: dict[type, Problem] = {
    Conflict: problem("conflict"),
    Busy: problem("busy"),
    Unrecorded: problem("unrecorded"),
    Unidentified: problem("unidentified"),
}


class DecisionPipeline(Protocol):
    """What the entrypoints need of :class:`sluice.application.decide.DecisionPipeline`."""

    def arrive(self, raw: bytes, *, traceparent: str | None = None) -> Arrival:
        """Parse and check. Raises Rejected."""
        ...

    async def decide(
        self, batch: Sequence[Arrival], *, deadline_us: int | None = None
    ) -> list[Result]:
        """One result an arrival, in order."""
        ...

    def reference_minor(self, amount_minor: int, currency: str) -> int:
        """Minor units of the reference currency. Raises Rejected for a currency without a rate."""
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
class _Asked:
    """A request for one decision, and how to answer it."""

    began: float
    trace: telemetry.Joined | None
    respond: Respond
    arrival: Arrival | None = None
    caller: Caller | None = None
    """Who was let in; None where everybody is."""

    @property
    def traceparent(self) -> str | None:
        """What goes on to the record."""
        return self.trace.traceparent if self.trace else None

    @property
    def trace_id(self) -> str:
        """Of the caller's trace; empty without one."""
        return telemetry.trace_id_of(self.traceparent)

    def headers(self) -> list[Header]:
        """Of every answer: the trace goes on."""
        return [(TRACEPARENT, self.trace.traceparent.encode())] if self.trace else []


@dataclass(slots=True)
class _Reported:
    """What is still to be counted and logged of one authorization."""

    code: str
    seconds: float
    trace_id: str
    arrival: Arrival | None = None
    decision: Decision | None = None
    said: bool = False
    """Whether the log says it elsewhere: ``access`` does of whom it refuses."""


class SyncApi:
    """The ASGI application. Lives in one event loop; ``close`` when the server has stopped.

    name: the model's name in ``/v2/models/{name}``. columns: features of a row, in order.
    in_flight_max: requests past it are refused, never queued.
    deadline_ms: of a request that names none. sampler: of the log's lines. weights: what counts
    under overload besides the amount. clock: that of the pipeline. access: who may ask; None lets
    everybody. reachable: raises Unavailable while no record could be made durable. inferred: told
    the seconds of each inference, by either protocol, that was answered.
    """

    def __init__(
        self,
        decider: DecisionPipeline,
        *,
        name: str,
        columns: Sequence[str],
        in_flight_max: int,
        deadline_ms: int = DEADLINE_MS,
        metrics: telemetry.Metrics = METRICS,
        sampler: telemetry.Sampler | None = None,
        service: str = "decider",
        weights: Weights | None = None,
        clock: Clock | None = None,
        access: Access | None = None,
        reachable: Callable[[], Awaitable[None]] | None = None,
        inferred: Callable[[float], None] | None = None,
    ) -> None:
        self.draining = False
        self.not_ready = "it starts"
        """Why the last rehearsal failed; "" if it did not."""
        self.access = access
        self.admission = Admission(
            deadline_ms=deadline_ms,
            in_flight_max=in_flight_max,
            weights=weights or Weights(),
            reference=decider.reference_minor,
        )
        self._decider = decider
        self._reachable = reachable
        self._inferred = inferred
        self._name = name
        self._columns = len(columns)
        self._deadline_ms = deadline_ms
        self._bodies = 0
        """Bytes of the bodies of inferences that are read or answered now."""
        self._metrics = metrics
        self._sampler = sampler or telemetry.Sampler()
        self._service = service
        self._batches = Batches(
            decider, clock or SystemClock(), self._aged, lambda: self.admission.full
        )
        self._reported: list[_Reported] = []
        self._overloaded = 0
        """Refused under overload since the last report."""
        self._reports = False
        """A report is due."""
        self._rehearsed_at = float("-inf")
        self._rehearsal: asyncio.Task[bool] | None = None
        model = f"/v2/models/{name}"
        described = metadata.documents(name, self._columns)
        self.metadata: dict[str, tuple[str, App]] = {
            **{path: ("GET", partial(self._describe, text)) for path, text in described.items()},
            f"/v1/models/{name}": ("GET", self.is_ready),
        }
        """Its part of the routes, for the admin port too."""
        self._routes: dict[str, tuple[str, App]] = {
            AUTHORIZATIONS: ("POST", self._authorize),
            f"{model}/infer": ("POST", self._infer),
            f"/v1/models/{name}:predict": ("POST", self._predict),
            "/v2/health/live": ("GET", self.live),
            "/v2/health/ready": ("GET", self.is_ready),
            f"{model}/ready": ("GET", self.is_ready),
            "/openapi.json": (
                "GET",
                partial(self._describe, openapi.document(name, self._columns)),
            ),
            **self.metadata,
        }

    @property
    def paths(self) -> frozenset[str]:
        """All that are served here."""
        return frozenset(self._routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, if whoever sends it may."""
        itself = scope["path"] == AUTHORIZATIONS and scope["method"] == "POST"
        serve = partial(self.serve, self._routes)
        if itself:  # ``authorize`` lets in, or not
            await serve(scope, receive, send)
        else:
            await self.let_in(API, serve, scope, receive, send)

    async def let_in(
        self, routes: Routes, app: App, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Hand a request on if whoever sends it may, by these routes; refuse it otherwise."""
        if self.access is None:
            await app(scope, receive, send)
            return
        try:
            caller = self.access.admit(scope["headers"], scope.get(PEER), scope["path"], routes)
        except Refused as refused:
            what = problem_of(refused)
            headers = problem_headers(what, refused.retry_after_s)
            await respond(send, what.status, _encoder.encode(what), *headers)
            return
        before = CALLER.set(caller)
        try:
            await app(scope, receive, send)
        finally:
            CALLER.reset(before)
            if caller is not None:
                self.access.leave(caller)

    async def serve(
        self, routes: Mapping[str, tuple[str, App]], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Serve a request that was let in. routes: method and application by path."""
        route = routes.get(scope["path"])
        if route is None:
            await self._refuse(send, problem("not_found"))
        elif route[0] != scope["method"] and (route[0], scope["method"]) != ("GET", "HEAD"):
            allow = (b"allow", route[0].encode())
            await self._refuse(send, problem("method_not_allowed"), allow)
        else:
            await route[1](scope, receive, send)

    # ------------------------------------------------------------ authorizations

    def authorize(
        self,
        headers: Sequence[Header],
        body: bytes,
        respond: Respond,
        peer: Peer | None = None,
    ) -> None:
        """Decide the authorization of one request; respond hears of it, now or later.

        headers: names in lower case. body: whole, at most MAX_BODY_BYTES. peer: the certificate
        of the connection.
        """
        asked = self._asked(headers, respond)
        admitted = self.admission
        if self.access is not None:  # before it may stand: a stranger takes nobody's place
            try:
                asked.caller = self.access.admit(headers, peer, AUTHORIZATIONS)
            except Exception as error:
                admitted.inside += 1
                self._settle(asked, _known(error))
                return
        if admitted.inside < admitted.limit.value:
            self._decide(asked, headers, body)
        else:
            admitted.stand(
                body,
                partial(self._decide, asked, headers, body),
                partial(self._refuse_overloaded, asked),
            )

    def _decide(
        self, asked: _Asked, headers: Sequence[Header], body: bytes, stood_us: int = 0
    ) -> None:
        self.admission.inside += 1
        try:
            deadline_ms = self._understand(asked, headers, body)
        except Exception as error:  # a bug of ours answers too, and gives its place in flight back
            self._settle(asked, _known(error))
        else:
            assert asked.arrival is not None
            settle = partial(self._settle, asked)
            self._batches.add(asked.arrival, deadline_ms, settle, stood_us)

    def _understand(self, asked: _Asked, headers: Sequence[Header], body: bytes) -> int:
        """Read one authorization. Returns its deadline in ms. Raises Rejected."""
        content_type = deadline = encoding = b""
        for name, value in headers:
            if name == b"content-type":
                content_type = value
            elif name == b"x-deadline-ms":
                deadline = value
            elif name == b"content-encoding" and _is_encoded(value):
                encoding = value
        if not _is_json(content_type) or encoding:
            raise Rejected("", code="unsupported_content_type")
        deadline_ms = _deadline_ms(deadline) if deadline else self._deadline_ms
        arrival = self._decider.arrive(body, traceparent=asked.traceparent)
        if self.access is not None and asked.caller is not None:
            self.access.belongs(asked.caller, arrival.auth.tenant)
        asked.arrival = arrival
        return deadline_ms

    def _aged(self, now_us: int, age_us: int) -> None:
        self.admission.limit.decided(now_us, age_us, self.admission.inside)

    def _refuse_overloaded(self, asked: _Asked) -> None:
        self._let_go(asked)
        headers = [*asked.headers(), *_OVERLOADED_HEADERS]
        if self.draining:
            headers.append(CLOSE)
        asked.respond(_OVERLOADED.status, headers, _OVERLOADED_BODY)
        if asked.trace:
            asked.trace.span.end()
        # Counted, without a line in the log: most were not read, so it could not say whose it is.
        self._overloaded += 1
        self._report_soon()

    @staticmethod
    def _asked(headers: Sequence[Header], respond: Respond) -> _Asked:
        began = time.perf_counter()
        return _Asked(began, telemetry.join_trace(_traceparent(headers)), respond)

    def _let_go(self, asked: _Asked) -> None:
        """Its caller has one request fewer in flight."""
        if self.access is not None and asked.caller is not None:
            self.access.leave(asked.caller)

    def _settle(self, asked: _Asked, outcome: Result | SluiceError) -> None:
        if isinstance(outcome, Late):
            assert asked.arrival is not None
            value = self.admission.value_of(asked.arrival)
            self.admission.refuse(admission.LATE, value, partial(self._refuse_overloaded, asked))
            self.admission.leave()
            return
        self.admission.leave()
        self._let_go(asked)
        decision = None
        headers = asked.headers()
        if isinstance(outcome, Decided | Replayed):
            status, body = 200, outcome.answer
            if asked.caller is not None:
                body = asked.caller.answer(body)
            headers.append(_JSON)
            if isinstance(outcome, Decided):
                code, decision = "decided", outcome.decision
            else:
                code = "replayed"
                headers.append(_REPLAY)
        else:
            refusal = _refusal(outcome)
            status, code, body = refusal.status, refusal.code, _encoder.encode(refusal)
            wait_s = outcome.retry_after_s if isinstance(outcome, Refused) else 0
            headers += problem_headers(refusal, wait_s)
        if self.draining:
            headers.append(CLOSE)
        asked.respond(status, headers, body)
        if asked.trace:
            asked.trace.span.end()
        seconds = time.perf_counter() - asked.began
        said = isinstance(outcome, Refused)
        self._report(_Reported(code, seconds, asked.trace_id, asked.arrival, decision, said))

    async def _authorize(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The same through ASGI: a body too large, or one that its sender asks leave to send."""
        answered: asyncio.Future[tuple[int, list[Header], bytes]]
        answered = asyncio.get_running_loop().create_future()

        def keep(*answer: Any) -> None:
            if not answered.done():
                answered.set_result(answer)

        peer = scope.get(PEER)
        try:
            if self.access is not None:
                self.access.identify(scope["headers"], peer)  # before we read for a stranger
            raw = await read_body(scope, receive, MAX_BODY_BYTES)
        except SluiceError as error:
            asked = self._asked(scope["headers"], keep)
            if isinstance(error, Unread):
                refusal = problem_of(error)
                seconds = time.perf_counter() - asked.began
                self._report(_Reported(refusal.code, seconds, asked.trace_id))
                await linger(receive, send, refusal, *asked.headers())
                if asked.trace:
                    asked.trace.span.end()
                return
            self.admission.inside += 1
            self._settle(asked, error)
        else:
            self.authorize(scope["headers"], raw, keep, peer)
        status, headers, body = await answered
        await respond(send, status, body, *headers)

    # ------------------------------------------------------------ Open Inference v2

    async def _infer(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._exchange(scope, receive, send, self._decide_tensor)

    async def score(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Rows of features in a tensor to their scores. Whoever may ask for the exact score of any
        row can copy the model and look for what it lets through: not for who sends authorizations.
        """
        await self._exchange(scope, receive, send, self._score_tensor)

    async def _predict(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._exchange(scope, receive, send, self._decide_instances)

    async def _exchange(self, scope: Scope, receive: Receive, send: Send, answer: _Answer) -> None:
        """Read a body of up to MAX_INFER_BYTES, and send what ``answer`` makes of it."""
        began = time.perf_counter()
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            held += size
            self._bodies += size
            if self._bodies > BODIES_MAX_BYTES:
                raise Unavailable("", code="overloaded")

        try:
            encodings = (v for name, v in scope["headers"] if name == b"content-encoding")
            if any(map(_is_encoded, encodings)):
                answered: _Answered = problem("unsupported_content_type")
            elif self.admission.full:
                answered = _OVERLOADED
            else:
                raw = await read_body(scope, receive, open_inference.MAX_INFER_BYTES, hold)
                answered = await self._inside(answer, scope["headers"], raw)
        except Unread as error:
            await linger(receive, send, problem_of(error))
            return
        except SluiceError as error:
            answered = problem_of(error)
        except Exception as error:
            telemetry.event("request_failed", level=logging.ERROR, error=True)
            answered = problem_of(unforeseen(error))
        finally:
            self._bodies -= held
        if isinstance(answered, Problem):
            await self._refuse(send, answered)
            return
        if self._inferred is not None:
            self._inferred(time.perf_counter() - began)
        body, headers = answered
        if self.draining:
            headers.append(CLOSE)
        await respond(send, 200, body, *headers)

    async def _inside(self, answer: _Answer, headers: Sequence[Header], raw: bytes) -> _Answered:
        """Only now is it in flight: who sends slowly keeps nobody out."""
        if self.admission.full:
            return _OVERLOADED
        self.admission.inside += 1
        try:
            return await answer(headers, raw)
        finally:
            self.admission.leave()

    async def _decide_tensor(self, headers: Sequence[Header], raw: bytes) -> _Answered:
        request = self._tensor(headers, raw, "authorizations")
        answers = await self._judge(request.authorizations or [], _traceparent(headers))
        return answers if isinstance(answers, Problem) else self._tensor_of(request, answers)

    async def _score_tensor(self, headers: Sequence[Header], raw: bytes) -> _Answered:
        request = self._tensor(headers, raw, "features")
        assert request.features is not None
        return self._tensor_of(request, self._decider.score_rows(request.features))

    async def _decide_instances(self, headers: Sequence[Header], raw: bytes) -> _Answered:
        answers = await self._judge(open_inference.decode_instances(raw), _traceparent(headers))
        if isinstance(answers, Problem):
            return answers
        return open_inference.encode_predictions(answers), [_JSON]

    def _tensor(
        self, headers: Sequence[Header], raw: bytes, served: open_inference.Input
    ) -> open_inference.Inference:
        lengths = [value for name, value in headers if name == open_inference.JSON_LENGTH_HEADER]
        length = whole_number(lengths[0]) if len(lengths) == 1 else None
        if lengths and length is None:
            raise Rejected(
                "inference-header-content-length is one whole number", code="invalid_inference"
            )
        return open_inference.decode(raw, length, columns=self._columns, served=served)

    def _tensor_of(
        self, request: open_inference.Inference, result: npt.NDArray[np.int64] | list[bytes]
    ) -> tuple[bytes, list[Header]]:
        body, json_part = open_inference.encode(
            request, result, model=self._name, version=self._decider.release or ""
        )
        if json_part is None:
            return body, [_JSON]
        return body, [
            (b"content-type", b"application/octet-stream"),
            (open_inference.JSON_LENGTH_HEADER, str(json_part).encode()),
        ]

    async def _judge(self, raws: Sequence[bytes], traceparent: str | None) -> list[bytes] | Problem:
        """(n,) authorizations to (n,) answers; a row that got none holds its problem instead.

        If no row got an answer, the problem of the first.
        """
        began = time.perf_counter()
        trace = telemetry.join_trace(traceparent)
        going_on = trace.traceparent if trace else None
        caller = CALLER.get()
        if self.access is not None and caller is not None:
            self.access.charge(caller, len(raws) - 1)
        rows: list[Arrival | Problem] = []
        for raw in raws:
            try:
                arrival = self._decider.arrive(raw, traceparent=going_on)
                if self.access is not None and caller is not None:
                    self.access.belongs(caller, arrival.auth.tenant)
                rows.append(arrival)
            except Rejected as error:
                rows.append(problem_of(error))
            except Exception:  # a bug of ours stops at its own row
                telemetry.event("request_failed", level=logging.ERROR, error=True)
                rows.append(problem("internal"))
        arrivals = [row for row in rows if isinstance(row, Arrival)]
        if self.admission.inside > self.admission.limit.value:
            for arrival in arrivals:
                self.admission.count(admission.FULL, self.admission.value_of(arrival))
            return _OVERLOADED
        self.admission.inside += len(arrivals)
        try:
            decided = iter(await asyncio.gather(*map(self._decided, arrivals)))
        finally:
            self.admission.leave(len(arrivals))
        answers: list[bytes] = []
        answered, first = False, None
        for row in rows:
            result = row if isinstance(row, Problem) else next(decided)
            of = None if isinstance(row, Problem) else row
            decision = result.decision if isinstance(result, Decided) else None
            if isinstance(result, Decided | Replayed):
                answered = True
                code = "decided" if isinstance(result, Decided) else "replayed"
                answers.append(caller.answer(result.answer) if caller else result.answer)
            else:
                if isinstance(result, Late) and of is not None:
                    self.admission.count(admission.LATE, self.admission.value_of(of))
                refusal = result if isinstance(result, Problem) else _refusal(result)
                first, code = first or refusal, refusal.code
                answers.append(_encoder.encode(refusal))
            seconds = time.perf_counter() - began
            self._report(_Reported(code, seconds, telemetry.trace_id_of(going_on), of, decision))
        if trace:
            trace.span.end()
        return answers if answered or first is None else first

    def _decided(self, arrival: Arrival) -> asyncio.Future[Result | Late]:
        result: asyncio.Future[Result | Late] = asyncio.get_running_loop().create_future()

        def done(outcome: Result | SluiceError) -> None:
            if result.done():
                return
            if isinstance(outcome, SluiceError) and not isinstance(outcome, Late):
                result.set_exception(outcome)
            else:
                result.set_result(outcome)

        self._batches.add(arrival, self._deadline_ms, done)
        return result

    # ------------------------------------------------------------ health and description

    async def live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The process is up."""
        await self._answer(send, b'{"live":true}')

    async def is_ready(
        self, scope: Scope, receive: Receive, send: Send, *, inner: bool = False
    ) -> None:
        """Whether new requests are welcome, as a probe asks it. inner: name what is not there."""
        if not await self.ready():
            failed = self.not_ready if inner else "the rehearsal failed, see the log"
            why = "draining" if self.draining else failed[: telemetry.WHY_MAX]
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
            if self._reachable is not None:
                await self._reachable()
            await self._decider.rehearse()
        except SluiceError as error:
            if self.not_ready != str(error):
                self.not_ready = str(error)
                telemetry.event(
                    "not_ready", level=logging.WARNING, code=error.code, what=self.not_ready
                )
            return False
        else:
            self.not_ready = ""
            self._rehearsed_at = time.monotonic()
            return not self.draining
        finally:
            self._metrics.set("sluice_decider_ready", self._rehearsed_at > time.monotonic() - 1)
            self._rehearsal = None

    async def _describe(self, document: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        await self._answer(send, document)

    # ------------------------------------------------------------ answers, metrics, log

    async def _answer(self, send: Send, body: bytes, *headers: tuple[bytes, bytes]) -> None:
        if self.draining:
            headers = (*headers, CLOSE)
        await respond(send, 200, body, _JSON, *headers)

    async def _refuse(self, send: Send, what: Problem, *headers: tuple[bytes, bytes]) -> None:
        if self.draining:
            headers = (*headers, CLOSE)
        await respond_problem(send, what, *headers)

    def _report(self, reported: _Reported) -> None:
        self._reported.append(reported)
        if len(self._reported) >= REPORT_ROWS:
            self.report()
        else:
            self._report_soon()

    def _report_soon(self) -> None:
        if not self._reports:
            self._reports = True
            asyncio.get_running_loop().call_later(REPORT_AFTER_S, self._report_due)

    def _report_due(self) -> None:
        self._reports = False
        self.report()

    def report(self) -> None:
        """Count and log what was answered since the last time."""
        reported, self._reported = self._reported, []
        overloaded, self._overloaded = self._overloaded, 0
        if not reported and not overloaded:
            return
        codes: dict[str, int] = {_OVERLOADED.code: overloaded} if overloaded else {}
        for one in reported:
            codes[one.code] = codes.get(one.code, 0) + 1
        self._metrics.count_each("sluice_decider_requests_total", codes, "sync")
        self._metrics.set("sluice_decider_in_flight", self.admission.in_flight)
        self._metrics.set("sluice_decider_limit", self.admission.limit.value)
        for (reason, priority), number in self.admission.shed.items():
            self._metrics.count("sluice_decider_shed_total", reason, priority, by=number)
        self.admission.shed.clear()
        sizes, self._batches.sizes = self._batches.sizes, []
        self._metrics.observe_each("sluice_decider_batch_rows", sizes, "sync")
        decided = [one for one in reported if one.decision is not None]
        if decided:
            telemetry.observe_decisions(
                self._metrics,
                "sync",
                [one.decision for one in decided if one.decision is not None],
                [one.seconds for one in decided],
            )
        at_us = SystemClock().now_us()
        usual = self._sampler.usual
        shares = self._sampler.shares(
            [
                one.arrival.auth.authorization_id
                if one.arrival is not None and usual(one.code, one.decision)
                else None
                for one in reported
            ]
        )
        if self.access is not None:
            shares = [0 if one.said else share for one, share in zip(reported, shares, strict=True)]
        telemetry.count_lines(self._metrics, "sync", shares)
        telemetry.write_lines(
            [
                self._line(one, at_us, share)
                for one, share in zip(reported, shares, strict=True)
                if share
            ]
        )

    def _line(self, reported: _Reported, at_us: int, sample_ppm: int) -> Line:
        duration_us = int(reported.seconds * 1_000_000)
        if reported.decision is not None:
            return telemetry.decided_line(
                reported.decision,
                service=self._service,
                at_us=at_us,
                duration_us=duration_us,
                sample_ppm=sample_ppm,
                trace_id=reported.trace_id,
            )
        auth = reported.arrival.auth if reported.arrival else None
        return Line(
            at_us=at_us,
            event="authorization",
            service=self._service,
            entrypoint="sync",
            code=reported.code,
            sample_ppm=sample_ppm,
            id_hmac=telemetry.name_in_log(auth.authorization_id) if auth else "",
            tenant=auth.tenant if auth else "",
            region=auth.region if auth else "",
            trace_id=reported.trace_id,
            duration_us=duration_us,
        )

    async def close(self) -> None:
        """Finish what was taken and tell the rest."""
        self.admission.close()
        await self._batches.close()
        self.report()


def _traceparent(headers: Sequence[Header]) -> str | None:
    """The header's text; None where there is none. More than one are none: a new trace begins."""
    found = [value for name, value in headers if name == TRACEPARENT]
    if len(found) > 1:
        return new_traceparent()
    return found[0].decode("latin-1") if len(found) == 1 else None


def _is_json(content_type: bytes) -> bool:
    if content_type == b"application/json":
        return True
    kind, *parameters = content_type.lower().split(b";")
    return kind.strip() == b"application/json" and all(map(_is_utf8, parameters))


def _is_utf8(parameter: bytes) -> bool:
    """Whether a parameter of a content type changes nothing: UTF-8, quoted or not, or none at all
    (RFC 9110, 5.6.6)."""
    name, _, value = parameter.strip().partition(b"=")
    return not name or (name == b"charset" and value in (b"utf-8", b'"utf-8"'))


def _is_encoded(header: bytes) -> bool:
    """Whether a body came otherwise than as it is; ``identity`` says that it did not."""
    return bool(header) and header.strip().lower() != b"identity"


def _deadline_ms(header: bytes) -> int:
    deadline_ms = whole_number(header)
    if deadline_ms is None or not DEADLINE_MIN_MS <= deadline_ms <= DEADLINE_MAX_MS:
        raise Rejected("", code="invalid_deadline")
    return DEADLINES_MS[bisect_right(DEADLINES_MS, deadline_ms) - 1]


def _known(error: Exception) -> SluiceError:
    """The error itself; one that nobody foresaw is logged, and becomes ``internal``."""
    if isinstance(error, SluiceError):
        return error
    telemetry.event("request_failed", level=logging.ERROR, error=True)
    return unforeseen(error)


def _refusal(outcome: Conflict | Busy | Unrecorded | Unidentified | SluiceError) -> Problem:
    return problem_of(outcome) if isinstance(outcome, SluiceError) else _REFUSALS[type(outcome)]
