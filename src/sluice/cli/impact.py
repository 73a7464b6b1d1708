"""What a policy pack or a release would have said of the last days: a page for a pull request.

Every decision of the archive that counts is judged again over the features that it was served.
Printed is Markdown: decisions flipped, money, the review queue a day, the worst segment; --json
writes the same for a program. Money is in the reference currency, fraud is what is known by now.

Exit status: 0, or 3 where --flips-max-ppm is given and more decisions would have another outcome.

  sluice impact --policy policies/next --days 7
  sluice impact --release releases/candidate --days 7 --json impact.json
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from sluice.bootstrap import verbs
from sluice.bootstrap.archive_root import archive_named
from sluice.cli.output import say, write
from sluice.cli.parameters import COPY, FOLDER, archive_option, instant
from sluice.cli.progress import Progress
from sluice.cli.text import help_of
from sluice.domain.clock import to_datetime
from sluice.domain.records.money import Money
from sluice.settings import load

if TYPE_CHECKING:
    from sluice.application.impact import Impact, Segment

OVER = 3
MILLION = 1_000_000
DAYS_TOLD = 31
"""Of the review queue; the JSON has all."""


@click.command(help=help_of(__doc__))
@archive_option
@click.option(
    "--policy", type=FOLDER, metavar="DIR", help="A policy pack (default: decider.policy_dir)."
)
@click.option(
    "--release", type=COPY, metavar="DIR", help="Score with this release (default: as recorded)."
)
@click.option("--trust", type=FOLDER, metavar="KEYS", help="Default: decider.trust_dir.")
@click.option("--days", type=click.IntRange(1, 3660), default=7, show_default=True, metavar="N")
@click.option(
    "--until", type=instant, metavar="TIME", help="Default: the newest decision of the archive."
)
@click.option("--json", "json_file", type=FOLDER, metavar="FILE", help="The same as JSON.")
@click.option(
    "--flips-max-ppm",
    type=click.IntRange(0, MILLION),
    metavar="N",
    help="Exit 3 if more decisions in a million would have another outcome.",
)
def command(
    archive: str | None,
    policy: Path | None,
    release: Path | None,
    trust: Path | None,
    days: int,
    until: int | None,
    json_file: Path | None,
    flips_max_ppm: int | None,
) -> int:  # fmt: skip
    """Returns 0 or 3. Raises what cannot be read."""
    settings, _ = load()
    decider = settings.decider
    with Progress() as line:
        found = verbs.impact(
            archive_named(settings, archive),
            policy or Path(decider.policy_dir),
            release,
            trust or Path(decider.trust_dir),
            days=days,
            until=until,
            progress=lambda rows: line.show(f"{rows:,} decisions"),
        )
    if json_file is not None:
        write(json_file, msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    for text in markdown(found):
        say(text)
    if flips_max_ppm is not None and found.flipped * MILLION > flips_max_ppm * found.decisions:
        return OVER
    return 0


def markdown(found: Impact) -> Iterator[str]:
    """A report as Markdown."""

    def money(minor: int) -> str:
        return str(Money(minor, found.currency))

    by = found.policy + (f" with {found.release}" if found.release else "")
    yield f"## Impact of {by}"
    yield ""
    yield (
        f"{found.decisions:,} decisions of {to_datetime(found.since):%Y-%m-%d %H:%M} to "
        f"{to_datetime(found.until):%Y-%m-%d %H:%M} UTC, decided by {', '.join(found.before)}. "
        f"**{found.flipped:,} would have another outcome** ({found.flipped_per_100k:,.1f} in "
        f"100,000): {found.stricter:,} stricter, {found.milder:,} milder."
    )
    yield ""
    was, now = found.was, found.would_be
    yield "| | was | would be | change |"
    yield "|---|---:|---:|---:|"
    for name in was.outcomes:
        yield _row(name, was.outcomes[name], now.outcomes[name])
    yield _row("reviews a day", was.queue_a_day, now.queue_a_day)
    yield _row("reviews on the worst day", was.queue_max, now.queue_max)
    yield _row("known frauds stopped", was.frauds_stopped, now.frauds_stopped)
    yield _row("stopped, not known as fraud", was.genuine_stopped, now.genuine_stopped)
    for name, before, after in (
        ("fraud stopped", was.fraud_stopped_minor, now.fraud_stopped_minor),
        ("fraud missed", was.fraud_missed_minor, now.fraud_missed_minor),
        ("declined in all", was.declined_minor, now.declined_minor),
        ("money of those stopped", was.genuine_stopped_minor, now.genuine_stopped_minor),
    ):
        sign = "+" if after > before else ""
        yield f"| {name} | {money(before)} | {money(after)} | {sign}{money(after - before)} |"
    yield ""
    if found.flips:
        yield "| from | to | decisions | money | known frauds | of them |"
        yield "|---|---|---:|---:|---:|---:|"
        for flip in found.flips:
            yield (
                f"| {flip.was} | {flip.becomes} | {flip.decisions:,} | {money(flip.amount_minor)} "
                f"| {flip.frauds:,} | {money(flip.fraud_minor)} |"
            )
        yield ""
    if found.worst is not None:
        yield f"Worst segment: {_segment(found.worst)}, {money(found.worst.flipped_minor)} flipped."
        yield ""
        for segment in found.segments[1:]:
            if segment.stricter or segment.milder:
                yield f"- {_segment(segment)}"
        yield ""
    if len(found.queue) > 1:
        yield "| day (UTC) | reviews | would be |"
        yield "|---|---:|---:|"
        for day, before, after in found.queue[-DAYS_TOLD:]:
            yield f"| {day} | {before:,} | {after:,} |"
        yield ""
    yield from _notes(found)


def _row(name: str, was: float, now: float) -> str:
    return f"| {name} | {was:,} | {now:,} | {round(now - was, 1):+,} |"


def _segment(one: Segment) -> str:
    return (
        f"{one.by.replace('_', ' ')} {one.value}, {one.stricter:,} of {one.decisions:,} stricter "
        f"({one.stricter_ppm / 10_000:.2f} %), {one.milder:,} milder, declines "
        f"{one.declines_before:,} to {one.declines_after:,}"
    )


def _notes(found: Impact) -> Iterator[str]:
    """What the figures do not say."""
    yield (
        f"Fraud is what {found.frauds_known:,} labels say by now; of what was declined nobody "
        "hears. Amounts are as they were converted. Features are as they were served: what other "
        "outcomes would have done to later ones is not in here."
    )
    if found.without_score:
        yield f"{found.without_score:,} decisions had no score, and have none here."
    if found.left_out:
        yield (
            f"In {found.left_out:,} the breaker had left rules out; here they fire. Some flips are "
            "its doing."
        )
    if found.passed_over:
        yield f"Passed over: {found.passed_over:,} decisions with another catalogue's features."
