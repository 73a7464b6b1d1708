"""Show one decision: what was asked, answered and why; features, score, policy, state versions.

sluice explain --archive var/demo/archive AUTHORIZATION_ID
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click
import msgspec

from sluice.bootstrap import verbs
from sluice.bootstrap.archive_root import archive_named
from sluice.cli.output import say, say_json
from sluice.cli.parameters import archive_option
from sluice.cli.text import help_of
from sluice.settings import load

if TYPE_CHECKING:
    from sluice.application.explain import Explanation


@click.command(help=help_of(__doc__))
@click.argument("authorization_id")
@archive_option
@click.option("--all", "everything", is_flag=True, help="Features that are 0 or never, too.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="The record as it was written; of two of an id the one that counts.",
)
def command(authorization_id: str, archive: str | None, everything: bool, as_json: bool) -> int:
    """Returns 0, or 1 if the archive holds no such decision."""
    from sluice.application.explain import explain  # noqa: PLC0415 - loads numba

    root = archive_named(load()[0], archive)
    decisions = verbs.find_decisions(root, authorization_id)
    if not decisions:
        say(
            f"sluice explain: no decision of {authorization_id} in {root}; "
            "the archiver writes with a delay of up to archiver.roll_s",
            err=True,
        )
        return 1
    found = decisions[0]
    if as_json:
        say_json(msgspec.json.format(found.record, indent=2).decode())
    else:
        labels = verbs.find_labels(root, authorization_id)
        told = explain(found, everything=everything, of=decisions, labels=labels)
        for line in lines(told):
            say(line)
    return 0


def lines(said: Explanation) -> Iterator[str]:
    """An explanation for a terminal."""
    for part in (said.asked, said.answered):
        for row in part:
            yield f"{row.name:<14} {row.value}"
        yield ""
    if said.records:
        yield "decided more than once; one record counts"
        for row in said.records:
            yield f"  {row.name:<12} {row.value}"
        yield ""
    if said.labels:
        yield "reported, as it became known"
        for row in said.labels:
            yield f"  {row.name:<12} {row.value}"
        yield ""
    yield "reasons"
    for row in said.reasons:
        yield f"  {row.name:<24} {row.value}"
    if not said.reasons:
        yield "  none"
    yield ""
    yield "states served, by the last record applied"
    for row in said.states:
        yield f"  {row.name:<10} {row.value}"
    if said.pending:
        yield f"  and {len(said.pending)} authorizations of the card not yet in its state:"
        for one in said.pending:
            yield f"    {one}"
    yield ""
    yield f"features (catalogue {said.catalogue})"
    if said.features is None:
        yield "  named by another catalogue than this build's; see --json"
        return
    for entity, rows in said.features.items():
        yield f"  {entity}"
        for feature in rows:
            yield f"    {feature.name:<34} {feature.value:>16}   {feature.description}"
