"""Answer a customer, a card scheme, a supervisor or an examiner from the compliance log.

sluice report erasure-receipt CASE --log DIR --key KEY --out NEW
sluice report psd2 --quarter 2026Q3 --log DIR --key KEY --out NEW

NEW is a folder that is made: report.html for people, report.json for programs
(contracts/report-document.v1.schema.json), the checkpoints that both rest on, and proofs. Every log
is verified first, up to its checkpoint; give all logs of a cell, each with its key, in one order.
Nothing is asked of the network.

Exit status: 0 it is made; 1 the log was tampered with, or the report is refused; 3 the log cannot
be verified, or tells nothing of what was asked; 64 wrong usage. But for 0 nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sluice.audit.notes import LOG
from sluice.cli.output import say
from sluice.cli.parameters import FOLDER
from sluice.cli.progress import Progress
from sluice.cli.text import help_of
from sluice.cli.trusting import keys_of, order_of, trusting
from sluice.settings import load

if TYPE_CHECKING:
    from sluice.application.reports.document import Pack
    from sluice.application.reports.evidence import Log
    from sluice.application.reports.evidence import Progress as Told

UNVERIFIABLE = 3


@click.group(help=help_of(__doc__))
def command() -> None:
    """One document each. Exit statuses are the group's."""


def reporting(make: Callable[..., Pack]) -> Callable[..., int]:
    """A verb of a function that makes a report: its options of logs, keys and the folder, and what
    is said where none can be made.

    make: takes the logs, what is told of the progress, and its own options by name.
    """

    @click.option(
        "--log",
        "folders",
        type=FOLDER,
        multiple=True,
        required=True,
        metavar="DIR",
        help="A log's folder, or a copy of it; again for further logs.",
    )
    @trusting
    @click.option(
        "--out", type=FOLDER, required=True, metavar="NEW", help="A folder that is not there yet."
    )
    @wraps(make)
    def run(
        *,
        folders: Sequence[Path],
        keys: Sequence[str],
        witnesses: Sequence[str],
        required: int,
        out: Path,
        **given: Any,
    ) -> int:  # fmt: skip
        from sluice.application.read_log import Unverifiable  # noqa: PLC0415
        from sluice.application.reports.evidence import Unfounded  # noqa: PLC0415
        from sluice.bootstrap import reports  # noqa: PLC0415

        order, trusted = order_of(witnesses, required), keys_of(keys, LOG, "--key")
        if len(trusted) != len(folders):
            raise click.UsageError(
                f"{len(folders)} logs, and {len(trusted)} keys of logs, in their order"
            )
        reports.check_new(out)
        try:
            with Progress() as line:
                pack = make(
                    reports.logs(folders, trusted, order),
                    lambda done, of: line.show(f"{done:,} of {of:,} entries", done, of),
                    **given,
                )
        except Unfounded as exc:
            verdict = exc.verdict
            say(f"sluice report: no report is made: {exc}", err=True)
            if verdict.first_bad is not None:
                say(f"first bad: entry {verdict.first_bad}", err=True)
            return verdict.status
        except Unverifiable as exc:
            say(f"sluice report: {exc}", err=True)
            return UNVERIFIABLE
        for path in reports.write_pack(out, pack):
            say(str(path))
        return 0

    return run


@command.command("erasure-receipt", help=help_of(
    """What was destroyed for a request, when and by whom; what stays, and why; and the proof.

    CASE is what was given to `sluice log erase --case`.
    """
))  # fmt: skip
@click.argument("case", metavar="CASE")
@click.option(
    "--ask-keystore", is_flag=True, help="Also ask the keystore of the settings for the keys."
)
@reporting
def erasure_receipt(logs: Sequence[Log], told: Told, *, case: str, ask_keystore: bool) -> Pack:
    """See :func:`sluice.application.reports.receipt.erasure_receipt`."""
    from sluice.bootstrap.reports import receipt  # noqa: PLC0415

    return receipt(load()[0], logs, told, case, look=ask_keystore)


@command.command("psd2", help=help_of(
    """A quarter's fraud rates, and exemptions from strong customer authentication.

    As articles 19 to 21 of Delegated Regulation (EU) 2018/389 ask for them.
    The logs need the quarter before as well, and the 90 days before that for the rolling rate;
    where they begin later the document says so. Give all logs of a cell: decisions and labels are
    spread over them.
    """
))  # fmt: skip
@click.option("--quarter", required=True, metavar="2026Q3", help="A calendar quarter, UTC.")
@click.option(
    "--tenant", "tenants", multiple=True, metavar="T",
    help="Only of it: the rate is of one payment service provider; may be given again.",
)  # fmt: skip
@reporting
def psd2(logs: Sequence[Log], told: Told, *, quarter: str, tenants: Sequence[str]) -> Pack:
    """See :func:`sluice.application.reports.psd2.psd2`."""
    from sluice.bootstrap import reports  # noqa: PLC0415

    return reports.quarter(logs, told, quarter, tenants)
