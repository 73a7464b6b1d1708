"""Entries of the compliance log made of decisions: schema, search, sealing, encoding and leaf hash.

``python -m benchmarks.log_records`` writes benchmarks/results/log_records.json. In one process, no
broker and no disk: what the auditor's processor does for each record. Decisions have the
catalogue's features, ids of their own, and cards that come again.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from benchmarks.report import Row, machine, result, row, save, table
from sluice.application.keep_log import Refused
from sluice.application.log_records import LogRecords
from sluice.application.ports import Message
from sluice.audit.merkle import leaf_hash
from sluice.domain.features import catalogue
from sluice.domain.records.card_numbers import holds_card_number
from sluice.domain.records.decision import MadeBy, Pending
from sluice.testing.factories import NOON_US
from sluice.testing.keystore import MemoryKeystore
from sluice.testing.records import make_decision

BATCH = 256
"""As the auditor takes them."""
BATCHES, ROUNDS = 40, 7
CARDS = 5_000
_SEED = 5


def main() -> int:
    """Measure, save and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.log_records", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    about = machine()
    rows, notes = measure()
    args.out.mkdir(parents=True, exist_ok=True)
    found = result("log_records", "python -m benchmarks.log_records", about, rows, notes)
    save(args.out, found)
    print(table(found))
    return 0


def measure() -> tuple[list[Row], list[str]]:
    """Rounds over the same messages; keys and machine code are made in one before them."""
    draw = random.Random(_SEED)
    cards = cards_of(draw)
    batches = [[message(draw, cards, at) for at in range(BATCH)] for _ in range(BATCHES)]
    records = LogRecords(log="benchmark/eu/0", keystore=MemoryKeystore())
    took, entry_bytes = [], 0
    for number in range(ROUNDS + 1):
        began = time.process_time()
        for batch in batches:
            for entry in records.entries(records.read(batch), [False] * BATCH, NOON_US):
                leaf_hash(whole(entry))
                entry_bytes += len(whole(entry))
        if number:
            took.append(time.process_time() - began)
    each = statistics.median(took) / (BATCH * BATCHES)
    size = entry_bytes / (BATCH * BATCHES * (ROUNDS + 1))
    return [
        row("records per second of CPU", "1/s", 1 / each, target=">= 20,000"),
        row("CPU per record", "µs", each * 1e6),
        row("bytes of an entry", "B", size),
    ], [
        f"decisions of {len(batches[0][0].value):,} bytes, {len(catalogue.FEATURES)} features, "
        f"batches of {BATCH}; keys in memory; no broker, no disk",
        "spread of records per second of CPU: "
        + ", ".join(f"{BATCH * BATCHES / one:,.0f}" for one in took),
    ]


def whole(entry: bytes | Refused) -> bytes:
    """An entry. Raises RuntimeError for a refusal: then something else was measured."""
    if isinstance(entry, bytes):
        return entry
    raise RuntimeError(f"the benchmark's own decision was refused: {entry}")


def cards_of(draw: random.Random) -> list[str]:
    """Tokens."""
    tokens = [f"tok_{draw.randbytes(12).hex()}" for _ in range(CARDS)]
    return [token for token in tokens if not holds_card_number(token)]


def _ids(draw: random.Random) -> Iterator[str]:
    while True:
        yield str(uuid.UUID(int=draw.getrandbits(128), version=4))


def message(draw: random.Random, cards: Sequence[str], offset: int) -> Message:
    """A decision as a decider writes it, keyed by its card."""
    decision = make_decision(
        next(name for name in _ids(draw) if not holds_card_number(name)),
        sequence=offset,
        card_token=draw.choice(cards),
        device_id=f"dev_{draw.randrange(CARDS):08x}",
        ip_prefix=f"{draw.randrange(1, 224)}.{draw.randrange(256)}.{draw.randrange(256)}.0/24",
    )
    pending = Pending(f"a-{offset}", NOON_US - 1, 500, 1, 0, 21, 978, 5411, 1, NOON_US)
    whole = msgspec.structs.replace(
        decision,
        emitter="decider-0/1780000000000-1",
        features=[draw.randrange(-1, 10**6) for _ in catalogue.FEATURES],
        pending=[pending] if draw.random() < 0.1 else [],
        fired=[],
        made_by=MadeBy(
            release_digest="a" * 64, runtime="onnxruntime-1.22.0", policy_digest="b" * 64,
            policy_version=7, score_ppm=[300_000, 700_000, 900_000],
            expected_loss_minor=[None, None, None], build="sluice-0.2.0", config="d" * 64,
        ),
    )  # fmt: skip
    key = whole.authorization.card_token.encode()
    return Message(msgspec.json.encode(whole), key, "decisions.v1", 0, offset, None)


if __name__ == "__main__":
    raise SystemExit(main())
