"""A server's certificate is renewed while it serves."""

import ssl
import threading
from contextlib import suppress
from pathlib import Path

from sluice.adapters.tls import Files, ServerTls
from sluice.errors import Misconfigured
from tests.support.certificates import Authority

HOST = "127.0.0.1"
PAIRS = 4
POLLS = 3_000


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """In memory, both sides. Raises ssl.SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server, server_hostname=HOST),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(4):
        for side in sides:
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()


def test_whoever_connects_while_files_are_written_gets_a_whole_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    pairs = [
        (pem.cert.read_bytes(), pem.key.read_bytes())
        for pem in (authority.issue(f"server-{i}", hosts=(HOST,)) for i in range(PAIRS))
    ]
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(pairs[0][0])
    key.write_bytes(pairs[0][1])
    tls = ServerTls(Files("decider", cert=str(cert), key=str(key)))
    client = ssl.create_default_context(cafile=str(authority.ca))
    done = threading.Event()

    def renew() -> None:
        while not done.is_set():
            for one in pairs:
                cert.write_bytes(one[0])
                key.write_bytes(one[1])

    writer = threading.Thread(target=renew)
    writer.start()
    taken = 0
    try:
        for _ in range(POLLS):
            with suppress(Misconfigured):  # half written, or one of each pair
                taken += tls.poll()
            shake_hands(tls.context, client)
    finally:
        done.set()
        writer.join()
    assert taken > 0
