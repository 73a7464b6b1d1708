"""Compare the traffic of a time with what a release was made for: PSI, segments, worth.

Rows come from the archive, live decisions and backfilled history alike, and are scored again by the
release. Each input and the score are compared with the release's reference by the population
stability index (PSI), each channel and region with the same of the reference. Where labels have
matured the scores are measured as when the release was made.

Exit status: 0 as the release was made for, 3 drifted or out of its domain (the text and the JSON
say which, and why), 2 too few rows to say. With --again-after 4 where that is told already: a
report of the same name in a folder beside the report's own found the same of the same release, and
is not that old.

  sluice drift --from 2026-11-01 --to 2026-11-08 --report drift.json
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from sluice.bootstrap import verbs
from sluice.bootstrap.archive_root import archive_named
from sluice.cli.dataset import span
from sluice.cli.output import say, write
from sluice.cli.parameters import COPY, FOLDER, archive_option, instant
from sluice.cli.progress import Progress
from sluice.cli.text import help_of
from sluice.domain.clock import SECOND_US, SystemClock, to_datetime
from sluice.settings import load

if TYPE_CHECKING:
    from sluice.application.drift import Report, SegmentDrift

INPUTS_SHOWN = 15
SEGMENT_INPUTS_SHOWN = 3
STATUS = {"as_made_for": 0, "drifted": 3, "out_of_domain": 3, "too_few": 2}
"""Not 1, which is any failure's: nobody retrains because a disk was away."""
DRIFTED = STATUS["drifted"]
TOLD = 4
"""It drifted, and an earlier report told so."""


@click.command(help=help_of(__doc__))
@archive_option
@click.option(
    "--release",
    type=COPY,
    metavar="DIR",
    help="A release, or a folder of releases for its champion (default: decider.release_dir).",
)
@click.option("--trust", type=FOLDER, metavar="KEYS", help="Default: decider.trust_dir.")
@click.option("--from", "since", type=instant, metavar="TIME", help="Default: 7 days before --to.")
@click.option("--to", "until", type=instant, metavar="TIME", help="Default: now.")
@click.option(
    "--mature-after",
    type=span,
    default="30d",
    metavar="D",
    help="Age from which labels are taken to have come (default: 30d).",
)
@click.option("--as-of", type=instant, metavar="TIME", help="When that age is (default: now).")
@click.option("--report", type=FOLDER, metavar="FILE", help="Write what was found as JSON.")
@click.option(
    "--again-after",
    type=span,
    metavar="D",
    help="Tell the same of the same release once in that time.",
)
def command(
    archive: str | None,
    release: Path | None,
    trust: Path | None,
    since: int | None,
    until: int | None,
    mature_after: int,
    as_of: int | None,
    report: Path | None,
    again_after: int | None,
) -> int:
    """Returns 0, 2, 3 or 4. Raises what cannot be read."""
    if again_after is not None and report is None:
        raise click.UsageError("--again-after looks for earlier reports beside --report")
    settings, _ = load()
    now = SystemClock().now_us()
    to = now if until is None else until
    keys = trust or Path(settings.decider.trust_dir)
    champion = verbs.champion_in(release or verbs.releases_of(settings), keys)
    with Progress() as line:
        found = verbs.drift_report(
            settings,
            archive_named(settings, archive),
            champion,
            keys,
            since=to - 7 * 86_400 * SECOND_US if since is None else since,
            until=to,
            mature_before=(now if as_of is None else as_of) - mature_after * SECOND_US,
            progress=lambda rows: line.show(f"{rows:,} rows"),
        )
    status = STATUS[found.verdict]
    if report is not None:
        if again_after is not None and status == DRIFTED:
            found = verbs.told_before(found, report, again_after * SECOND_US)
        write(report, msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    for text in lines(found):
        say(text)
    return status if found.told_at is None else TOLD


def lines(found: Report) -> Iterator[str]:
    """A report for a terminal."""
    yield (
        f"{found.release}: {found.rows:,} rows of {to_datetime(found.since):%Y-%m-%d %H:%M} to "
        f"{to_datetime(found.until):%Y-%m-%d %H:%M} UTC, against {found.reference_rows:,} of its "
        f"{found.reference_split}"
    )
    yield f"{found.verdict.replace('_', ' ')}{''.join(f'; {why}' for why in found.why)}"
    if found.told_at is not None:
        yield f"told already by the report up to {to_datetime(found.told_at):%Y-%m-%d %H:%M} UTC"
    if found.other_catalogue:
        yield f"passed over: {found.other_catalogue:,} rows with another catalogue's features"
    yield (
        f"  {'':<34} {'PSI':>8} {'by chance':>10} {'inputs moved':>13} {'alerts':>8} "
        f"{'share':>8} {'was':>8}"
    )
    yield _row("all", found)
    for part in found.segments:
        alone = "" if part.reference_rows else " too few then: beside all, not judged"
        yield (
            _row(f"{part.by} {part.value}", part)
            + f" {part.share:>8.1%} {part.share_then:>8.1%}{alone}"
        )
        moved = ", ".join(f"{i.name} {i.psi:.2f}" for i in part.inputs[:SEGMENT_INPUTS_SHOWN])
        yield f"    {moved}"
    for name in found.missing_segments:
        yield f"  {name:<34} did not occur"
    yield "inputs, most shifted first"
    for each in found.inputs[:INPUTS_SHOWN]:
        yield f"  {each.name:<34} {each.psi:>8.2f}"
    worth = found.worth
    if worth is None:
        yield "worth         no labels have matured"
        return
    yield f"worth         {worth.rows:,} rows with mature labels, {worth.frauds:,} frauds"
    for name, now in worth.now.items():
        then = f"{worth.then[name]:>8.3f}" if name in worth.then else f"{'unknown':>8}"
        yield f"  {name:<34} {now:>8.3f}, when it was made {then}"


def _row(name: str, of: Report | SegmentDrift) -> str:
    return (
        f"  {name:<34} {of.score_psi:>8.2f} {of.score_psi_by_chance:>10.2f} "
        f"{of.inputs_shifted:>13.1%} {of.alerts_to_promised:>7.1f}x"
    )
