"""Judge models on the tests of a training set: one page for people, the same as JSON.

sluice judge --run RUN --dataset DIR --out DIR
sluice judge --release NAME=DIR --dataset DIR --out DIR

Writes judgement.json and report.html (docs/reference/judgement.md). Every candidate of a run is
judged by its scores; a run given again, of another seed, widens the intervals. A release is scored
here, so that what is in force can stand beside. Thresholds by cost come from the calibration split.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from sluice.cli.output import say
from sluice.cli.parameters import COPY, FOLDER
from sluice.cli.text import help_of

DEFAULT_TRUST = Path("policies/trust")


class _Named(click.ParamType[tuple[str, Path]]):
    """NAME=DIR, or DIR, which is named as its folder is."""

    name = "release"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Path]:
        """See :data:`sluice.cli.parameters.COPY`."""
        found = re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._ -]{0,40})=(.+)", value)
        name, folder = (found[1], found[2]) if found else (Path(value).name, value)
        return name, COPY.convert(folder, param, ctx)


@click.command(help=help_of(__doc__))
@click.option("--dataset", type=COPY, required=True, metavar="DIR", help="As it was built.")
@click.option(
    "--run", "runs", type=FOLDER, multiple=True, metavar="RUN", help="Of training; again for seeds."
)
@click.option(
    "--release",
    "releases",
    type=_Named(),
    multiple=True,
    metavar="NAME=DIR",
    help="To stand beside.",
)
@click.option("--out", type=FOLDER, required=True, metavar="DIR", help="For the two files.")
@click.option(
    "--leader", metavar="NAME",
    help="Whose segments and examples the page tells (default: the verdict's, else the student's).",
)  # fmt: skip
@click.option("--title", default="", metavar="TEXT", help="Of the page.")
@click.option(
    "--truth", type=FOLDER, metavar="FILE", help="A simulator's: figures by campaign, too."
)
@click.option("--policy", type=FOLDER, metavar="DIR", help="A pack: what it does with the scores.")
@click.option("--costs", type=FOLDER, metavar="FILE", help="YAML: docs/reference/judgement.md.")
@click.option(
    "--verdict", type=FOLDER, metavar="FILE", help="The gate's verdict.json, to head the page."
)
@click.option(
    "--trust", type=FOLDER, default=DEFAULT_TRUST, show_default=True, metavar="KEYS",
    help="Who may have signed a release.",
)  # fmt: skip
def command(
    dataset: Path,
    runs: tuple[Path, ...],
    releases: tuple[tuple[str, Path], ...],
    out: Path,
    leader: str | None,
    title: str,
    truth: Path | None,
    policy: Path | None,
    costs: Path | None,
    verdict: Path | None,
    trust: Path,
) -> int:
    """Returns 0. Raises Rejected, Corrupt, Misconfigured."""
    from sluice.bootstrap.judging import (  # noqa: PLC0415 - loads numba
        JUDGEMENT,
        REPORT,
        Sources,
        judge_models,
    )

    found = judge_models(
        dataset,
        Sources(runs, dict(releases)),
        out,
        title=title,
        leader=leader,
        truth=truth,
        policy=policy,
        costs=costs,
        trust=trust,
        verdict=verdict,
        say=lambda line: say(line, err=True),
    )
    for model in found.models:
        told = [
            f"{name} {figure.mean:.3f}"
            for name, short in _SAID.items()
            if (figure := model.naive[short]).mean is not None
        ]
        say(f"{model.name:<16} {', '.join(told)}")
    say(f"{out / REPORT}, {out / JUDGEMENT}")
    return 0


_SAID = {
    "AUC": "auc",
    "AP": "average_precision",
    "CP@100 (Handbook)": "card_precision_100_handbook",
    "expected:actual": "expected_to_actual",
}
