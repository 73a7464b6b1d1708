"""Small traffic for tests over whole processes: few cards, much going on, every answer kept."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import random
import threading
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator
from types import TracebackType

import msgspec

from sluice.adapters.kafka.producer import EventProducer
from sluice.domain.records.authorization import Authorization, Channel, encode
from sluice.testing.factories import make_authorization
from tests.support.kafka import wait_until

RETRY_S = 0.05
FLUSH_MAX_S = 60.0
CALL_MAX_S = 10.0


def authorizations(name: str, seed: int = 1, *, cards: int = 20) -> Iterator[Authorization]:
    """Authorizations without end, of now, ids ``name-0``, ``name-1``, ...; few entities."""
    rng = random.Random(seed)
    for n in itertools.count():
        ecom = rng.random() < 0.4
        yield make_authorization(
            f"{name}-{n}",
            event_at=time.time_ns() // 1000,
            card_token=f"card-{rng.randrange(cards)}",
            merchant_id=f"merchant-{rng.randrange(5)}",
            terminal_id=f"terminal-{rng.randrange(8)}",
            device_id=f"device-{rng.randrange(4)}" if ecom else None,
            channel=Channel.ECOM if ecom else Channel.POS,
            amount_minor=rng.randrange(100, 60_000),
        )


class _Worker:
    """A thread that works until the end of a ``with``, and whose error is raised there."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._guarded, daemon=True)

    def _guarded(self) -> None:
        try:
            self.work()
        except BaseException as error:  # it belongs to the test, not to the thread
            self._error = error

    def work(self) -> None:
        """Until ``_stop`` is set."""
        raise NotImplementedError

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error


class StreamTraffic(_Worker):
    """Writes to ``authorizations.v1``, open loop. Leaves when all it sent is durable.

    replays: every so many are sent a second time, as an impatient sender does; 0 is never. after_s:
    so long after the first. sent: how many different ones. flush outlasts a broker that is down for
    less than a minute.
    """

    def __init__(
        self,
        bootstrap: str,
        topic: str,
        name: str,
        *,
        rate: float = 150,
        replays: int = 0,
        after_s: float = 0,
        cards: int = 20,
    ) -> None:
        super().__init__()
        self.sent = 0
        self._cards = cards
        self._topic = topic
        self._name = name
        self._rate = rate
        self._replays = replays
        self._after_s = after_s
        self._producer = EventProducer(
            bootstrap, client_id=name, extra={"message.timeout.ms": round(FLUSH_MAX_S * 1000)}
        )

    def work(self) -> None:
        """See the class."""
        began = time.monotonic()
        again: deque[tuple[float, bytes, str]] = deque()
        for auth in authorizations(self._name, cards=self._cards):
            if self._stop.wait(max(0.0, began + self.sent / self._rate - time.monotonic())):
                break
            raw = encode(auth)
            self._producer.produce(self._topic, raw, key=auth.card_token)
            self.sent += 1
            if self._replays and self.sent % self._replays == 0:
                again.append((time.monotonic() + self._after_s, raw, auth.card_token))
            while again and again[0][0] <= time.monotonic():
                _, raw, key = again.popleft()
                self._producer.produce(self._topic, raw, key=key)
        for _, raw, key in again:
            self._producer.produce(self._topic, raw, key=key)
        self._producer.flush(FLUSH_MAX_S)


