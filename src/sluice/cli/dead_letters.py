"""List what could not be decided, or send it again once the cause is gone.

sluice dead-letters list --code event_too_old --since 2026-05-01
sluice dead-letters redrive --code event_too_old --dry-run
sluice dead-letters redrive --origin authorizations.v1/3@884213 --who ann
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import click

from sluice.bootstrap import verbs
from sluice.cli.output import say, say_json
from sluice.cli.parameters import bootstrap_option, instant
from sluice.cli.text import help_of
from sluice.domain.clock import SystemClock, to_datetime
from sluice.domain.records.key_event import Given, check_given
from sluice.settings import load

LIMIT = 100
WIDTH = 100
"""Of an error's text in the table."""


def _chosen(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that choose dead letters."""
    for option in (
        click.option("--since", type=instant, metavar="TIME", help="ISO 8601; UTC without a zone."),
        click.option("--origin", default="", metavar="TOPIC/PARTITION@OFFSET", help="Only this."),
        click.option("--code", default="", metavar="CODE", help="Only those of this code."),
        bootstrap_option,
    ):
        command = option(command)
    return command


@click.group(help=help_of(__doc__))
def command() -> None:
    """Two actions."""


@command.command("list", help="List dead letters, oldest first.")
@_chosen
@click.option(
    "--limit", type=int, default=LIMIT, show_default=True, metavar="N", help="The newest so many."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def show(
    bootstrap: str | None, code: str, origin: str, since: int | None, limit: int, as_json: bool
) -> int:
    """Returns 0. Raises Unavailable without a broker."""
    from sluice.application.redrive import select  # noqa: PLC0415 - loads numba
    from sluice.domain.records.authorization import encode  # noqa: PLC0415

    with verbs.dead_letters(load()[0], bootstrap, send=False) as parts:
        chosen = select(parts.dead_letters, code=code, since_us=since or 0, origin=origin)
    shown = chosen[-limit:] if limit > 0 else []
    if as_json:
        for dead_letter in shown:
            say_json(encode(dead_letter).decode())
        return 0
    for dead_letter in shown:
        when = to_datetime(dead_letter.dead_at).strftime("%Y-%m-%d %H:%M:%S")
        say(
            f"{when}  {dead_letter.code:<18} {dead_letter.origin!s:<32}"
            f" {dead_letter.size_bytes:>6} B"
            f"  {dead_letter.error[:WIDTH]}"
        )
    counts = ", ".join(f"{n} {code}" for code, n in Counter(x.code for x in chosen).most_common())
    say(f"{len(chosen)} dead letters{': ' + counts if counts else ''}", err=True)
    return 0


@command.command("redrive", help="Send messages again, each at most once.")
@_chosen
@click.option("--who", metavar="LOGIN", help="Who answers for it; the compliance log names them.")
@click.option("--dry-run", is_flag=True, help="Say what would be sent again.")
def redrive(
    bootstrap: str | None,
    code: str,
    origin: str,
    since: int | None,
    who: str | None,
    dry_run: bool,
) -> int:
    """Returns 0, or 1 if a chosen dead letter was refused. Raises Unavailable without a broker,
    Rejected for what is no login."""
    from sluice.application.redrive import redrive, select, worth_a_try  # noqa: PLC0415

    if not dry_run:
        if not who:
            raise click.UsageError("say who answers for it: --who LOGIN")
        check_given(Given(who, "redrive"))
    sent = refused = 0
    with verbs.dead_letters(load()[0], bootstrap, send=not dry_run) as parts:
        chosen = select(parts.dead_letters, code=code, since_us=since or 0, origin=origin)
        if not code and not origin:
            chosen = worth_a_try(chosen)
        for result in redrive(
            parts.dead_letters, chosen, parts.originals, parts.sender, SystemClock(), who
        ):
            if result.refused:
                refused += 1
                say(f"refused  {result.dead_letter.origin}: {result.refused}")
            else:
                sent += 1
                say(f"{'would send' if dry_run else 'sent'}  {result.dead_letter.origin}")
    say(f"{sent} {'to send' if dry_run else 'sent again'}, {refused} refused", err=True)
    return 1 if refused else 0
