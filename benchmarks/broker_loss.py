"""``python -m benchmarks.broker_loss``: three brokers, each killed in turn under traffic.

Half of the traffic goes to each entrypoint. Every service is started once; in the end topics,
states, archive and compliance log are recounted. About three minutes.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.report import machine, result, row, save, table
from services import warm
from tests.support.broker_loss import Outcome, lose_each
from tests.support.kafka_cluster import BROKERS, SESSION_S, kafka_cluster


def main() -> int:
    """Returns 1 if anything was missing, twice, wrong or ended."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.broker_loss", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--rate", type=float, default=500.0, help="authorizations a second")
    parser.add_argument("--down-s", type=float, default=15.0, help="that each broker is away")
    parser.add_argument(
        "--session-s",
        type=float,
        default=SESSION_S,
        help="broker.session.timeout.ms of the brokers, in seconds (Kafka's own: 9)",
    )
    args = parser.parse_args()
    about = machine()
    warm.main()
    with (
        tempfile.TemporaryDirectory(prefix="sluice-brokers-") as folder,
        kafka_cluster(Path(folder) / "kafka", session_s=args.session_s) as cluster,
    ):
        found = lose_each(cluster, Path(folder) / "world", rate=args.rate, down_s=args.down_s)
    rows = [
        row("authorizations a second, half at each entrypoint", "1/s",
            (found.sent + found.heard) / found.seconds),
        row("decisions missing", "", found.missing, target="0"),
        row("authorizations decided twice", "", found.twice, target="0"),
        row("states that are not what the log makes", "", found.wrong_states, target="0"),
        row("services that ended", "", len(found.ended), target="0"),
        row("longest without a decision of the stream processor", "s",
            max(one.stream_silent_s for one in found.brokers)),
        row("longest that a caller of the sync API waited, its repeats included", "s",
            found.waited_s),
        row("tries of the sync API that were refused", "", found.refused),
    ]  # fmt: skip
    notes = [
        f"{BROKERS} brokers of one machine, three copies of each record, two of them insisted on; "
        f"broker.session.timeout.ms {args.session_s * 1000:.0f}, each away for {args.down_s:g} s",
        f"{found.sent:,} sent to authorizations.v1, {found.heard:,} answered by the sync API, "
        f"{found.archived:,} rows in the archive, in {found.seconds:.0f} s",
        *(
            f"broker {one.number}: no decision of the stream processor for "
            f"{one.stream_silent_s:.1f} s; all copies in sync {one.whole_after_s:.1f} s after "
            "its start"
            for one in found.brokers
        ),
    ]
    command = f".venv/bin/python -m benchmarks.broker_loss --rate {args.rate:g} "
    command += f"--down-s {args.down_s:g} --session-s {args.session_s:g}"
    made = result("broker_loss", command, about, rows, notes)
    save(args.out, made)
    print(table(made))
    return 0 if _held(found) else 1


def _held(found: Outcome) -> bool:
    wrong = found.missing or found.twice or found.wrong_states or found.ended
    return not wrong and "accounting: balances" in found.log


if __name__ == "__main__":
    raise SystemExit(main())
