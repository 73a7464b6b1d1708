"""Answer a customer, a card scheme, a supervisor or an examiner from the compliance log.

sluice report explain-to-customer ID --grant FILE ...
sluice report chargeback ID ...
sluice report model-change RELEASE ...
sluice report erasure-receipt CASE ...
sluice report psd2 --quarter 2026Q3 ...
  each with --log DIR --key KEY --out NEW

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
from sluice.bootstrap import verbs
from sluice.bootstrap.archive_root import archive_named
from sluice.cli.output import say
from sluice.cli.parameters import COPY, FOLDER, archive_option
from sluice.cli.progress import Progress
from sluice.cli.replay import library_options
from sluice.cli.text import help_of
from sluice.cli.trusting import keys_of, order_of, trusting
from sluice.settings import load

if TYPE_CHECKING:
    from sluice.application.reports.customer import Audience
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


@command.command("explain-to-customer", help=help_of(
    """How a payment was decided, for the one who paid (GDPR 15(1)(h)).

    Which outcome, whether by automated means alone, the procedure, the reasons in plain words, the
    values used, and what would have led to a milder outcome. That needs the archive, the policy and
    the release that decided. What is sealed is opened by a grant (`sluice log grant`), and that is
    written down.

    With --for authority the score, the thresholds and exact values are in it, which are trade
    secrets.
    """
))  # fmt: skip
@click.argument("authorization_id", metavar="ID")
@click.option("--grant", type=FOLDER, required=True, metavar="FILE", help="As granted.")
@click.option(
    "--for",
    "audience",
    type=click.Choice(["customer", "authority"]),
    default="customer",
    show_default=True,
    help="Who will read it.",
)
@archive_option
@library_options
@reporting
def explain_to_customer(
    logs: Sequence[Log],
    told: Told,
    *,
    authorization_id: str,
    grant: Path,
    audience: Audience,
    archive: str | None,
    policies: tuple[Path, ...],
    releases: tuple[Path, ...],
    trust: Path | None,
) -> Pack:  # fmt: skip
    """See :func:`sluice.application.reports.customer.explain_to_customer`."""
    from sluice.bootstrap.reports import explanation  # noqa: PLC0415

    settings, _ = load()
    return explanation(
        settings,
        logs,
        told,
        authorization_id,
        grant=grant,
        audience=audience,
        archive=archive_named(settings, archive),
        library=verbs.library(settings, policies, releases, trust),
        warn=lambda why: say(f"sluice report: {why}", err=True),
    )


@command.command("chargeback", help=help_of(
    """What to show when a payment is disputed: the decision, what was known then, how 3-D Secure
    ended, what was reported since, and a proof of each record.

    With --grant also what is sealed: amount as asked, merchant, terminal, and the figures served.
    """
))  # fmt: skip
@click.argument("authorization_id", metavar="ID")
@click.option("--grant", type=FOLDER, metavar="FILE", help="To open what is sealed, as granted.")
@reporting
def chargeback(
    logs: Sequence[Log], told: Told, *, authorization_id: str, grant: Path | None
) -> Pack:
    """See :func:`sluice.application.reports.chargeback.chargeback`."""
    from sluice.bootstrap.reports import disputed  # noqa: PLC0415

    return disputed(load()[0], logs, told, authorization_id, grant=grant)


@command.command("model-change", help=help_of(
    """A release of a model: what it is, who signed it, what the gate asked, what changed against
    the release before, how it was brought in, and what it decided.

    Manifest, card and certificate come from the folder of the release (--releases).
    """
))  # fmt: skip
@click.argument("release", metavar="RELEASE")
@click.option(
    "--before",
    metavar="RELEASE",
    help="Compare with this one (default: the champion that its activation took the place of).",
)
@click.option(
    "--releases",
    type=COPY,
    multiple=True,
    metavar="DIR",
    help="A release, or a folder of them; may be given again (default: decider.release_dir).",
)
@click.option("--trust", type=FOLDER, metavar="KEYS", help="Default: decider.trust_dir.")
@reporting
def model_change(
    logs: Sequence[Log],
    told: Told,
    *,
    release: str,
    before: str | None,
    releases: tuple[Path, ...],
    trust: Path | None,
) -> Pack:  # fmt: skip
    """See :func:`sluice.application.reports.model_change.model_change`."""
    from sluice.bootstrap.reports import changed_model  # noqa: PLC0415

    settings, _ = load()
    return changed_model(
        logs,
        told,
        release,
        before=before,
        releases=releases or [verbs.releases_of(settings)],
        trusted=verbs.library(settings, (), (), trust).trusted,
    )


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
