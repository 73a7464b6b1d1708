"""Try a candidate against the champion on the same days: accept it, or refuse it with the reason.

sluice gate --run RUN --dataset DIR --archive DIR --champion RELEASE \\
        --key FILE --out DIR
sluice gate --run RUN --dataset DIR --archive DIR --no-champion \\
        --key FILE --out DIR

The set's features are held against the archive that it was built from (default: archiver.root of
the settings, if its rows are there). Writes verdict.json with every check; for a candidate that is
accepted also certificate.json, signed by the key, which `sluice release pack` puts into the
release. Exit 1 for one that is refused. What may be asked of a candidate, and what refuses it, is
in docs/reference/gate.md.
"""

from __future__ import annotations

from pathlib import Path

import click

from sluice.application.judging.run import BETTER
from sluice.bootstrap import verbs
from sluice.bootstrap.archive_root import archive_named
from sluice.cli.judge import DEFAULT_TRUST
from sluice.cli.output import say
from sluice.cli.parameters import COPY, FOLDER, archive_option
from sluice.cli.text import help_of
from sluice.settings import load


@click.command(help=help_of(__doc__))
@click.option("--dataset", type=COPY, required=True, metavar="DIR", help="The run's.")
@click.option("--run", type=FOLDER, required=True, metavar="RUN", help="Of training.")
@click.option(
    "--candidate", default=BETTER, show_default=True, metavar="NAME",
    help="Of the run; better: the student, unless LightGBM is worth more.",
)  # fmt: skip
@click.option(
    "--int8", metavar="NAME", help="Its eight-bit variant (default: NAME_int8, if the run has it)."
)
@click.option("--no-int8", is_flag=True, help="Release it in single precision alone.")
@click.option(
    "--champion",
    type=COPY,
    metavar="RELEASE",
    help="What is in force: a release, or a folder of releases, whose champion it is.",
)
@click.option("--no-champion", is_flag=True, help="Nothing is in force that was made for this.")
@click.option(
    "--releases", type=COPY, metavar="DIR",
    help="Earlier ones, so that none is replayed (default: the folder of the champion).",
)  # fmt: skip
@archive_option
@click.option("--limits", type=FOLDER, metavar="FILE", help="YAML: docs/reference/gate.md.")
@click.option("--costs", type=FOLDER, metavar="FILE", help="YAML: docs/reference/judgement.md.")
@click.option("--key", type=FOLDER, metavar="FILE", help="Signs the certificate.")
@click.option("--out", type=FOLDER, required=True, metavar="DIR", help="For the two files.")
@click.option(
    "--trust", type=FOLDER, default=DEFAULT_TRUST, show_default=True, metavar="KEYS",
    help="Who may have signed the champion.",
)  # fmt: skip
def command(
    dataset: Path,
    run: Path,
    candidate: str,
    int8: str | None,
    no_int8: bool,
    champion: Path | None,
    no_champion: bool,
    releases: Path | None,
    archive: str | None,
    limits: Path | None,
    costs: Path | None,
    key: Path | None,
    out: Path,
    trust: Path,
) -> int:
    """Returns 0 if it is accepted, 1 if not. Raises Rejected, Corrupt, Misconfigured."""
    from sluice.bootstrap.judging import gate_candidate  # noqa: PLC0415 - loads numba

    if (champion is None) != no_champion:
        raise click.UsageError("either --champion RELEASE or --no-champion")
    if int8 and no_int8:
        raise click.UsageError("either --int8 NAME or --no-int8")
    if champion is not None:
        champion = verbs.champion_in(champion, trust)
    found = gate_candidate(
        dataset,
        run,
        out,
        name=candidate,
        int8=int8,
        with_int8=not no_int8,
        champion=champion,
        releases=releases or (champion.resolve().parent if champion else None),
        archive=archive_named(load()[0], archive),
        archive_wanted=archive is not None,
        limits=limits,
        costs=costs,
        trust=trust,
        key=key,
    )
    if found.beside:
        say(found.beside, err=True)
    for check in found.verdict.checks:
        say(f"{'ok  ' if check.passed else 'BAD '}{check.reason:<16} {check.found}")
    if not found.verdict.accepted:
        say(f"refused: {', '.join(found.verdict.reasons)}; {found.path}", err=True)
        return 1
    if found.certificate is None:
        say(f"accepted; {found.path}, not signed: --key FILE", err=True)
        return 0
    say(
        f"accepted; {found.certificate}; next: sluice release pack RELEASE --run {run} "
        f"--dataset {dataset} --certificate {found.certificate}",
        err=True,
    )
    return 0
