"""Who needs what of Kafka: one table. The page, the chart and the tests have it from here.

Nobody has a right that is not here. Describe comes with each of them, as Kafka has it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Literal, NamedTuple

Kind = Literal["topic", "group", "transactional-id"]


class Right(NamedTuple):
    """One row. name: after the prefix of topics; ``*`` at its end stands for any more of it."""

    principal: str
    kind: Kind
    name: str
    operations: tuple[str, ...]
    why: str


_Need = tuple[Kind, str, tuple[str, ...], str]

READ, WRITE, BOTH = ("Read",), ("Write",), ("Read", "Write")
_DECIDER: tuple[_Need, ...] = (
    ("topic", "decisions.v1", BOTH, "what it decides; what was answered before it started"),
    ("topic", "rollouts.v1", BOTH, "steps of a release that it saw, and what others saw"),
    ("topic", "shadow-scores.v1", WRITE, "scores of releases in shadow"),
)
_NEEDS: dict[str, tuple[_Need, ...]] = {
    "acquirer": (("topic", "authorizations.v1", WRITE, "what is to be decided"),),
    "decider-sync": _DECIDER,
    "decider-stream": (
        ("topic", "authorizations.v1", READ, "what is to be decided"),
        *_DECIDER,
        ("topic", "dead-letters.v1", WRITE, "what is no authorization"),
        ("group", "sluice-decider", READ, "shares the partitions with its like"),
        ("transactional-id", "decider-*", WRITE, "one a replica, named after the pod"),
    ),
    "featurizer": (
        ("topic", "decisions.v1", READ, "what the states are made of"),
        ("topic", "labels.v1", READ, "what the states are made of"),
        ("topic", "observations.v1", BOTH, "its own way from one partition to another"),
        ("group", "sluice-featurizer", READ, "shares the partitions with its like"),
    ),
    "archiver": (
        ("topic", "decisions.v1", READ, "rows of the archive"),
        ("topic", "labels.v1", READ, "rows of the archive"),
        ("topic", "shadow-scores.v1", READ, "rows of the archive"),
        ("group", "sluice-archiver", READ, "shares the partitions with its like"),
    ),
    "labeller": (
        ("topic", "labels.v1", BOTH, "what it makes; what it made before it started"),
        ("topic", "dead-letters.v1", WRITE, "reports of a topic that are none"),
        ("transactional-id", "labels.v1-labeller", WRITE, "there is one labeller"),
        ("group", "sluice-labeller", READ, "of the topic of reports, if there is one"),
    ),
    "auditor": (
        ("topic", "decisions.v1", READ, "records of the log"),
        ("topic", "labels.v1", READ, "records of the log"),
        ("topic", "dead-letters.v1", READ, "records of the log"),
        ("topic", "rollouts.v1", READ, "records of the log"),
        ("topic", "checkpoints.v1", BOTH, "what it signed, and what it signed last"),
        ("transactional-id", "sluice-auditor-*", WRITE, "one a log, named after its origin"),
        ("group", "sluice-auditor-*", READ, "one a shard"),
    ),
    "verifier": (
        ("topic", "decisions.v1", READ, "`sluice log verify --accounting`"),
        ("topic", "labels.v1", READ, "`sluice log verify --accounting`"),
        ("topic", "dead-letters.v1", READ, "`sluice log verify --accounting`"),
        ("topic", "rollouts.v1", READ, "`sluice log verify --accounting`"),
    ),
    "steps": (("topic", "rollouts.v1", READ, "steps of the rollout that Airflow starts"),),
    "operator": (
        ("topic", "authorizations.v1", BOTH, "`sluice dead-letters redrive`, `sluice publish`"),
        ("topic", "dead-letters.v1", BOTH, "`sluice dead-letters`"),
        ("topic", "decisions.v1", READ, "`sluice states rebuild`, `sluice smoke-test`"),
        ("topic", "labels.v1", BOTH, "`sluice states rebuild`, `sluice publish --labels`"),
        ("topic", "observations.v1", READ, "`sluice states rebuild`"),
        ("topic", "rollouts.v1", READ, "`sluice release promote`"),
        ("transactional-id", "redrive", WRITE, "`sluice dead-letters redrive`"),
        ("group", "sluice-featurizer", READ, "`sluice states rebuild`"),
    ),
}
RIGHTS: tuple[Right, ...] = tuple(
    Right(principal, *need) for principal, needs in _NEEDS.items() for need in needs
)
"""The consistency check and the witness need no Kafka. What makes topics is an administrator's."""
PRINCIPALS: tuple[str, ...] = tuple(_NEEDS)
PEOPLE = ("verifier", "operator")
"""Of the principals those whose verbs a person types. The chart makes users for the others."""


def commands(bootstrap: str, prefix: str) -> Iterator[str]:
    """What an administrator types to grant them all, a line a right; safe to repeat.

    >>> print(next(commands("broker:9092", "eu1.")))
    kafka-acls.sh --bootstrap-server broker:9092 --command-config admin.properties --add \
--allow-principal User:acquirer --operation Write --topic eu1.authorizations.v1
    """
    for right in RIGHTS:
        words = ["kafka-acls.sh", "--bootstrap-server", bootstrap]
        words += ["--command-config", "admin.properties", "--add"]
        words += ["--allow-principal", f"User:{right.principal}"]
        for operation in right.operations:
            words += ["--operation", operation]
        words += [f"--{right.kind}", prefix + right.name.removesuffix("*")]
        if right.name.endswith("*"):
            words += ["--resource-pattern-type", "prefixed"]
        yield shlex.join(words)
