"""Send reports of fraud to the labeller, and show how late they become known.

sluice labels send tc40.csv --url http://labeller:8081 --set source=tc40
sluice labels maturity --archive var/archive
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from sluice.bootstrap import verbs
from sluice.bootstrap.archive_root import archive_named
from sluice.cli.bad_rows import FIRST
from sluice.cli.output import say, say_json
from sluice.cli.parameters import FOLDER, archive_option
from sluice.cli.progress import Progress
from sluice.cli.signals import on_stop
from sluice.cli.text import help_of
from sluice.settings import load

if TYPE_CHECKING:
    from sluice.application.label_maturity import Maturity
    from sluice.application.send_reports import Sent

COMPLETE_DAYS = 60


@click.group(help=help_of(__doc__))
def command() -> None:
    """Two actions."""


def _pairs(
    _context: click.Context, _option: click.Parameter, given: Sequence[str]
) -> dict[str, str]:
    told: dict[str, str] = {}
    for one in given:
        field, found, text = one.partition("=")
        if not found or not field or not text or field in told:
            raise click.BadParameter(f"{one}: write FIELD=TEXT, each field once")
        told[field] = text
    return told


@command.command(
    "send",
    help="Send the rows of a CSV or parquet file, each with its source's own report_id, so that a "
    "file may be sent again. Columns are named like the fields of "
    "contracts/reports.v1.schema.json, or told.",
)
@click.argument("file", type=FOLDER)
@click.option("--url", required=True, metavar="URL", help="Of the labeller, without a path.")
@click.option(
    "--column",
    "columns",
    multiple=True,
    callback=_pairs,
    metavar="FIELD=COLUMN",
    help="Where a field stands, if not in a column of its name.",
)
@click.option(
    "--set",
    "constants",
    multiple=True,
    callback=_pairs,
    metavar="FIELD=VALUE",
    help="What is the same in every row.",
)
@click.option("--token-file", type=FOLDER, metavar="FILE", help="A bearer token.")
@click.option("--ca-file", default="", metavar="FILE", help="CA of the labeller's certificate.")
@click.option("--cert-file", default="", metavar="FILE", help="Our certificate, PEM.")
@click.option("--key-file", default="", metavar="FILE", help="Its private key, PEM.")
@click.option(
    "--from-line",
    type=click.IntRange(min=1),
    default=1,
    metavar="N",
    help="Start there, to resume (default: 1).",
)
@click.option(
    "--allow-bad",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Exit 0 with up to N rows that become no label (default: 0).",
)
def send(
    file: Path,
    url: str,
    columns: dict[str, str],
    constants: dict[str, str],
    token_file: Path | None,
    ca_file: str,
    cert_file: str,
    key_file: str,
    from_line: int,
    allow_bad: int,
) -> int:
    """Returns 0, or 1 with more bad rows than allowed, a labeller that stays away, or an
    interruption."""
    asked, began, shown = threading.Event(), time.monotonic(), 0

    def bad(where: str, code: str, why: str) -> None:
        nonlocal shown
        shown += 1
        if shown <= FIRST:
            say(f"{where}: {code}: {why}", err=True)

    with Progress() as line:

        def progress(sent: Sent) -> None:
            line.show(f"{sent.rows:,} rows, {sent.refused.total():,} refused")

        sending = verbs.sending_reports(
            file,
            url,
            columns=columns,
            constants=constants,
            token_file=token_file,
            tls_files=(ca_file, cert_file, key_file),
            from_line=from_line,
            bad=bad,
            progress=progress,
            stopping=asked.is_set,
        )
        with on_stop(asked.set):
            sent = sending()
    if shown > FIRST:
        say(f"{shown - FIRST:,} more rows became no label", err=True)
    counts = [*sorted(sent.outcomes.items()), *sorted(sent.refused.items())]
    said = ", ".join(f"{number:,} {what}" for what, number in counts)
    say(f"{sent.rows:,} rows: {said or 'nothing'}; {time.monotonic() - began:.1f} s")
    if sent.failure is not None or asked.is_set():
        say(f"sluice labels send: {sent.failure or 'stopped'}", err=True)
        say(f"go on with --from-line {max(sent.resume_at, from_line)}", err=True)
        return 1
    return 1 if sent.refused.total() > allow_bad else 0


@command.command(
    "maturity",
    help="Of the frauds reported, the share that was known after so many days, by channel and "
    "source: what a label delay costs. From the archive's labels.",
)
@archive_option
@click.option(
    "--complete-after",
    "complete_days",
    type=click.IntRange(min=1, max=400),
    default=COMPLETE_DAYS,
    show_default=True,
    metavar="DAYS",
    help="Age from which an authorization is old enough to tell; younger ones are left out.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def maturity(archive: str | None, complete_days: int, as_json: bool) -> int:
    """Returns 0, or 1 if there is no report to count."""
    root = archive_named(load()[0], archive)
    rows = verbs.label_maturity(root, complete_days)
    if not rows:
        say(
            f"sluice labels maturity: {root} holds no report of an authorization that is "
            f"{complete_days} days older than its newest; take a smaller --complete-after",
            err=True,
        )
        return 1
    if as_json:
        say_json(msgspec.json.format(msgspec.json.encode(rows), indent=2).decode())
        return 0
    for line in _table(rows):
        say(line)
    return 0


def _table(rows: Sequence[Maturity]) -> Iterator[str]:
    days = [n for n, _ in rows[0].known]
    width = max(len("source"), *(len(row.source) for row in rows))
    heads = "".join(f"{f'{n} d':>9}" for n in days)
    yield f"{'channel':<12} {'source':<{width}} {'reports':>9} {'median d':>9}{heads}"
    for row in rows:
        shares = "".join(f"{100 * share:>8.1f}%" for _, share in row.known)
        yield (
            f"{row.channel:<12} {row.source:<{width}} {row.reports:>9,} "
            f"{row.median_days:>9.1f}{shares}"
        )
