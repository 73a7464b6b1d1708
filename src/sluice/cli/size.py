"""How large an installation must be: partitions, pods, store, disks, euros a month.

From unit costs that were measured on one machine, each with the result it is from; another
processor is another figure. Prices are list prices from memory unless --prices gives yours.

  sluice size --tps 20000 --cards 50e6 --terminals 2e6
"""

from __future__ import annotations

import textwrap
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from sluice.application.sizing.model import SCALES, Line, Load, Plan, Prices, UnitCosts, size
from sluice.cli.output import say, say_json, say_lines
from sluice.cli.parameters import FOLDER, Decorator
from sluice.cli.text import help_of
from sluice.errors import Misconfigured
from sluice.yaml_files import decode

COLUMNS = 80
T = TypeVar("T")
COUNT = click.FloatRange(min=1, max=1e12)
SHARE = click.FloatRange(min=0, max=1)


def unit_costs() -> UnitCosts:
    """Those that this version was measured with."""
    return _read(_ours("unit_costs.yaml"), "unit_costs.yaml", UnitCosts)


def prices(path: Path | None = None) -> Prices:
    """A firm's own, or ours from memory. Raises Misconfigured."""
    if path is None:
        return _read(_ours("prices.yaml"), "prices.yaml", Prices)
    try:
        return _read(path.read_bytes(), str(path), Prices)
    except OSError as exc:
        raise Misconfigured(f"cannot be read: {exc.strerror}", where=str(path)) from exc


def _ours(name: str) -> bytes:
    return (files("sluice.application.sizing") / name).read_bytes()


def _read(raw: bytes, where: str, kind: type[T]) -> T:
    try:
        return msgspec.convert(decode(raw, where), kind)
    except msgspec.ValidationError as exc:
        raise Misconfigured(
            str(exc), where=where, fix="src/sluice/application/sizing/ has a file of this form"
        ) from None


def _option(
    name: str, kind: click.FloatRange | click.IntRange, default: float | None, says: str
) -> Decorator:
    return click.option(
        f"--{name}", type=kind, default=default, required=default is None, metavar="N",
        show_default=default is not None, help=says,
    )  # fmt: skip


@click.command(help=help_of(__doc__))
@_option("tps", COUNT, None, "Authorizations a second at the peak.")
@_option("cards", COUNT, None, "Cards that are used.")
@_option("terminals", COUNT, None, "Terminals.")
@_option("merchants", click.FloatRange(0, 1e12), 0, "Merchants; 0 is half the terminals.")
@_option("average", click.FloatRange(0, 1, min_open=True), 0.33, "Mean rate, of the peak's.")
@_option("sync-share", SHARE, 1.0, "Of the traffic through HTTP; the rest by Kafka.")
@_option("hottest", SHARE, 0.01, "Share of the hottest terminal or merchant.")
@_option("replicas", click.IntRange(1, 9), 3, "Copies of a topic.")
@_option("archive-days", click.IntRange(1, 36_500), 730, "Kept in the archive.")
@_option("log-days", click.IntRange(1, 36_500), 1900, "Kept in the compliance log.")
@_option("utilisation", click.FloatRange(0.05, 1), 0.5, "Of a core that is planned with.")
@click.option("--prices", "price_file", type=FOLDER, metavar="FILE", help="Your own prices, YAML.")
@click.option("--json", "as_json", is_flag=True, help="For a program.")
def command(price_file: Path | None, as_json: bool, **given: Any) -> int:
    """Returns 0. Raises Misconfigured."""
    load, costs, priced = Load(**given), unit_costs(), prices(price_file)
    plan = size(load, costs, priced)
    if as_json:
        document = {"load": load, "plan": plan, "total_eur": plan.total_eur,
                    "prices": priced, "unit_costs": costs}  # fmt: skip
        say_json(msgspec.json.encode(document).decode())
        return 0
    _show(plan, costs, priced)
    return 0


def _show(plan: Plan, costs: UnitCosts, priced: Prices) -> None:
    for line in plan.lines:
        say_lines(_line(line))
    say(f"Euros a month, {priced.region}, {priced.date}")
    for line in plan.euros:
        say_lines(_line(line))
    say_lines(_line(Line("total", plan.total_eur, "EUR", "")))
    say(f"prices: {priced.says}")
    say(f"Walls, 1 is the limit:{'':10}" + "".join(f"{scale:>8}x" for scale in SCALES))
    for wall in plan.walls:
        say(f"  {wall.what:<30}" + "".join(f"{share:>9.3f}" for share in wall.shares))
        say(f"      then: {wall.then}")
    dates = sorted({cost.date for cost in costs.costs.values()})
    say(f"unit costs: measured {dates[0]} to {dates[-1]} on")
    say_lines(
        "\n".join(
            textwrap.wrap(costs.machine, COLUMNS - 2, initial_indent="  ", subsequent_indent="  ")
        )
    )


def _line(line: Line) -> str:
    whole = line.count >= 100 or float(line.count).is_integer()
    count = f"{line.count:,.0f}" if whole else f"{line.count:,.2f}"
    text = f"  {line.part:<22} {count:>10} {line.unit:<17}".rstrip()
    beside = f"{text:<53}{line.why}".rstrip()
    return beside if len(beside) <= COLUMNS else f"{text}\n{'':6}{line.why}"
