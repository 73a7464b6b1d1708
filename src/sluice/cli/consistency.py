"""Recompute served vectors from the archive and compare every bit: the consistency check, once.

Exit status: 0 all that was compared is equal, 1 some vector differs, 2 fewer could be compared than
--at-least. Decisions served from events that the archive does not hold yet are reported, not
compared: stop the traffic and let the archiver catch up first. `services.consistency.main` does
this all the time.

  sluice consistency --archive var/demo/archive --newest 100000 --report parity.json
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import msgspec

from sluice.adapters.parquet.samples import MILLION, ArchiveSampleSource
from sluice.application.consistency import Report, check, newest
from sluice.settings import load

FEATURES_SHOWN = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--archive", type=Path, help="folder (default: setting archiver.root)")
    parser.add_argument(
        "--sample-ppm", type=int, default=MILLION, help="share of all decisions (default: all)"
    )
    parser.add_argument(
        "--newest", type=int, default=10_000, help="of these the newest so many (default: 10,000)"
    )
    parser.add_argument(
        "--at-least", type=int, default=1, help="compared, or the verdict is 2 (default: 1)"
    )
    parser.add_argument("--report", type=Path, help="write what was found as JSON")


def run(args: argparse.Namespace) -> int:
    """Returns the verdict: 0, 1 or 2."""
    sample_source = ArchiveSampleSource(args.archive or Path(load()[0].archiver.root))
    ends = sample_source.ends()
    tally, _ = check(sample_source, newest(sample_source, args.sample_ppm, args.newest, ends), ends)
    report = tally.report()
    if args.report:
        args.report.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    for line in lines(report):
        print(line)
    if report.differing:
        return 1
    return 2 if report.compared < args.at_least else 0


def lines(report: Report) -> Iterator[str]:
    """A report for a terminal."""
    parity = "unknown" if report.parity is None else f"{_percent(report):.4f} %"
    entrypoints = ", ".join(
        f"{entrypoint} {n:,}" for entrypoint, n in sorted(report.entrypoints.items())
    )
    yield f"parity        {parity} of {report.compared:,} vectors ({entrypoints})"
    for name, count in (
        ("differ", report.differing),
        ("wait for the archive", report.waiting),
        ("of another catalogue", report.other_catalogue),
        ("with too many events", report.too_large),
    ):
        if count:
            yield f"              {count:,} {name}"
    for name, count in list(report.features.items())[:FEATURES_SHOWN]:
        yield f"  {count:>9,}  {name}"
    for example in report.examples:
        yield f"  sluice explain {example.authorization_id}    {example.place}"
    levels = ", ".join(f"{level} {n:,}" for level, n in report.levels.items())
    yield f"degradation levels         {levels}"
    for view, fresh in report.freshness.items():
        yield (
            f"{view:<13} behind p50 {fresh.behind_ms_p50:,.1f} ms, p99 {fresh.behind_ms_p99:,.1f} "
            f"ms, max {fresh.behind_ms_max:,.1f} ms; {fresh.behind:,} behind, {fresh.new:,} new, "
            f"{fresh.missing:,} missing"
        )
    pending = report.pending
    yield (
        f"pending       {pending.decisions:,} decisions had {pending.entries:,} entries; "
        f"{pending.mattered:,} would have had another vector without"
    )


def _percent(report: Report) -> float:
    """Rounded down: 100 means all."""
    return 1_000_000 * report.equal // report.compared / 10_000
