"""A time stamp authority over HTTP, whose stamps ``openssl ts`` makes."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CONFIG = """
[req]
distinguished_name = dn
prompt = no
[dn]
CN = test time stamps
[ca]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign
subjectKeyIdentifier = hash
[tsa_cert]
basicConstraints = CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = critical,timeStamping
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[tsa]
default_tsa = stamps
[stamps]
serial = serial
signer_cert = tsa.pem
signer_key = tsa.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
ess_cert_id_alg = sha256
accuracy = secs:1
"""


def make_authority(folder: Path) -> Path:
    """Root, certificate and key in a folder. Returns the root's certificate."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "openssl.cnf").write_text(CONFIG)
    (folder / "serial").write_text("01")

    def openssl(*words: str) -> None:
        config = ("-config", "openssl.cnf") if words[0] == "req" else ()
        subprocess.run(["openssl", *words, *config], cwd=folder, check=True, capture_output=True)

    def key(name: str) -> None:
        openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", name)

    for name in ("root.key", "tsa.key"):
        key(name)
    openssl(
        *("req", "-x509", "-new", "-key", "root.key", "-subj", "/CN=test root", "-days", "2"),
        *("-extensions", "ca", "-out", "root.pem"),
    )
    openssl("req", "-new", "-key", "tsa.key", "-subj", "/CN=test authority", "-out", "tsa.csr")
    openssl(
        *("x509", "-req", "-in", "tsa.csr", "-CA", "root.pem", "-CAkey", "root.key"),
        *("-set_serial", "2", "-days", "2", "-extfile", "openssl.cnf", "-extensions", "tsa_cert"),
        *("-out", "tsa.pem"),
    )
    return folder / "root.pem"


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The URL at which the folder's authority answers."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = self.rfile.read(int(self.headers["content-length"]))
            (folder / "query").write_bytes(query)
            subprocess.run(
                [
                    *("openssl", "ts", "-reply", "-config", "openssl.cnf", "-section", "stamps"),
                    *("-queryfile", "query", "-out", "reply"),
                ],
                cwd=folder,
                check=True,
                capture_output=True,
            )
            reply = (folder / "reply").read_bytes()
            self.send_response(200)
            self.send_header("content-type", "application/timestamp-reply")
            self.send_header("content-length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
