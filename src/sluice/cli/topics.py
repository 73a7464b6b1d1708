"""Make the five topics as they must be, or list them as they are.

sluice topics apply --bootstrap localhost:9092 --partitions 12
sluice topics list
"""

from __future__ import annotations

import argparse

from sluice.adapters.kafka import topics
from sluice.adapters.kafka.topics import Topics
from sluice.settings import load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("verb", choices=("apply", "list"))
    parser.add_argument("--bootstrap", help="HOST:PORT (default: kafka.bootstrap of the settings)")
    parser.add_argument(
        "--partitions", type=int, help=f"of each topic (default {topics.PARTITIONS} where new)"
    )
    parser.add_argument(
        "--replication", type=int, help="copies of new topics (default: brokers, at most 3)"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would change")


def run(args: argparse.Namespace) -> int:
    """Returns 0; safe to repeat. Raises Misconfigured, or Unavailable without a broker."""
    kafka = load()[0].kafka
    bootstrap = args.bootstrap or kafka.bootstrap
    names = Topics(kafka.topic_prefix)
    if args.verb == "list":
        for topic in topics.existing(bootstrap, names, extra=kafka.extra()):
            kept = "for ever" if topic.retention_days is None else f"{topic.retention_days:g} days"
            print(
                f"{topic.name:<24} {topic.partitions:>4} partitions x {topic.replication}"
                f"  {topic.cleanup}, {kept}"
            )
        return 0
    changes = topics.apply(
        bootstrap,
        names,
        partitions=args.partitions,
        replication=args.replication,
        dry_run=args.dry_run,
        extra=kafka.extra(),
    )
    for change in changes:
        print(f"would change {change}" if args.dry_run else change)
    if not changes:
        print("nothing to change")
    return 0