class Caller(_Worker):
    """An acquirer at the sync API: one request after the other, each repeated until answered.

    heard: the answer's bytes by authorization id. refused: how often it was told 503, by code, or
    "nothing".
    longest_s: that one of them waited for its answer, all its tries together. The one begun is
    finished before the end of the ``with``.
    """

    def __init__(self, port: int, name: str, *, rate: float = 60, cards: int = 20) -> None:
        super().__init__()
        self.heard: dict[str, bytes] = {}
        self.refused: Counter[str] = Counter()
        self.longest_s = 0.0
        self._cards = cards
        self._port = port
        self._name = name
        self._rate = rate

    def work(self) -> None:
        """See the class."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=CALL_MAX_S)
        for auth in authorizations(self._name, seed=2, cards=self._cards):
            if self._stop.wait(1 / self._rate):
                break
            raw = encode(auth)
            asked_at = time.monotonic()
            while (answer := self._ask(connection, raw)) is None:
                time.sleep(RETRY_S)
            self.longest_s = max(self.longest_s, time.monotonic() - asked_at)
            self.heard[auth.authorization_id] = answer
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection, raw: bytes) -> bytes | None:
        status, body = call(connection, raw)
        if status in (0, 503):
            self.refused[msgspec.json.decode(body)["code"] if body else "nothing"] += 1
            return None
        assert status == 200, (status, body)
        return body


class Impatient(_Worker):
    """Callers at the sync API, open loop. Each asks again after AGAIN_S until it hears a decision,
    every third also once more afterwards; the ones before go on waiting for their answers. Every
    other gives the least time that may be given, so that many are late before the store is asked.

    port_of: the replica that an id is sent to. sent: told of each one's bytes and key, AGAIN_S
    after it was sent. heard: every answer by id. given_up: ids that heard none in TRIES_MAX, four
    minutes: on a busy machine an id's record is late more than once, and keeps it busy each time.
    """

    AGAIN_S = 0.4
    TRIES_MAX = 600

    def __init__(
        self,
        port_of: Callable[[str], int],
        name: str,
        *,
        rate: float,
        sent: Callable[[bytes, str], None] = lambda _raw, _key: None,
    ) -> None:
        super().__init__()
        self.heard: dict[str, set[bytes]] = {}
        self.given_up: list[str] = []
        self.refused: Counter[str] = Counter()
        self._port_of = port_of
        self._name = name
        self._rate = rate
        self._sent = sent

    def work(self) -> None:
        """See the class."""
        asyncio.run(self._work())

    async def _work(self) -> None:
        began, callers = time.monotonic(), set()
        for n, auth in enumerate(authorizations(self._name, seed=3)):
            await asyncio.sleep(max(0.0, began + n / self._rate - time.monotonic()))
            if self._stop.is_set():
                break
            callers.add(asyncio.create_task(self._insist(auth, twice=n % 3 == 0)))
        await asyncio.gather(*callers)

    async def _insist(self, auth: Authorization, *, twice: bool) -> None:
        key, raw = auth.authorization_id, encode(auth)
        heard = self.heard.setdefault(key, set())
        tries = []
        for n in range(self.TRIES_MAX):
            deadline_ms = b"5" if zlib.crc32(raw) % 2 else b"1000"
            tries.append(asyncio.create_task(self._ask(self._port_of(key), raw, deadline_ms)))
            await asyncio.sleep(self.AGAIN_S)
            if n == 0:
                self._sent(raw, auth.card_token)
            heard.update(t.result() for t in tries if t.done() and t.result())
            if heard and (n or not twice):
                break
        heard.update(filter(None, await asyncio.gather(*tries)))
        if not heard:
            self.given_up.append(key)

    async def _ask(self, port: int, raw: bytes, deadline_ms: bytes) -> bytes:
        """The answer, b"" without one."""
        try:
            async with asyncio.timeout(CALL_MAX_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    writer.write(
                        b"POST /v1/authorizations HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
                        b"content-type: application/json\r\nx-deadline-ms: %b\r\n"
                        b"content-length: %d\r\n\r\n%b" % (deadline_ms, len(raw), raw)
                    )
                    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            self.refused["nothing"] += 1
            return b""
        if head.split()[1:2] == [b"200"]:
            return body
        self.refused[msgspec.json.decode(body)["code"] if body else "cut"] += 1
        return b""


def call(connection: http.client.HTTPConnection, raw: bytes, **headers: str) -> tuple[int, bytes]:
    """POST one authorization. Returns status and body; 0 if the connection failed."""
    try:
        connection.request(
            "POST",
            "/v1/authorizations",
            raw,
            {"content-type": "application/json", "x-deadline-ms": "1000", **headers},
        )
        with connection.getresponse() as answer:
            return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        connection.close()
        return 0, b""


def answered(port: int, raw: bytes, **headers: str) -> tuple[int, bytes]:
    """The same over a connection of its own, asked again after a 503 and where nothing came."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=CALL_MAX_S)

    def said() -> tuple[int, bytes] | None:
        status, body = call(connection, raw, **headers)
        return None if status in (0, 503) else (status, body)

    try:
        found: tuple[int, bytes] = wait_until(said, "an answer")
    finally:
        connection.close()
    return found
