"""The topics: names, partitions, retention, and their upkeep on a broker."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from sluice.adapters.kafka.config import MESSAGE_MAX_BYTES, REQUEST_MAX_S, Extra, client, translate
from sluice.adapters.kafka.leaders import unserved
from sluice.domain.features.states import PARTITIONS_MAX
from sluice.errors import Misconfigured, Unavailable

PARTITIONS = 12
"""The most replicas that one service can have; 12 divides evenly among 2, 3, 4 and 6."""
REPLICATION_MAX = 3
DAY_MS = 86_400_000
SERVED_MAX_S = 60.0
"""For brokers to lead what was created: on two busy cores it took more than 10 s."""


class Topics:
    """Names of the topics. The prefix keeps tests, and tenants of one cluster, apart."""

    def __init__(self, prefix: str = "") -> None:
        self.authorizations = f"{prefix}authorizations.v1"
        self.decisions = f"{prefix}decisions.v1"
        self.observations = f"{prefix}observations.v1"
        self.labels = f"{prefix}labels.v1"
        self.dead_letters = f"{prefix}dead-letters.v1"
        self.rollouts = f"{prefix}rollouts.v1"
        self.shadow_scores = f"{prefix}shadow-scores.v1"
        self.checkpoints = f"{prefix}checkpoints.v1"

    def all(self) -> tuple[str, ...]:
        """All, in the order of the data's flow and of TABLE."""
        return (
            self.authorizations,
            self.decisions,
            self.observations,
            self.labels,
            self.dead_letters,
            self.rollouts,
            self.shadow_scores,
            self.checkpoints,
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """What one topic keeps. retention_days: how long, reason: why so long."""

    name: str
    key: str
    value: str
    retention_days: int
    reason: str


TABLE: tuple[Limits, ...] = (
    Limits(
        "authorizations.v1",
        "card_token",
        "Authorization",
        7,
        "a dead letter can be redriven, and a stopped stream processor catch up, within a week",
    ),
    Limits(
        "decisions.v1",
        "card_token",
        "Decision",
        40,
        "the longest window is 35 days: every state can be rebuilt from the topic alone",
    ),
    Limits(
        "observations.v1",
        "none: by partition",
        "Observations",
        7,
        "derived from decisions and labels, from which it can be made again",
    ),
    Limits(
        "labels.v1",
        "authorization_id",
        "Label",
        400,
        "a dispute may come 120 days late; labels are few, so a year of them is kept",
    ),
    Limits(
        "dead-letters.v1",
        "topic/partition",
        "DeadLetter",
        40,
        "as long as the decisions that it is counted against",
    ),
    Limits(
        "rollouts.v1",
        "digest",
        "Rollout",
        400,
        "a few records a step of a release or policy, kept as long as the labels that judge it",
    ),
    Limits(
        "shadow-scores.v1",
        "digest",
        "ShadowScores",
        40,
        "as long as the decisions that they are compared with",
    ),
    Limits(
        "checkpoints.v1",
        "origin",
        "signed note (C2SP tlog-checkpoint)",
        40,
        "one a second; a log that stood still for longer has its disk unchecked at its next start",
    ),
)
"""cleanup.policy is delete everywhere: nothing is compacted, since two records of one key are two
facts, and the later one does not replace the earlier."""


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that ``apply`` did, or would do."""

    topic: str
    what: str

    def __str__(self) -> str:
        return f"{self.topic}: {self.what}"


@dataclass(frozen=True, slots=True)
class Existing:
    """A topic as the broker has it."""

    name: str
    partitions: int
    replication: int
    retention_days: float | None
    """None: for ever."""
    cleanup: str


def wanted(limits: Limits, replication: int) -> dict[str, str]:
    """The configuration that a topic must have."""
    return {
        "cleanup.policy": "delete",
        "retention.ms": str(limits.retention_days * DAY_MS),
        "max.message.bytes": str(MESSAGE_MAX_BYTES),
        "compression.type": "producer",
        # acks=all must survive one broker; with one replica there is nothing to insist on.
        "min.insync.replicas": str(max(1, replication - 1)),
    }


def apply(
    bootstrap: str,
    names: Topics | None = None,
    *,
    partitions: int | None = None,
    replication: int | None = None,
    dry_run: bool = False,
    extra: Extra | None = None,
) -> list[Change]:
    """Make the topics as TABLE says; safe to repeat. Returns what was changed.

    partitions: of each; None creates with PARTITIONS and leaves existing counts alone.
    replication: None takes as many as there are brokers, at most REPLICATION_MAX.
    Raises Misconfigured if a topic has more partitions than asked for, Unavailable without broker.
    """
    names = names or Topics()
    if partitions is not None and not 1 <= partitions <= PARTITIONS_MAX:
        raise Misconfigured(f"{partitions} partitions are not in 1..{PARTITIONS_MAX}")
    admin = AdminClient(client(bootstrap, "sluice-topics", extra))
    try:
        metadata = admin.list_topics(timeout=REQUEST_MAX_S)
        copies = replication or min(REPLICATION_MAX, len(metadata.brokers))
        have = {
            name: len(metadata.topics[name].partitions)
            for name in names.all()
            if name in metadata.topics
        }
        _refuse_to_shrink(have, partitions)
        specs = dict(zip(names.all(), TABLE, strict=True))
        changes = _create(
            admin,
            {name: limits for name, limits in specs.items() if name not in have},
            partitions or PARTITIONS,
            copies,
            dry_run,
        )
        if partitions is not None:
            changes += _grow(admin, have, partitions, dry_run)
        existing = {name: limits for name, limits in specs.items() if name in have}
        changes += _configure(admin, existing, metadata, dry_run)
    except KafkaException as exc:
        raise translate(exc, "apply the topics", bootstrap) from exc
    return changes


def existing(
    bootstrap: str, names: Topics | None = None, *, extra: Extra | None = None
) -> list[Existing]:
    """Those of our topics that the broker has. Raises Unavailable."""
    names = names or Topics()
    admin = AdminClient(client(bootstrap, "sluice-topics", extra))
    try:
        metadata = admin.list_topics(timeout=REQUEST_MAX_S)
        found = [name for name in names.all() if name in metadata.topics]
        configs = _describe(admin, found)
    except KafkaException as exc:
        raise translate(exc, "list the topics", bootstrap) from exc
    return [
        Existing(
            name,
            len(metadata.topics[name].partitions),
            len(metadata.topics[name].partitions[0].replicas),
            None
            if configs[name]["retention.ms"] == "-1"
            else int(configs[name]["retention.ms"]) / DAY_MS,
            configs[name]["cleanup.policy"],
        )
        for name in found
    ]


def delete(bootstrap: str, names: Topics, *, extra: Extra | None = None) -> None:
    """Remove the topics with all they hold. For tests and benchmarks."""
    admin = AdminClient(client(bootstrap, "sluice-topics", extra))
    for future in admin.delete_topics(list(names.all()), operation_timeout=10).values():
        future.exception(REQUEST_MAX_S)


def _refuse_to_shrink(have: Mapping[str, int], partitions: int | None) -> None:
    for name, count in have.items():
        if partitions is not None and count > partitions:
            raise Misconfigured(
                f"{name} has {count} partitions, {partitions} were asked for; Kafka cannot shrink",
                where=name,
                fix=f"ask for at least {count}, or delete the topic with its data",
            )


def _create(
    admin: AdminClient, missing: Mapping[str, Limits], partitions: int, copies: int, dry_run: bool
) -> list[Change]:
    new = [
        NewTopic(name, partitions, copies, config=wanted(limits, copies))
        for name, limits in missing.items()
    ]
    if new and not dry_run:
        for future in admin.create_topics(new, operation_timeout=REQUEST_MAX_S).values():
            error = future.exception(REQUEST_MAX_S * 2)
            # Brokers learn of a topic one after another: it may exist and not be listed yet.
            if error and error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise error
        _wait_until_served(admin, set(missing))
    return [
        Change(name, f"created: {partitions} partitions x {copies}, {limits.retention_days} days")
        for name, limits in missing.items()
    ]


def _wait_until_served(admin: AdminClient, names: set[str]) -> None:
    """A producer that starts now must not be told that the topic is unknown, nor meet a leader that
    does not know yet that it is one: see :mod:`sluice.adapters.kafka.leaders`."""
    deadline = time.monotonic() + SERVED_MAX_S
    while True:
        listed = admin.list_topics(timeout=REQUEST_MAX_S).topics
        missing = sorted(names - listed.keys())
        if not missing:
            places = [(name, number) for name in names for number in listed[name].partitions]
            missing = unserved(admin, places, REQUEST_MAX_S)
        if not missing:
            return
        if time.monotonic() > deadline:
            raise Unavailable("created topics are not served yet", where=", ".join(missing))
        time.sleep(0.02)


def _grow(
    admin: AdminClient, have: Mapping[str, int], partitions: int, dry_run: bool
) -> list[Change]:
    small = {name: count for name, count in have.items() if count < partitions}
    if small and not dry_run:
        wanted_counts = [NewPartitions(name, partitions) for name in small]
        for future in admin.create_partitions(wanted_counts).values():
            future.result(REQUEST_MAX_S)
    return [
        Change(name, f"partitions {count} -> {partitions}; keys move, order per key starts anew")
        for name, count in small.items()
    ]


def _configure(
    admin: AdminClient, specs: Mapping[str, Limits], metadata: Any, dry_run: bool
) -> list[Change]:
    have = _describe(admin, list(specs))
    changes: list[Change] = []
    resources: list[ConfigResource] = []
    for name, limits in specs.items():
        replicas = len(metadata.topics[name].partitions[0].replicas)
        differing = {
            key: value
            for key, value in wanted(limits, replicas).items()
            if have[name].get(key) != value
        }
        changes += [
            Change(name, f"{key} {have[name].get(key)} -> {value}")
            for key, value in differing.items()
        ]
        if differing:
            entries = [
                ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
                for key, value in differing.items()
            ]
            resources.append(ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries))
    if resources and not dry_run:
        for future in admin.incremental_alter_configs(resources).values():
            future.result(REQUEST_MAX_S)
    return changes


def _describe(admin: AdminClient, names: list[str]) -> dict[str, dict[str, str]]:
    if not names:
        return {}
    asked = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    return {
        resource.name: {key: entry.value for key, entry in future.result(REQUEST_MAX_S).items()}
        for resource, future in admin.describe_configs(asked).items()
    }
