"""Make a bank's card traffic with known truth: to files, or as a stream.

  sluice simulate history --out DIR --cards 10000 --days 30 --start 2026-10-01 --seed 7
  sluice simulate stream --bootstrap HOST:PORT --rate 500 --duration 60 --start 2026-10-31 --seed 7

With the same seed, cards and configuration the stream goes on where the history ended.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from confluent_kafka import Producer

from sluice.adapters.kafka.config import DELIVERY_MAX_MS, Extra, producer
from sluice.cli.progress import Progress
from sluice.cli.signals import on_stop
from sluice.errors import Misconfigured, Unavailable
from sluice.settings import load as load_settings
from sluice_simulator.config import load
from sluice_simulator.history import write
from sluice_simulator.stream import Streamer, StreamOptions, Tally, summary_line
from sluice_simulator.stream import run as run_stream
from sluice_simulator.world import World


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Two actions with the world's arguments in common."""
    actions = parser.add_subparsers(dest="action", required=True)
    world = argparse.ArgumentParser(add_help=False)
    world.add_argument("--cards", type=int, help="number of cards (default 10000)")
    world.add_argument("--seed", type=int, default=1, help="same seed, same bytes (default 1)")
    world.add_argument(
        "--fraud-bp", type=float, help="frauds in 10,000 authorizations (default 20)"
    )
    world.add_argument("--config", type=Path, help="YAML: docs/reference/simulator.md")
    history = actions.add_parser("history", parents=[world], help="write parquet files")
    history.add_argument("--out", type=Path, required=True, help="folder to write to")
    history.add_argument("--days", type=int, required=True)
    history.add_argument("--start", type=date.fromisoformat, required=True, help="first day, UTC")
    stream = actions.add_parser("stream", parents=[world], help="send to Kafka and HTTP")
    stream.add_argument("--bootstrap", help="HOST:PORT (default: kafka.bootstrap of the settings)")
    stream.add_argument("--duration", type=float, required=True, help="seconds")
    pace = stream.add_mutually_exclusive_group(required=True)
    pace.add_argument("--rate", type=float, help="authorizations a second, evenly")
    pace.add_argument("--speed", type=float, help="simulated seconds a second")
    stream.add_argument(
        "--start", type=date.fromisoformat, help="first day, UTC (default: so that it ends by now)"
    )
    stream.add_argument("--http", help="http://HOST:PORT of the sync API")
    stream.add_argument("--http-share", type=float, default=0.0, help="0 to 1, by hash of the id")
    stream.add_argument("--truth", type=Path, help="parquet file for what was true")
    stream.add_argument(
        "--labels",
        nargs="?",
        type=date.fromisoformat,
        const=date.min,
        metavar="SINCE",
        help="send labels to labels.v1 when they become known, of authorizations since a day "
        "(default: since --start)",
    )


def run(args: argparse.Namespace) -> int:
    """Returns 0, or 1 where a delivery or an answer failed."""
    config = load(args.config, cards=args.cards, fraud_bp=args.fraud_bp)
    world = World(config, args.seed)
    return _history(world, args) if args.action == "history" else _stream(world, args)


def _history(world: World, args: argparse.Namespace) -> int:
    if args.days < 1:
        raise Misconfigured("--days must be at least 1")
    line = Progress()

    def progress(done: int, rows: int, seconds: float) -> None:
        line.show(
            f"day {done}/{args.days}, {rows:,} rows, {rows / seconds:,.0f} rows/s",
            last=done == args.days,
        )

    try:
        about = write(world, args.start, args.days, args.out, progress)
    except OSError as exc:
        raise Unavailable(f"cannot write: {exc.strerror}", where=str(args.out)) from exc
    rows, seconds = int(str(about["authorizations"])), float(str(about["seconds"]))
    print(
        f"{rows:,} authorizations, {about['frauds']:,} frauds ({about['fraud_bp']} bp), "
        f"{about['labels']:,} labels in {args.out}: {rows / seconds:,.0f} rows/s, {seconds:.1f} s"
    )
    return 0


def _stream(world: World, args: argparse.Namespace) -> int:
    kafka = load_settings()[0].kafka
    a_day = world.authorizations_a_day
    speed = args.speed or args.rate * 86_400 / a_day
    start = args.start or _ends_by_now(args.duration * speed)
    since = start if args.labels == date.min else args.labels
    try:
        plan = StreamOptions(start, args.duration, args.rate, args.speed, args.http_share, since)
        streamer = Streamer(
            world,
            _producer(args.bootstrap or kafka.bootstrap, kafka.extra()),
            plan,
            topic_prefix=kafka.topic_prefix,
            http=args.http,
            truth=args.truth,
            progress=_progress(),
        )
    except ValueError as exc:
        raise Misconfigured(str(exc)) from exc
    print(
        f"from {start}, {world.cards.count:,} cards, about {a_day:,.0f} authorizations a day: "
        f"simulated time runs {speed:,.1f} times as fast",
        file=sys.stderr,
    )
    with on_stop(streamer.stop):
        tally = run_stream(streamer)
    print(summary_line(tally))
    return 1 if tally.errors else 0


def _ends_by_now(span_s: float) -> date:
    days = math.ceil(span_s / 86_400) + 1
    return (datetime.now(UTC) - timedelta(days=days)).date()


def _producer(bootstrap: str, extra: Extra) -> Producer:
    return Producer(
        producer(
            bootstrap,
            "sluice-simulate",
            extra,
            linger_ms=5,
            message_timeout_ms=DELIVERY_MAX_MS,
        )
    )


def _progress() -> Callable[[Tally], None]:
    line = Progress()

    def progress(tally: Tally) -> None:
        p50, p99 = tally.percentile_us(50), tally.percentile_us(99)
        latency = f", http p50 {p50 / 1000:.1f} p99 {p99 / 1000:.1f} ms" if p50 and p99 else ""
        line.show(
            f"{tally.seconds:5.1f} s, {tally.sent / max(tally.seconds, 1e-9):,.0f}/s, "
            f"sent {tally.sent:,}{latency}, late {tally.late}, errors {sum(tally.errors.values())}"
        )

    return progress
