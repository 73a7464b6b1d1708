"""Train on a dataset: LightGBM, a teacher, a student of it, and the student in int8.

  sluice train --dataset DIR --out RUN
  sluice train --dataset DIR --out RUN --time-box 20m --seed 3

DIR is what sluice dataset build wrote, from any history. RUN is a new folder, or one of the same
order that was ended before: it goes on from its last checkpoint. It gets the candidates as ONNX,
their scores for every split, and run.json, which is written last. The search for parameters looks
at the validation split alone and ends after --time-box, or after --trials of each kind: with
--like, nothing is searched, and the same dataset, code and seed give the same graphs. MLflow gets
parameters, curves and files; with --tracking none it gets nothing.

On several GPUs: torchrun --no-python --nproc-per-node N sluice train --dataset DIR --out RUN
"""

from __future__ import annotations

import re
from pathlib import Path

import click
from sluice.cli.output import say
from sluice.cli.parameters import COPY, FOLDER
from sluice.cli.text import help_of

from sluice_models.verbs.options import tracking_option

_SPAN = re.compile(r"(\d{1,5})([smh])")
_UNITS_S = {"s": 1, "m": 60, "h": 3_600}


def span(text: str) -> int:
    """Seconds of a length of time.

    >>> span("5m")
    300
    """
    found = _SPAN.fullmatch(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no length of time: 90s, 5m, 2h")
    return int(found[1]) * _UNITS_S[found[2]]


@click.command(help=help_of(__doc__))
@click.option("--dataset", type=COPY, required=True, metavar="DIR", help="What was built.")
@click.option("--out", type=FOLDER, required=True, metavar="RUN", help="A new folder.")
@click.option(
    "--time-box",
    "time_box_s",
    type=span,
    default="5m",
    show_default=True,
    metavar="T",
    help="Of the search for parameters, not of what follows.",
)
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    default=12,
    show_default=True,
    metavar="N",
    help="At most, of each kind of model.",
)
@click.option("--seed", type=int, metavar="N", help="Of all draws (default: the dataset's).")
@click.option("--like", type=FOLDER, metavar="RUN", help="Take its parameters, search nothing.")
@tracking_option
def command(
    dataset: Path,
    out: Path,
    time_box_s: int,
    trials: int,
    seed: int | None,
    like: Path | None,
    tracking: str,
) -> int:
    """Train, print each candidate. Raises what a dataset lacks; then no run.json is there."""
    # Loaded for this alone: PyTorch and LightGBM take seconds.
    from sluice_models import together  # noqa: PLC0415
    from sluice_models.pipeline import Order, train  # noqa: PLC0415

    order = Order(
        dataset=dataset,
        out=out,
        time_box_s=time_box_s,
        trials=trials,
        seed=seed,
        like=like,
        tracking="" if tracking == "none" else tracking,
    )
    with together.met():
        run = train(order)
        if together.number() > 0:
            return 0
    for one in run.candidates:
        alone = one.timings[0].median_us
        say(
            f"{one.name:<13} AP {one.validation['average_precision']:.3f} on validation, "
            f"{alone:.1f} us alone, {one.bytes:,} bytes"
        )
    say(str(out / "run.json"))
    return 0
