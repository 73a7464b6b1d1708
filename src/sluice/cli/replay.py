"""Judge a decision again by what it was made from, and as it would have been.

Vector, score, outcome and reasons are recomputed from the archive by the states, the release and
the policy that the decision names, and must be the same bits. With --set, --policy or --release it
is told what would have been said instead, with --flips which single changes would have led to
another outcome. --random N replays so many decisions drawn from the archive.

Exit status: 0 the same bits, 1 not, 2 fewer than asked could be replayed, 3 it cannot be replayed
here (the text says why).

  sluice replay ID
  sluice replay ID --set amount=19.99 --flips
  sluice replay ID --policy policies/next
  sluice replay --random 1000
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from sluice.bootstrap import verbs
from sluice.bootstrap.archive_root import archive_named
from sluice.cli.output import say, say_json
from sluice.cli.parameters import COPY, FOLDER, archive_option
from sluice.cli.text import help_of
from sluice.errors import Rejected
from sluice.settings import load

if TYPE_CHECKING:
    from sluice.application.consistency import Report
    from sluice.application.what_if import Counterfactual, Replayed, Verdict

UNVERIFIABLE = 3
DIFFERENCES_SHOWN = 20


def library_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--policies, --releases and --trust: where what once decided lies."""
    for option in (
        click.option("--trust", type=FOLDER, metavar="KEYS", help="Default: decider.trust_dir."),
        click.option(
            "--releases", type=COPY, multiple=True, metavar="DIR",
            help="A release, or a folder of them; may be given again "
            "(default: decider.release_dir).",
        ),
        click.option(
            "--policies", type=FOLDER, multiple=True, metavar="DIR",
            help="A policy pack, or a folder of them, among which those that decided are found by "
            "digest; may be given again (default: decider.policy_dir).",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


@click.command(help=help_of(__doc__))
@click.argument("authorization_id", required=False)
@archive_option
@library_options
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="NAME=VALUE",
    help="Judge it with another amount, field or feature; may be given again.",
)
@click.option("--policy", type=FOLDER, metavar="DIR", help="Judge it by this policy pack.")
@click.option("--release", type=COPY, metavar="DIR", help="Score it with this release.")
@click.option("--flips", is_flag=True, help="The smallest single changes that flip the outcome.")
@click.option(
    "--random",
    "count",
    type=click.IntRange(1, 1_000_000),
    metavar="N",
    help="Replay N decisions drawn from the archive.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the drawing.")
@click.option("--json", "as_json", is_flag=True, help="What was found, for a program.")
def command(
    authorization_id: str | None,
    archive: str | None,
    policies: tuple[Path, ...],
    releases: tuple[Path, ...],
    trust: Path | None,
    changes: tuple[str, ...],
    policy: Path | None,
    release: Path | None,
    flips: bool,
    count: int | None,
    seed: int,
    as_json: bool,
) -> int:  # fmt: skip
    """Returns 0, 1, 2 or 3. Raises Misconfigured."""
    settings, _ = load()
    root = archive_named(settings, archive)
    library = verbs.library(settings, policies, releases, trust)
    if (authorization_id is None) == (count is None):
        raise click.UsageError("name an authorization, or --random N")
    if count is not None:
        if changes or policy or release or flips:
            raise click.UsageError("--set, --policy, --release and --flips are of one decision")
        report, status = verbs.replay_sample(root, library, count, seed)
        if as_json:
            say_json(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
        else:
            for line in sample_lines(report):
                say(line)
        return status
    assert authorization_id is not None
    try:
        found = verbs.replay_one(
            root,
            library,
            authorization_id,
            changes=changes,
            policy=policy,
            release=release,
            flips=flips,
        )
    except Rejected as error:
        say(f"sluice replay: {authorization_id} cannot be replayed: {error}", err=True)
        return UNVERIFIABLE
    if found is None:
        say(
            f"sluice replay: no decision of {authorization_id} in {root}; "
            "the archiver writes with a delay of up to archiver.roll_s",
            err=True,
        )
        return UNVERIFIABLE
    if as_json:
        say_json(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        for line in lines(found):
            say(line)
    return 0 if found.result == "equal" else 1 if found.result == "differing" else UNVERIFIABLE


def lines(found: Replayed) -> Iterator[str]:
    """One replay for a terminal."""
    yield f"authorization  {found.authorization_id}"
    yield f"recorded       {found.place}"
    yield f"record         sha256 {found.sha256}"
    yield f"catalogue      {found.catalogue}"
    yield f"release        {found.release or 'none'}"
    yield f"policy         {found.policy}"
    if found.result == "equal":
        yield (
            f"replayed       the same bits: {found.features} features, "
            f"score {_score(found.score_ppm)}, {found.outcome}, "
            f"reasons {', '.join(found.reasons) or 'none'}"
        )
    elif found.result == "differing":
        yield f"replayed       NOT the same: {len(found.differences)} fields differ"
        for name, (was, now) in list(found.differences.items())[:DIFFERENCES_SHOWN]:
            yield f"  {name:<34} recorded {was}, recomputed {now}"
    else:
        yield f"replayed       it cannot be: {found.why}"
    if found.counterfactual is not None:
        yield ""
        yield from counterfactual_lines(found.counterfactual)


def counterfactual_lines(told: Counterfactual) -> Iterator[str]:
    """What would have been, for a terminal."""
    yield f"was            {_verdict(told.was)}"
    for name, (was, now) in told.changed.items():
        yield f"  set {name:<30} {was} to {now}"
    for feature, (old, new) in told.features.items():
        yield f"  so  {feature:<30} {old:,} to {new:,}"
    yield f"would be       {_verdict(told.would_be)}"
    if told.flips is None:
        return
    yield "the smallest single changes that lead to another outcome"
    for flip in told.flips:
        yield (
            f"  {flip.name:<34} {flip.was} to {flip.becomes}: {flip.outcome}"
            f"{'' if flip.field else ' (that feature alone)'}"
        )
    if not told.flips:
        yield "  none of one field or feature"


def _verdict(said: Verdict) -> str:
    return (
        f"{said.outcome}, score {_score(said.score_ppm)}, {said.degradation_level}, "
        f"reasons {', '.join(said.reasons) or 'none'}; {said.policy}, "
        f"{said.release or 'no release'}"
    )


def _score(ppm: int | None) -> str:
    return "none" if ppm is None else f"{ppm:,} ppm"


def sample_lines(report: Report) -> Iterator[str]:
    """Many replays for a terminal."""
    total = sum(report.replayed.values())
    yield f"replayed      {report.replayed.get('equal', 0):,} of {total:,} are the same bits"
    for name, n in report.replayed.items():
        if name != "equal":
            yield f"              {n:,} {name.replace('_', ' ')}"
    for name, n in (
        ("wait for the archive", report.waiting),
        ("of another catalogue", report.other_catalogue),
        ("with too many events", report.too_large),
    ):
        if n:
            yield f"              {n:,} {name}"
    for name, n in {**report.features, **report.fields}.items():
        yield f"  {n:>9,}  {name}"
    examples = [(one.authorization_id, one.place) for one in report.replay_examples]
    examples += [(one.authorization_id, one.place) for one in report.examples]
    for authorization_id, place in dict(examples).items():
        yield f"  sluice replay {authorization_id}    {place}"
    for why in report.why:
        yield f"  {why}"
