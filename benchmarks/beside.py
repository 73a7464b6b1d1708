"""What a shadow and a canary cost both entrypoints: traffic without and with each, in turn."""

from __future__ import annotations

import hashlib
import shutil
import statistics
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks import access
from benchmarks.processes import MEASURED, on, wait_until
from benchmarks.report import Row, row
from benchmarks.stream_processor import BATCH, Drained, decided_by
from benchmarks.sync_api import Server
from benchmarks.testbed import Testbed
from local.stack import Process
from sluice.domain.activation import Activation, Canary, Named, statement_of
from sluice.domain.clock import SystemClock
from sluice.domain.release import FILES, MANIFEST, SIGNATURE, public_line, sign

SHARE_PPM = 10_000
BEGINS_MAX_S = 60.0
CHAMPION, OTHER = "champion", "other"
WAYS = ("champion alone", "with a shadow", "with a canary of 1 %")


def measure(testbed: Testbed, results: Path) -> tuple[list[Row], list[str]]:
    """Processor time of both entrypoints, and latency of the sync API, with the champion alone,
    with a shadow, with a canary; the same model under another id."""
    folder = testbed.folder / "beside"
    key = Ed25519PrivateKey.generate()
    trust = folder / "trust"
    trust.mkdir(parents=True)
    (trust / "bench.pub").write_text(public_line(key.public_key(), "bench"))
    settings = {
        way: {
            "SLUICE_DECIDER_RELEASE_DIR": str(
                _releases(testbed.release[0], folder / str(number), key, way)
            ),
            "SLUICE_DECIDER_TRUST_DIR": str(trust),
        }
        for number, way in enumerate(WAYS)
    }
    rows, note = _sync(testbed, folder, settings)
    rows += _stream(testbed, settings)
    return rows, [
        "shadow and canary are the champion's model under another id; the three in turn, each "
        "alone on one core while it works",
        f"{note}; stream processor: batches of {BATCH}, sent once the release beside has begun",
        testbed.release[2],
    ]


def _sync(
    testbed: Testbed, folder: Path, settings: dict[str, dict[str, str]]
) -> tuple[list[Row], str]:
    bodies = folder / "authorizations.jsonl"
    bodies.write_bytes(b"\n".join(testbed.traffic.values))
    with testbed.store() as store, testbed.stack(store, "beside-") as stack, on(MEASURED):
        testbed.topics("beside-")
        servers: dict[str, Server] = {}
        for number, way in enumerate(WAYS):
            process = stack.start("decider-sync", replica=str(number + 2), **settings[way])
            stack.wait_ready(process)
            _wait_begun(process, way)
            servers[way] = Server(
                process.popen.pid,
                f"http://127.0.0.1:{process.port}/v1/authorizations",
                bodies,
                '"degradation_level":"D0"',
            )
            if "shadow" in way:
                shadowed = process
        rows, notes = access.in_turn(testbed, servers)
        return rows + _of_shadow(shadowed, "sync API"), notes[-1]


def _stream(testbed: Testbed, settings: dict[str, dict[str, str]]) -> list[Row]:
    runs: dict[str, list[Drained]] = {way: [] for way in WAYS}
    shadow: list[Row] = []
    for again in range(testbed.scale.replays):
        for number, way in enumerate(WAYS):
            prefix = f"beside-stream-{again}-{number}-"
            testbed.topics(prefix)
            with testbed.store() as store, testbed.stack(store, prefix) as stack:
                with on(MEASURED):
                    process = stack.start("decider-stream", **settings[way])
                _wait_begun(process, way)
                testbed.preload(prefix)
                runs[way].append(decided_by(testbed, process))
                if "shadow" in way:
                    shadow = _of_shadow(process, "stream processor")
                stack.stop("decider-stream")
    return [
        row(
            f"stream processor: CPU per decision, {way}",
            "µs",
            1e6 / statistics.median(run.per_core for run in runs[way]),
        )
        for way in WAYS
    ] + shadow


def _wait_begun(process: Process, way: str) -> None:
    """Until what is beside the champion has begun."""

    def begun() -> bool:
        try:
            return bool(process.metric("sluice_decider_beside_share")) or way == WAYS[0]
        except OSError:
            return False

    wait_until(begun, f"{way}: {process.log}", BEGINS_MAX_S)


def _of_shadow(process: Process, where: str) -> list[Row]:
    """What a decider's own metrics say of its shadow."""
    scored = process.metric("sluice_decider_shadow_rows_total")
    decided = process.metric("sluice_decider_decisions_total")
    took_s = process.metric("sluice_decider_shadow_cpu_seconds_total")
    return [
        row(f"{where}: decisions that the shadow scored", "%", 100 * scored / decided),
        row(f"{where}: CPU of the shadow, each that it scored", "µs", 1e6 * took_s / scored),
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
