"""What a shadow and a canary cost the sync API: requests without and with each, in turn."""

from __future__ import annotations

import hashlib
import shutil
import time
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks import access
from benchmarks.processes import MEASURED, on
from benchmarks.report import Row
from benchmarks.sync_api import Server
from benchmarks.testbed import Testbed
from sluice.domain.activation import Activation, Canary, Named, statement_of
from sluice.domain.clock import SystemClock
from sluice.domain.release import FILES, MANIFEST, SIGNATURE, public_line, sign

SHARE_PPM = 10_000
BEGINS_MAX_S = 60.0
CHAMPION, OTHER = "champion", "other"


def measure(testbed: Testbed, results: Path) -> tuple[list[Row], list[str]]:
    """Processor time and latency of three servers over one broker and store: the champion alone,
    with a shadow, with a canary; the same model under another id."""
    folder = testbed.folder / "beside"
    key = Ed25519PrivateKey.generate()
    trust = folder / "trust"
    trust.mkdir(parents=True)
    (trust / "bench.pub").write_text(public_line(key.public_key(), "bench"))
    bodies = folder / "authorizations.jsonl"
    bodies.write_bytes(b"\n".join(testbed.traffic.values))
    with testbed.store() as store, testbed.stack(store, "beside-") as stack, on(MEASURED):
        testbed.topics("beside-")
        servers: dict[str, Server] = {}
        for number, way in enumerate(("champion alone", "with a shadow", "with a canary of 1 %")):
            releases = _releases(testbed.release[0], folder / str(number), key, way)
            process = stack.start(
                "decider-sync",
                replica=str(number + 2),
                SLUICE_DECIDER_RELEASE_DIR=str(releases),
                SLUICE_DECIDER_TRUST_DIR=str(trust),
            )
            stack.wait_ready(process)
            beside = way != "champion alone"
            deadline = time.monotonic() + BEGINS_MAX_S
            while bool(process.metric("sluice_decider_beside_share")) != beside:
                assert time.monotonic() < deadline, process.log.read_text()[-3000:]
                time.sleep(0.1)
            servers[way] = Server(
                process.popen.pid,
                f"http://127.0.0.1:{process.port}/v1/authorizations",
                bodies,
                '"degradation_level":"D0"',
            )
        rows, notes = access.in_turn(testbed, servers)
    return rows, [
        "shadow and canary are the champion's model under another id, the three servers in turn, "
        "each alone on one core while it is asked",
        notes[-1],
    ]


def _releases(release: Path, folder: Path, key: Ed25519PrivateKey, way: str) -> Path:
    """A folder of the release under two ids, and an activation."""
    named = {name: _copy(release, folder / name, name, key) for name in (CHAMPION, OTHER)}
    beside: dict[str, Any] = {}
    if "shadow" in way:
        beside = {"shadow": named[OTHER]}
    elif "canary" in way:
        beside = {"canary": Canary(named[OTHER], SHARE_PPM)}
    activation = Activation(
        what="release", id=CHAMPION, digest=named[CHAMPION].digest, act="promote", who="bench",
        why=way, epoch=SystemClock().now_us(), **beside,
    )  # fmt: skip
    note = statement_of(activation).approved(key).note()
    (folder / "activation.note").write_bytes(note)
    return folder


def _copy(release: Path, folder: Path, name: str, key: Ed25519PrivateKey) -> Named:
    folder.mkdir(parents=True)
    for file in FILES:
        shutil.copy(release / file, folder / file)
    said = msgspec.json.decode((folder / MANIFEST).read_bytes()) | {"id": name}
    raw = msgspec.json.encode(said)
    (folder / MANIFEST).write_bytes(raw)
    (folder / SIGNATURE).write_bytes(sign(raw, key))
    return Named(name, hashlib.sha256(raw).hexdigest())
