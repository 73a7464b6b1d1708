"""The admin port of a service without HTTP of its own: ``/metrics``, liveness and readiness.

Served by threads beside the service's work, so it answers while a batch is worked on; the sync API
serves the same paths, and more, from its own loop.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import prometheus_client
from prometheus_client import exposition

ANSWERS_MAX = 16
"""At once, a thread each; who comes past it is turned away. Probes and a scraper are three."""
ANSWER_MAX_S = 5.0
"""From connecting to the end of the answer; what is slower is cut off."""
SILENT_MAX_S = 300.0
"""A service that has not finished a turn of its work for so long is no longer alive. The longest
that is normal, a commit that hangs, ends by itself after 36 s."""
WHY_MAX = 512
"""Characters of the reason in a readiness answer."""


class Health:
    """What a service's loop says of itself. Thread-safe: one writes, others read.

    silent_max_s: between two turns of the work while all is well.
    """

    def __init__(self, silent_max_s: float = SILENT_MAX_S) -> None:
        self.silent_max_s = silent_max_s
        self.why = "it starts"
        """Why it is not ready; what it says while it is counts for nothing."""
        self._beat_at = time.monotonic()
        self._ready = False

    def beat(self, *, ready: bool, why: str = "") -> None:
        """A turn is done. ready: and it went well; else why it did not."""
        self._ready = ready
        self.why = why
        self._beat_at = time.monotonic()

    def live(self) -> bool:
        """Whether it still turns; a start counts as a turn."""
        return time.monotonic() - self._beat_at <= self.silent_max_s

    def ready(self) -> bool:
        """Whether it turns, and its last turn went well."""
        return self._ready and self.live()


HEALTH = Health()
"""The process's own."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = ANSWER_MAX_S

    def do_GET(self) -> None:
        health = self.server.health
        status, kind, body = 200, "application/json", b""
        if self.path == "/metrics":
            encoder, kind = exposition.choose_encoder(self.headers.get("accept", ""))
            body = encoder(prometheus_client.REGISTRY)
        elif self.path == "/v2/health/live":
            status, body = (200, b'{"live":true}') if health.live() else (503, b'{"live":false}')
        elif self.path == "/v2/health/ready":
            status, body = (200, b'{"ready":true}') if health.ready() else (503, _not_ready(health))
        else:
            status = 404
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a probe each second is no news."""


def _not_ready(health: Health) -> bytes:
    why = health.why[:WHY_MAX] if health.live() else "its work stands still"
    answer = {"ready": False, "why": why} if why else {"ready": False}
    return json.dumps(answer, separators=(",", ":")).encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, host: str, port: int, health: Health) -> None:
        self.health = health
        self._free = threading.BoundedSemaphore(ANSWERS_MAX)
        self._since: dict[socket.socket, float] = {}
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        self._since[request] = time.monotonic()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._since.pop(request, None)
            self._free.release()

    def service_actions(self) -> None:
        """Twice a second: cut off who is slow."""
        limit = time.monotonic() - ANSWER_MAX_S
        for request, since in list(self._since.items()):
            if since < limit:
                with contextlib.suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: it left, or was cut off."""


class AdminServer:
    """The admin port, served from threads until another server takes it over."""

    def __init__(self, port: int, *, host: str = "0.0.0.0", health: Health = HEALTH) -> None:
        """Listen at once. port: 0 lets the system choose. Raises OSError."""
        self._server = _Server(host, port, health)
        self.port = int(self._server.server_port)
        threading.Thread(target=self._server.serve_forever, name="admin", daemon=True).start()

    def hand_over(self) -> socket.socket:
        """The listening socket, for the server that answers from now on. Nobody is turned away in
        between: for half a second both take who comes."""
        taken = self._server.socket.dup()
        threading.Thread(target=self._end, name="admin-end", daemon=True).start()
        return taken

    def _end(self) -> None:
        self._server.shutdown()
        self._server.server_close()
