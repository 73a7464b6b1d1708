"""A TCP proxy that makes a network bad while it runs, in a process of its own.

The faults have the names and attributes that Shopify's toxiproxy gives them ("toxics", here of the
stream downstream: of replies), so that what a test says can be said to that as well; half_open and
hold are ours. ``python -m
tests.support.faulty_network HOST:PORT`` reads one command a line, JSON, and answers each with one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any, NamedTuple

Toxic = dict[str, Any]
"""One fault: its type, and its attributes."""

CHUNK_BYTES = 65_536
_Queue = asyncio.Queue[tuple[float, bytes]]
"""When a piece is due, and the piece; empty: the end."""
QUEUED_MAX = 1_024
"""Pieces on their way in one direction; then the sender has to wait, as behind a full window."""
ANSWER_MAX_S = 30.0


def latency(ms: float, *, jitter_ms: float = 0.0) -> Toxic:
    """Replies arrive so much later; more or less by up to jitter_ms, but in order."""
    return {"type": "latency", "latency": ms, "jitter": jitter_ms}


def bandwidth(kb_per_s: float) -> Toxic:
    """No more replies than so many kB a second."""
    return {"type": "bandwidth", "rate": kb_per_s}


def slicer(average_bytes: int, *, delay_ms: float) -> Toxic:
    """Replies come in slices with a pause after each; of 1 byte: they drip."""
    return {"type": "slicer", "average_size": average_bytes, "delay": delay_ms * 1000}


def timeout(after_ms: float = 0.0) -> Toxic:
    """A black hole: nothing gets through, on old connections and new; each is closed after so long,
    or when the fault ends if that is 0."""
    return {"type": "timeout", "timeout": after_ms}


def reset_peer(after_ms: float = 0.0) -> Toxic:
    """Each connection is reset (RST) so long after it was made, or after the fault began."""
    return {"type": "reset_peer", "timeout": after_ms}


def limit_data(replied_bytes: int) -> Toxic:
    """Each connection is closed after so many bytes of replies: the last one is truncated."""
    return {"type": "limit_data", "bytes": replied_bytes}


def half_open() -> Toxic:
    """The other side of every connection is gone without a word; new connections are good."""
    return {"type": "half_open"}


def hold() -> Toxic:
    """Nothing gets through while it lasts, and all of it afterwards: a stall, or packets lost and
    sent again."""
    return {"type": "hold"}


def refused() -> Toxic:
    """Connections are reset, and new ones refused (toxiproxy: the proxy is disabled)."""
    return {"type": "refused"}


class Counts(NamedTuple):
    """What came to the proxy since it started."""

    accepted: int
    open: int


class FaultyNetwork:
    """A way to upstream, and what is wrong with it. Use it as ``with``; it begins without a fault.

    upstream: host and port of the server. address: host and port where clients go instead.
    """

    def __init__(self, upstream: tuple[str, int]) -> None:
        self._upstream = upstream
        self.address = ("", 0)

    def __enter__(self) -> FaultyNetwork:
        host, port = self._upstream
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.faulty_network", f"{host}:{port}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.address = ("127.0.0.1", int(self._answer()["port"]))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(ANSWER_MAX_S)
        self._process.stdout.close()

    @property
    def host_port(self) -> str:
        """The address as one word."""
        return "{}:{}".format(*self.address)

    def be(self, *toxics: Toxic) -> None:
        """Have these faults from now on, and no others; none: be good again."""
        self._ask({"toxics": toxics})

    @contextlib.contextmanager
    def being(self, *toxics: Toxic) -> Iterator[None]:
        """Have these faults for the length of a ``with``."""
        self.be(*toxics)
        try:
            yield
        finally:
            self.be()

    def counts(self) -> Counts:
        """What came so far."""
        return Counts(**self._ask({}))

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the proxy ended"
        answer: dict[str, Any] = json.loads(line)
        return answer


# ---------------------------------------------------------------- in the process of its own


class _Fault:
    """What is wrong now. changed: set when something else is."""

    def __init__(self, toxics: list[Toxic]) -> None:
        self.of = {toxic["type"]: toxic for toxic in toxics}
        self.changed = asyncio.Event()


class _Pair:
    """A client's connection and ours to the server."""

    def __init__(self, proxy: _Proxy, client: asyncio.StreamReader, to_client: Any) -> None:
        self._proxy = proxy
        self._client, self._to_client = client, to_client
        self._to_server: Any = None
        self._gone = False
        """Half open: its server ended without a word."""
        self._made_at = asyncio.get_running_loop().time()
        self._replied = 0
        """Bytes, under the limit of these."""

    async def run(self) -> None:
        """Until either side, or a fault, ends it."""
        try:
            server, self._to_server = await asyncio.open_connection(*self._proxy.upstream)
        except OSError:
            self._reset()
            return
        asked: _Queue = asyncio.Queue(QUEUED_MAX)
        replied: _Queue = asyncio.Queue(QUEUED_MAX)
        readers = [
            asyncio.create_task(self._read(self._client, asked, replies=False)),
            asyncio.create_task(self._read(server, replied, replies=True)),
        ]
        others = [
            asyncio.create_task(self._send(asked, self._to_server, replies=False)),
            asyncio.create_task(self._send(replied, self._to_client, replies=True)),
            asyncio.create_task(self._suffer()),
        ]
        try:
            await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*readers, *others):
                task.cancel()
            await asyncio.gather(*readers, *others, return_exceptions=True)
            for writer in (self._to_client, self._to_server):
                writer.close()

    async def _suffer(self) -> None:
        """What a fault does to the connection itself. Returns when it ends by that."""
        loop = asyncio.get_running_loop()
        since = self._made_at
        while True:
            fault = self._proxy.fault
            if "refused" in fault.of:
                self._reset()
                return
            self._gone |= "half_open" in fault.of and since > self._made_at
            ends = [
                since + fault.of[kind]["timeout"] / 1000 - loop.time()
                for kind in ("reset_peer", "timeout")
                if kind in fault.of and (kind == "reset_peer" or fault.of[kind]["timeout"])
            ]
            try:
                async with asyncio.timeout(max(0.0, *ends) if ends else None):
                    await fault.changed.wait()
            except TimeoutError:
                if "reset_peer" in fault.of:
                    self._reset()
                return
            if "timeout" in fault.of:
                return  # what it swallowed would be missed
            since = loop.time()

    async def _read(self, source: asyncio.StreamReader, queue: _Queue, *, replies: bool) -> None:
        loop = asyncio.get_running_loop()
        data = b"to begin with"
        while data:
            try:
                data = await source.read(CHUNK_BYTES)
            except OSError:
                data = b""
            late_ms = 0.0
            if replies and (delay := self._proxy.fault.of.get("latency")):
                late_ms = delay["latency"] + random.uniform(-1, 1) * delay["jitter"]
            await queue.put((loop.time() + max(0.0, late_ms) / 1000, data))

    async def _send(self, queue: _Queue, sink: Any, *, replies: bool) -> None:
        """Send on what was read, when and how the fault lets it. Returns when that was the end."""
        loop = asyncio.get_running_loop()
        while True:
            due, data = await queue.get()
            await asyncio.sleep(due - loop.time())
            while "hold" in self._proxy.fault.of:
                await self._proxy.fault.changed.wait()
            swallowed = self._gone or "timeout" in self._proxy.fault.of
            if not data:
                if swallowed and replies:
                    await asyncio.Event().wait()  # nobody tells the client
                return
            if swallowed:
                continue
            with contextlib.suppress(OSError):
                if not await (self._reply(data, sink) if replies else _whole(data, sink)):
                    return

    async def _reply(self, data: bytes, sink: Any) -> bool:
        """False if the connection ends with it."""
        faults = self._proxy.fault.of
        if "bandwidth" in faults:
            await asyncio.sleep(len(data) / 1000 / faults["bandwidth"]["rate"])
        if "limit_data" in faults:
            left = max(0, faults["limit_data"]["bytes"] - self._replied)
            self._replied += len(data)
            if left < len(data):
                await _whole(data[:left], sink)
                return False
        else:
            self._replied = 0
        while data and (slicer := self._proxy.fault.of.get("slicer")):
            await _whole(data[: slicer["average_size"]], sink)
            data = data[slicer["average_size"] :]
            await asyncio.sleep(slicer["delay"] / 1e6)
        return await _whole(data, sink)

    def _reset(self) -> None:
        """RST to both."""
        for writer in (self._to_client, self._to_server):
            if writer is not None:
                made = writer.get_extra_info("socket")
                made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()


