"""How fast a compliance log is verified: decisions as the auditor writes them, sealed, on one core.

python -m benchmarks.verify_log [--records N]: in CPU time, so that other processes cost it little.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from sluice.application.log_accounting import Accounting
from sluice.application.log_records import LogRecords
from sluice.application.ports import Message
from sluice.application.prove_entry import check, prove
from sluice.application.read_log import CHECKPOINT, Order, opened
from sluice.application.verify_log import verify
from sluice.bootstrap.log import log_files
from sluice.domain.records.decision import Decision, MadeBy
from sluice.testing.keystore import MemoryKeystore
from sluice.testing.log import ORIGIN, log_at
from sluice.testing.records import make_decision

BATCH = 256
PROOFS = 200


def decisions(count: int) -> list[Decision]:
    """With all that a decider of today writes: a vector, versions of states, what it runs."""
    by = MadeBy(
        release_digest="a" * 64, runtime="onnxruntime-1.32.0", policy_digest="b" * 64,
        policy_version=7, score_ppm=[300_000, None, 900_000],
        expected_loss_minor=[None, None, None], build="0.2.0+abcdef0",
        image="registry/sluice@sha256:" + "c" * 64, config="d" * 64,
    )  # fmt: skip
    made = make_decision(authorization_id="0192f0c1-8a2b-7cde-8f00-123456789abc")
    whole = msgspec.structs.replace(made, made_by=by, fired=["many-small", "new-device"])
    return [msgspec.structs.replace(whole, sequence=number) for number in range(count)]


def write(folder: Path, count: int) -> None:
    """A log by the auditor's own writer."""
    log, made = log_at(folder), LogRecords(log=ORIGIN, keystore=MemoryKeystore())
    log.open()
    given = [msgspec.json.encode(one) for one in decisions(count)]
    for first in range(0, count, BATCH):
        batch = [
            Message(raw, None, "decisions.v1", 0, at, None)
            for at, raw in enumerate(given[first : first + BATCH], first)
        ]
        found = made.entries(made.read(batch), [False] * len(batch), 1_790_000_000_000_000 + first)
        entries = [one for one in found if isinstance(one, bytes)]
        assert len(entries) == len(batch), found
        log.append(entries)
    log.checkpoint()
    log.close()


def measure(folder: Path) -> None:
    """Print what a log takes. Alone in its process, for its memory."""
    read, order = log_files(folder), Order(log_at(folder).key)
    for what, accounting in (("verify", None), ("verify --accounting", Accounting())):
        began = time.process_time()
        found = verify(read, order, accounting=accounting)
        took = time.process_time() - began
        assert found.status == 0, found
        print(f"{what}: {found.checked / took:,.0f} records/s a core, of {found.checked:,}")
    now = opened(read, order)
    raw = bytes(prove(read, read(CHECKPOINT), now, found.size // 3))
    began = time.process_time()
    for _ in range(PROOFS):
        check(raw, order.key, [], 0)
    took = (time.process_time() - began) / PROOFS
    print(f"verify-proof: {took * 1000:.3f} ms, {len(raw):,} bytes with the entry")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"most memory: {peak} MiB")


def main() -> int:
    """Make a log, and measure in another process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--of", type=Path, help="a log that is there")
    args = parser.parse_args()
    if args.of is not None:
        measure(args.of)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        write(log, args.records)
        files = sum(
            one.stat().st_size for one in (log / "tile/entries").rglob("*") if one.is_file()
        )
        print(f"{args.records:,} decisions, {files // args.records:,} bytes each")
        again = [sys.executable, "-m", "benchmarks.verify_log", "--of", str(log)]
        subprocess.run(again, check=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
