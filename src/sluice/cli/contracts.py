"""Write contracts/: one JSON Schema a topic, made from the records; --check if stale.

What an entrypoint takes is closed; what we write may grow, and says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from sluice.application.reports.document import CONTRACT as DOCUMENT
from sluice.application.reports.document import Document
from sluice.cli.output import say
from sluice.cli.parameters import FOLDER
from sluice.cli.text import help_of
from sluice.domain.records.authorization import Authorization, Received
from sluice.domain.records.dead_letter import DeadLetter
from sluice.domain.records.decision import Answer, Decision
from sluice.domain.records.label import Label
from sluice.domain.records.log_record import CONTRACT, AnyRecord
from sluice.domain.records.observation import Observations
from sluice.domain.records.report import Report
from sluice.domain.records.rollout import Rollout, ShadowScores

ROOT = Path("contracts")
RECORDS: dict[str, type[msgspec.Struct]] = {
    "authorizations.v1": Authorization,
    "decisions.v1": Decision,
    "observations.v1": Observations,
    "labels.v1": Label,
    "dead-letters.v1": DeadLetter,
    "rollouts.v1": Rollout,
    "shadow-scores.v1": ShadowScores,
    "answer.v1": Answer,
}
"""What each topic carries, and what the sync API answers."""
CLOSED: dict[str, Any] = {
    "authorizations.v1": Received,
    "reports.v1": Report,
    CONTRACT: AnyRecord,
}
"""What an entrypoint or the labeller takes, and what the compliance log holds: an unknown field is
refused, so its schema says so."""
DOCUMENTS: dict[str, Any] = {DOCUMENT: Document}
"""What verbs write for programs."""
SCHEMAS: dict[str, Any] = {**RECORDS, **CLOSED, **DOCUMENTS}
_GROWS = (
    "May gain optional fields within this version: pass over those you do not know. "
    "See docs/how-to/change-a-contract.md."
)
_TAKEN = "Closed: a field that is not here is refused. See docs/how-to/change-a-contract.md."


@click.command(help=help_of(__doc__))
@click.option("--check", is_flag=True, help="Write nothing, exit 1 if stale.")
@click.option(
    "--root", type=FOLDER, default=ROOT, show_default=True, metavar="DIR", help="Of the schemas."
)
def command(check: bool, root: Path) -> int:
    """Write the schemas, or name the stale ones."""
    stale = 0
    for name in SCHEMAS:
        path, text = root / f"{name}.schema.json", schema(name)
        if path.exists() and path.read_text() == text:
            continue
        stale += 1
        if check:
            say(f"{path} is stale: run sluice contracts", err=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            say(str(path))
    return 1 if check and stale else 0


def schema(name: str) -> str:
    """JSON Schema (draft 2020-12) of one record, as text."""
    made: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": name,
        "description": _TAKEN if name in CLOSED else _GROWS,
        **msgspec.json.schema(SCHEMAS[name]),
    }
    for part in made["$defs"].values():
        if part.get("type") == "object":
            part.setdefault("additionalProperties", True)
    return msgspec.json.format(msgspec.json.encode(made), indent=2).decode() + "\n"
