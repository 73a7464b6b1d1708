"""Make a bank's card traffic with known truth: to files, or as a stream.

  sluice simulate history --out DIR --days 30 --start 2026-10-01 --seed 7
  sluice simulate stream --rate 500 --duration 60 --start 2026-10-31 --seed 7

With the same seed, cards and configuration the stream goes on where the history ended.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sluice.cli.parameters import FOLDER
from sluice.cli.progress import Progress
from sluice.cli.signals import on_stop
from sluice.cli.text import help_of
from sluice.errors import Misconfigured, Unavailable
from sluice.settings import load as load_settings

if TYPE_CHECKING:
    from confluent_kafka import Producer

    from sluice.adapters.kafka.config import Extra
    from sluice_simulator.stream import Tally
    from sluice_simulator.world import World

SINCE_START = "start"
"""Value of --labels where no day is named."""


def day(text: str) -> date:
    """A day, as 2026-10-31."""
    return date.fromisoformat(text)


def labels_since(text: str) -> date | None:
    """A day; None for that of --start."""
    return None if text == SINCE_START else day(text)


def _world(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of the world that both actions simulate."""
    for option in (
        click.option(
            "--config", type=FOLDER, metavar="FILE", help="YAML: docs/reference/simulator.md."
        ),
        click.option(
            "--fraud-bp",
            type=float,
            metavar="N",
            help="Frauds in 10,000 authorizations (default: 20).",
        ),
        click.option(
            "--seed",
            type=int,
            default=1,
            show_default=True,
            metavar="N",
            help="Same seed, same bytes.",
        ),
        click.option("--cards", type=int, metavar="N", help="Number of cards (default: 10000)."),
    ):
        command = option(command)
    return command


def _made(config: Path | None, cards: int | None, fraud_bp: float | None, seed: int) -> World:
    from sluice_simulator.config import load
    from sluice_simulator.world import World

    return World(load(config, cards=cards, fraud_bp=fraud_bp), seed)


@click.group(help=help_of(__doc__))
def command() -> None:
    """Two actions with the world's options in common."""


@command.command("history", help="Write parquet files.")
@_world
@click.option("--out", type=FOLDER, required=True, metavar="DIR", help="Folder to write to.")
@click.option("--days", type=int, required=True, metavar="N", help="How many.")
@click.option("--start", type=day, required=True, metavar="DATE", help="First day, UTC.")
def history(
    cards: int | None,
    seed: int,
    fraud_bp: float | None,
    config: Path | None,
    out: Path,
    days: int,
    start: date,
) -> int:
    """Returns 0. Raises Unavailable if it cannot be written."""
    from sluice_simulator.history import write

    if days < 1:
        raise Misconfigured("--days must be at least 1")
    world = _made(config, cards, fraud_bp, seed)
    with Progress() as line:
        try:
            about = write(
                world,
                start,
                days,
                out,
                lambda done, rows, seconds: line.show(
                    f"day {done}/{days}, {rows:,} rows, {rows / seconds:,.0f} rows/s", done, days
                ),
            )
        except OSError as exc:
            raise Unavailable(f"cannot write: {exc.strerror}", where=str(out)) from exc
    rows, seconds = int(str(about["authorizations"])), float(str(about["seconds"]))
    click.echo(
        f"{rows:,} authorizations, {about['frauds']:,} frauds ({about['fraud_bp']} bp), "
        f"{about['labels']:,} labels in {out}: {rows / seconds:,.0f} rows/s, {seconds:.1f} s"
    )
    return 0


@command.command("stream", help="Send to Kafka and HTTP.")
@_world
@click.option(
    "--bootstrap", metavar="HOST:PORT", help="Brokers (default: kafka.bootstrap of the settings)."
)
@click.option("--duration", type=float, required=True, metavar="S", help="Seconds.")
@click.option(
    "--rate", type=float, metavar="N", help="Authorizations a second, evenly; or --speed."
)
@click.option("--speed", type=float, metavar="N", help="Simulated seconds a second; or --rate.")
@click.option(
    "--start", type=day, metavar="DATE", help="First day, UTC (default: so that it ends by now)."
)
@click.option("--http", metavar="URL", help="http://HOST:PORT of the sync API.")
@click.option(
    "--http-share",
    type=float,
    default=0.0,
    metavar="S",
    help="0 to 1, by hash of the id (default: 0).",
)
@click.option("--truth", type=FOLDER, metavar="FILE", help="Parquet file for what was true.")
@click.option(
    "--labels",
    type=labels_since,
    is_flag=False,
    flag_value=SINCE_START,
    default=None,
    metavar="[SINCE]",
    help="Send labels to labels.v1 when they become known, of authorizations since a day "
    "(default: since --start).",
)
@click.pass_context
def stream(
    ctx: click.Context,
    cards: int | None,
    seed: int,
    fraud_bp: float | None,
    config: Path | None,
    bootstrap: str | None,
    duration: float,
    rate: float | None,
    speed: float | None,
    start: date | None,
    http: str | None,
    http_share: float,
    truth: Path | None,
    labels: date | None,
) -> int:
    """Returns 0, or 1 where a delivery or an answer failed."""
    from sluice.bootstrap.brokers import reached
    from sluice_simulator.stream import Streamer, StreamOptions, run, summary_line

    if (rate is None) == (speed is None):
        raise click.UsageError("one of --rate and --speed is required", ctx)
    world = _made(config, cards, fraud_bp, seed)
    kafka = load_settings()[0].kafka
    a_day = world.authorizations_a_day
    faster = speed or (rate or 0.0) * 86_400 / a_day
    first = start or _ends_by_now(duration * faster)
    given = ctx.get_parameter_source("labels") is not click.core.ParameterSource.DEFAULT
    since = (labels or first) if given else None
    with Progress() as line:
        try:
            streamer = Streamer(
                world,
                _producer(reached(kafka, bootstrap), kafka.extra()),
                StreamOptions(first, duration, rate, speed, http_share, since),
                topic_prefix=kafka.topic_prefix,
                http=http,
                truth=truth,
                progress=lambda tally: line.show(_said(tally)),
            )
        except ValueError as exc:
            raise Misconfigured(str(exc)) from exc
        line.keep(
            f"from {first}, {world.cards.count:,} cards, about {a_day:,.0f} authorizations a day: "
            f"simulated time runs {faster:,.1f} times as fast"
        )
        with on_stop(streamer.stop):
            tally = run(streamer)
    click.echo(summary_line(tally))
    return 1 if tally.errors else 0


def _ends_by_now(span_s: float) -> date:
    days = math.ceil(span_s / 86_400) + 1
    return (datetime.now(UTC) - timedelta(days=days)).date()


def _producer(bootstrap: str, extra: Extra) -> Producer:
    from confluent_kafka import Producer

    from sluice.adapters.kafka.config import DELIVERY_MAX_MS, producer

    return Producer(
        producer(
            bootstrap,
            "sluice-simulate",
            extra,
            linger_ms=5,
            message_timeout_ms=DELIVERY_MAX_MS,
        )
    )


def _said(tally: Tally) -> str:
    p50, p99 = tally.percentile_us(50), tally.percentile_us(99)
    latency = f", http p50 {p50 / 1000:.1f} p99 {p99 / 1000:.1f} ms" if p50 and p99 else ""
    return (
        f"{tally.seconds:5.1f} s, {tally.sent / max(tally.seconds, 1e-9):,.0f}/s, "
        f"sent {tally.sent:,}{latency}, late {tally.late}, errors {sum(tally.errors.values())}"
    )
