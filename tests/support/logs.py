"""Logs for tests, and what an attacker does to them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sluice.audit.checkpoints import Checkpoint
from sluice.audit.entries import join
from sluice.audit.merkle import Frontier, leaf_hash
from sluice.audit.notes import LOG, WITNESS, Key, Note, cosign, sign
from sluice.audit.tiles import HEIGHT, WIDTH, Tile, pack_entries
from sluice.domain.records import log_record as records
from sluice.domain.records.authorization import Channel

ORIGIN = "test.example/eu/0"
START_US = 1_790_000_000_000_000


def private(seed: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)


LOG_KEY, OTHER_KEY, WITNESS_KEY = private(1), private(2), private(3)
KEY = Key(ORIGIN, LOG, LOG_KEY.public_key())
WITNESS_NAME = "witness.example/1"
SEEN_BY = Key(WITNESS_NAME, WITNESS, WITNESS_KEY.public_key())


def header(
    index: int,
    *,
    log: str = ORIGIN,
    topic: str = "labels.v1",
    at_us: int | None = None,
    offset: int | None = None,
    partition: int = 0,
    emitter: str = "labeller-1",
    sequence: int | None = None,
    authorization_id: str | None = None,
) -> bytes:
    """Of a label: the shortest record with a source."""
    return records.encode(
        records.LabelRecord(
            log=log,
            recorded_at=START_US + index * 1000 if at_us is None else at_us,
            source=records.Source(
                topic=topic, partition=partition, offset=index if offset is None else offset
            ),
            emitter=emitter,
            sequence=index if sequence is None else sequence,
            authorization_id=authorization_id or f"authorization-{index}",
            event_at=START_US,
            body=records.LabelBody(
                tenant="default", channel=Channel.ECOM, known_at=START_US, is_fraud=True,
                kind="chargeback", source="simulator", reason=None, uncounted=None, withdraws=None,
            ),
        )
    )  # fmt: skip


def entry(index: int, **more: Any) -> bytes:
    return join(header(index, **more), hashlib.sha256(bytes([index % 256])).digest())


def entries(count: int) -> list[bytes]:
    return [entry(index) for index in range(count)]


def gap(
    index: int,
    first: int,
    until: int,
    *,
    log: str = ORIGIN,
    sequence: int = 0,
    reason: records.GapReason = "transaction_marker",
) -> bytes:
    """Offsets of the same partition that have no record."""
    body = records.GapBody(
        topic="labels.v1", partition=0, emitter=None, first=first, until=until, reason=reason,
        found=None,
    )  # fmt: skip
    made = records.GapRecord(
        log=log, recorded_at=START_US + index * 1000, emitter="auditor", sequence=sequence,
        body=body,
    )  # fmt: skip
    return join(records.encode(made))


def rotation(index: int, before: Key, after: Key) -> bytes:
    """From here on another key signs."""
    body = records.KeyRotationBody(
        actor=None, case=None, purpose="log", before=before.short, after=after.short
    )  # fmt: skip
    made = records.KeyRotationRecord(
        log=ORIGIN, recorded_at=START_US + index * 1000, emitter="auditor", sequence=0, body=body
    )
    return join(records.encode(made))


def signed(
    size: int,
    root: bytes,
    *,
    origin: str = ORIGIN,
    key: Ed25519PrivateKey = LOG_KEY,
    cosigned_s: int | None = None,
) -> bytes:
    text = Checkpoint(origin, size, root).text
    lines = [sign(text, origin, key)]
    if cosigned_s is not None:
        lines.append(cosign(text, WITNESS_NAME, WITNESS_KEY, cosigned_s))
    return bytes(Note(text, lines))


def tree_files(written: Sequence[bytes]) -> tuple[dict[str, bytes], bytes]:
    """The tiles and bundles of these entries, and the root: what a thief of the key can make."""
    tree = Frontier()
    rows: dict[int, list[bytes]] = {}
    for one in written:
        for level, _, root in tree.append(leaf_hash(one)):
            if level % HEIGHT == 0:
                rows.setdefault(level // HEIGHT, []).append(root)
    files = {}
    for level, row in rows.items():
        for index in range(-(-len(row) // WIDTH)):
            part = row[index * WIDTH : (index + 1) * WIDTH]
            tile = Tile(level, index, len(part))
            files[tile.path] = b"".join(part)
            if level == 0:
                held = written[index * WIDTH : index * WIDTH + len(part)]
                files[tile.entries_path] = pack_entries(held)
    return files, tree.root()


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    for name, raw in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)
    return folder


def write_log(
    folder: Path,
    written: Sequence[bytes],
    *,
    origin: str = ORIGIN,
    key: Ed25519PrivateKey = LOG_KEY,
    cosigned_s: int | None = None,
) -> bytes:
    """A log in a folder. Returns its checkpoint."""
    files, root = tree_files(written)
    checkpoint = signed(len(written), root, origin=origin, key=key, cosigned_s=cosigned_s)
    write_files(folder, files | {"checkpoint": checkpoint})
    return checkpoint
