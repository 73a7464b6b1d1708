"""List what could not be decided, or send it again once the cause is gone.

sluice dead-letters list --code event_too_old --since 2026-05-01
sluice dead-letters redrive --code event_too_old --dry-run
sluice dead-letters redrive --origin authorizations.v1/3@884213
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter

from sluice.adapters.kafka.reader import TopicReader
from sluice.adapters.kafka.redrive import KafkaOriginals, KafkaSender, read_dead_letters
from sluice.adapters.kafka.topics import Topics
from sluice.adapters.kafka.transactions import TransactionalProducer
from sluice.application.redrive import Sender, redrive, select
from sluice.cli.instant import instant
from sluice.domain.clock import SystemClock, to_datetime
from sluice.domain.records.authorization import encode
from sluice.domain.records.dead_letter import DUPLICATE, REDRIVEN, DeadLetter
from sluice.settings import load

LIMIT = 100
WIDTH = 100
"""Of an error's text in the table."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("verb", choices=("list", "redrive"))
    parser.add_argument("--bootstrap", help="HOST:PORT (default: kafka.bootstrap of the settings)")
    parser.add_argument("--code", default="", help="only letters of this code")
    parser.add_argument("--origin", default="", help="only this one: TOPIC/PARTITION@OFFSET")
    parser.add_argument("--since", type=instant, default=0, help="ISO 8601, UTC without a zone")
    parser.add_argument(
        "--limit", type=int, default=LIMIT, help=f"list the newest so many (default {LIMIT})"
    )
    parser.add_argument("--json", action="store_true", help="list one JSON object a line")
    parser.add_argument("--dry-run", action="store_true", help="say what would be sent again")


def run(args: argparse.Namespace) -> int:
    """Returns 0, or 1 if a chosen dead letter was refused. Raises Unavailable without a broker."""
    kafka = load()[0].kafka
    bootstrap = args.bootstrap or kafka.bootstrap
    topic = Topics(kafka.topic_prefix).dead_letters
    sender: Sender | None = None
    if args.verb == "redrive" and not args.dry_run:
        # Before reading: it waits for, or fences, another redrive, whose notes are then read.
        producer = TransactionalProducer(
            bootstrap,
            transactional_id=f"{kafka.topic_prefix}redrive",
            client_id="sluice-redrive",
            extra=kafka.extra(),
        )
        sender = KafkaSender(producer, topic)
    reader = TopicReader(bootstrap, extra=kafka.extra())
    try:
        dead_letters = list(read_dead_letters(reader, topic))
        chosen = select(dead_letters, code=args.code, since_us=args.since, origin=args.origin)
        if args.verb == "list":
            return _list(chosen, args.limit, as_json=args.json)
        return _redrive(dead_letters, chosen, reader, sender, named=bool(args.code or args.origin))
    finally:
        reader.close()


def _list(chosen: list[DeadLetter], limit: int, *, as_json: bool) -> int:
    shown = chosen[-limit:] if limit > 0 else []
    if as_json:
        for dead_letter in shown:
            print(encode(dead_letter).decode())
        return 0
    for dead_letter in shown:
        when = to_datetime(dead_letter.dead_at).strftime("%Y-%m-%d %H:%M:%S")
        print(
            f"{when}  {dead_letter.code:<18} {dead_letter.origin!s:<32}"
            f" {dead_letter.size_bytes:>6} B"
            f"  {dead_letter.error[:WIDTH]}"
        )
    counts = ", ".join(f"{n} {code}" for code, n in Counter(x.code for x in chosen).most_common())
    print(f"{len(chosen)} dead letters{': ' + counts if counts else ''}", file=sys.stderr)
    return 0


def _redrive(
    dead_letters: list[DeadLetter],
    chosen: list[DeadLetter],
    reader: TopicReader,
    sender: Sender | None,
    *,
    named: bool,
) -> int:
    if not named:
        # Asked for everything: what can never be sent again is no refusal worth a line each.
        chosen = [
            dead_letter for dead_letter in chosen if dead_letter.code not in (DUPLICATE, REDRIVEN)
        ]
    sent = refused = 0
    dry_run = sender is None
    results = redrive(
        dead_letters,
        chosen,
        KafkaOriginals(reader),
        sender,
        SystemClock(),
    )
    for result in results:
        if result.refused:
            refused += 1
            print(f"refused  {result.dead_letter.origin}: {result.refused}")
        else:
            sent += 1
            print(f"{'would send' if dry_run else 'sent'}  {result.dead_letter.origin}")
    print(f"{sent} {'to send' if dry_run else 'sent again'}, {refused} refused", file=sys.stderr)
    return 1 if refused else 0