async def _whole(data: bytes, sink: Any) -> bool:
    sink.write(data)
    await sink.drain()
    return True


class _Proxy:
    def __init__(self, upstream: tuple[str, int]) -> None:
        self.upstream = upstream
        self.fault = _Fault([])
        self._accepted = 0
        self._pairs: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Until the commands end."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        self._say({"port": port})
        commands: asyncio.Queue[bytes] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def read() -> None:
            for line in sys.stdin.buffer:
                loop.call_soon_threadsafe(commands.put_nowait, line)
            loop.call_soon_threadsafe(commands.put_nowait, b"")

        threading.Thread(target=read, daemon=True).start()
        while line := await commands.get():
            command = json.loads(line)
            if "toxics" in command:
                before, self.fault = self.fault, _Fault(command["toxics"])
                before.changed.set()
                is_refused = "refused" in self.fault.of
                if is_refused and server is not None:
                    server.close()
                elif "refused" in before.of and not is_refused:
                    server = await asyncio.start_server(self._accept, "127.0.0.1", port)
            self._say({"accepted": self._accepted, "open": len(self._pairs)})
        server.close()
        for pair in self._pairs:
            pair.cancel()
        await asyncio.gather(*self._pairs, return_exceptions=True)

    @staticmethod
    def _say(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), flush=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._accepted += 1
        pair = asyncio.current_task()
        assert pair is not None
        self._pairs.add(pair)
        try:
            await _Pair(self, reader, writer).run()
        finally:
            self._pairs.discard(pair)


def main() -> None:
    """See the module."""
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # a broken connection is no news here
    host, _, port = sys.argv[1].rpartition(":")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_Proxy((host, int(port))).serve())


if __name__ == "__main__":
    main()
