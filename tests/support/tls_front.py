"""TLS in front of a server that speaks none, as a managed store or stunnel has it."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer

from tests.support.certificates import Pem


class _Front(ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, host: str, behind: int, context: ssl.SSLContext) -> None:
        super().__init__((host, 0), _Connection)
        self.behind = behind
        self.context = context


class _Connection(BaseRequestHandler):
    server: _Front

    def handle(self) -> None:
        """Shake hands (whoever does not pass hears an alert), then pass bytes both ways."""
        try:
            secure = self.server.context.wrap_socket(self.request, server_side=True)
        except OSError:
            return
        with secure, socket.create_connection(("127.0.0.1", self.server.behind)) as inner:
            back = threading.Thread(target=_pump, args=(inner, secure), daemon=True)
            back.start()
            _pump(secure, inner)
            back.join()


def _pump(here: socket.socket, there: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := here.recv(65_536):
            there.sendall(data)
    for one in (here, there):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


@contextmanager
def tls_front(
    port: int, server: Pem, *, client_ca: Path | None = None, host: str = "127.0.0.1"
) -> Iterator[int]:
    """The port of a TLS listener before 127.0.0.1:port. client_ca: clients must show a certificate
    of it. host: where it listens."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.cert, server.key)
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    with _Front(host, port, context) as front:
        thread = threading.Thread(target=front.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield front.server_address[1]
        finally:
            front.shutdown()
            thread.join()
