"""Write contracts/: one JSON Schema a topic, made from the records; --check if stale.

What an entrypoint takes is closed; what we write may grow, and says so.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import msgspec

from sluice.domain.records.authorization import Authorization, Received
from sluice.domain.records.dead_letter import DeadLetter
from sluice.domain.records.decision import Answer, Decision
from sluice.domain.records.label import Label
from sluice.domain.records.observation import Observations

ROOT = Path("contracts")
RECORDS: dict[str, type[msgspec.Struct]] = {
    "authorizations.v1": Authorization,
    "decisions.v1": Decision,
    "observations.v1": Observations,
    "labels.v1": Label,
    "dead-letters.v1": DeadLetter,
    "answer.v1": Answer,
}
"""What each topic carries, and what the sync API answers."""
CLOSED: dict[str, type[msgspec.Struct]] = {"authorizations.v1": Received}
"""What an entrypoint takes: an unknown field is refused, so its schema says so."""
_GROWS = (
    "May gain optional fields within this version: pass over those you do not know. "
    "See docs/how-to/change-a-contract.md."
)
_TAKEN = "Closed: a field that is not here is refused. See docs/how-to/change-a-contract.md."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if stale")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of the schemas")


def run(args: argparse.Namespace) -> int:
    """Write the schemas, or name the stale ones."""
    stale = 0
    for name in RECORDS:
        path, text = args.root / f"{name}.schema.json", schema(name)
        if path.exists() and path.read_text() == text:
            continue
        stale += 1
        if args.check:
            print(f"{path} is stale: run sluice contracts", file=sys.stderr)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(path)
    return 1 if args.check and stale else 0


def schema(name: str) -> str:
    """JSON Schema (draft 2020-12) of one record, as text."""
    made: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": name,
        "description": _TAKEN if name in CLOSED else _GROWS,
        **msgspec.json.schema(CLOSED.get(name, RECORDS[name])),
    }
    for part in made["$defs"].values():
        if part.get("type") == "object":
            part.setdefault("additionalProperties", True)
    return msgspec.json.format(msgspec.json.encode(made), indent=2).decode() + "\n"
