"""What the keystore holds, and what an operator does to it now and then.

sluice log keys init          # once, before the log has a record
sluice log keys show
sluice log keys subject --tenant T --card -   # the pseudonym of a card
sluice log keys expire --who ann --case KEEP-21
sluice log keys rewrap --before file:OLD --who ann --case ROT-3
sluice log keys copy DIR
sluice log keys sweep         # take it out of the archive again
sluice log keys reapply LOG   # after a copy was brought back

A card token is read from standard input where it is given as -, so that it stands in no history of
a shell (docs/runbooks/keystore.md).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sluice.application.sealing import period_of
from sluice.bootstrap import keystore as parts
from sluice.bootstrap.archive_root import archive_named
from sluice.cli.output import say, say_json, write
from sluice.cli.parameters import FOLDER, archive_option, by_options
from sluice.cli.text import help_of
from sluice.domain.clock import SystemClock
from sluice.domain.records.outcome import Outcome
from sluice.settings import Settings, load

TOKEN_MAX = 256
"""Characters of standard input that are read as a token: a token has up to 64."""


_who = by_options(required=True)


def _whose(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--subject", metavar="HEX", help="Instead of both: the pseudonym."),
        click.option("--card", metavar="TOKEN", help="Its token; - reads it from standard input."),
        click.option("--tenant", metavar="NAME", help="Whose card it is."),
    ):
        command = option(command)
    return command


def _subject(settings: Settings, tenant: str | None, card: str | None, subject: str | None) -> str:
    """Raises UsageError unless it is one or the other."""
    if subject is not None and tenant is card is None:
        return subject
    if subject is not None or tenant is None or card is None:
        raise click.UsageError("say --tenant and --card, or --subject")
    token = sys.stdin.read(TOKEN_MAX).strip() if card == "-" else card
    with parts.keystore(settings) as store:
        return store.subject(tenant, token)


@click.command(
    "erase",
    help="Destroy a card's keys, and take it out of the archive. Exit 1 under a legal hold.",
)
@_whose
@click.option("--through", metavar="QUARTER", help="The last one, like 2026Q4 (default: this one).")
@_who
@archive_option
def erase(
    tenant: str | None,
    card: str | None,
    subject: str | None,
    through: str | None,
    who: str,
    case: str,
    archive: str | None,
) -> int:
    """Returns 0. Raises Rejected under a hold, Misconfigured, Unavailable, Corrupt."""
    settings, _ = load()
    through = through or period_of(SystemClock().now_us())
    one = _subject(settings, tenant, card, subject)
    root = archive_named(settings, archive)
    done = parts.erase(settings, one, through, root, who=who, case=case)
    say(f"subject    {one}")
    say(f"through    {through}")
    say(
        f"keys       {len(done.periods)} destroyed ({', '.join(done.periods) or 'there were none'})"
    )
    rows = done.archive_rows
    say(f"archive    {'no folder ' + str(root) if rows is None else f'{rows} rows rewritten'}")
    say(f"record     event {done.sequence} of the keystore; the auditor appends it")
    return 0


@click.command("hold", help="Place a legal hold: nothing of the card is erased until it is lifted.")
@_whose
@_who
def hold(tenant: str | None, card: str | None, subject: str | None, who: str, case: str) -> int:
    """Returns 0. Raises Rejected, Misconfigured, Unavailable."""
    settings, _ = load()
    one = _subject(settings, tenant, card, subject)
    with parts.keystore(settings) as store:
        done = store.hold(one, who=who, case=case)
    say(f"{one} is held for {case}: event {done.sequence} of the keystore")
    return 0


@click.command("unhold", help="Lift a legal hold, by its case.")
@_whose
@_who
def unhold(tenant: str | None, card: str | None, subject: str | None, who: str, case: str) -> int:
    """Returns 0. Raises Rejected where there is none of this case, Misconfigured, Unavailable."""
    settings, _ = load()
    one = _subject(settings, tenant, card, subject)
    with parts.keystore(settings) as store:
        done = store.unhold(one, who=who, case=case)
        left = store.holds(one)
    say(f"{one} is no longer held for {case}: event {done.sequence} of the keystore")
    if left:
        say(f"still held for {', '.join(one.case for one in left)}", err=True)
    return 0


@click.command("grant", help="Sign that somebody may open the records of one authorization.")
@click.argument("authorization_id", metavar="ID")
@_who
@click.option("--key", type=FOLDER, required=True, metavar="FILE", help="As keygen wrote it.")
@click.option(
    "--hours",
    type=click.IntRange(1, 72),
    default=8,
    show_default=True,
    metavar="N",
    help="How long it holds.",
)
@click.option("--out", type=FOLDER, required=True, metavar="FILE", help="Where the grant goes.")
def grant(authorization_id: str, who: str, case: str, key: Path, hours: int, out: Path) -> int:
    """Returns 0. Raises Rejected, Misconfigured, Unavailable."""
    made = parts.grant(authorization_id, who=who, case=case, hours=hours, key_file=key)
    write(out, made)
    say(f"{who} may open {authorization_id} for {case}, {hours} h long: {out}")
    return 0


@click.command(
    "open", help="Open what is sealed of an authorization. Needs a grant, and is written down."
)
@click.argument("log", type=FOLDER, metavar="DIR")
@click.argument("authorization_id", metavar="ID")
@click.option("--grant", "note", type=FOLDER, required=True, metavar="FILE", help="As granted.")
def open_sealed(log: Path, authorization_id: str, note: Path) -> int:
    """Returns 0. Raises Rejected without a grant, or where the key was destroyed; Misconfigured,
    Unavailable, Corrupt."""
    settings, _ = load()
    for found, text in parts.open_entries(settings, log, authorization_id, note):
        say(f"entry {found.place}, {found.record.type}", err=True)
        say_json(text.decode())
    return 0


@click.command(
    "override",
    help=help_of("""Note that a person set an outcome aside.

The answer was given and stays what it was: what follows from it, a review ended or a payment let
through, is done where it is done, and the log told here who did it. What stood before is read in
the log. Reports of the authorization say both.
"""),
)
@click.argument("log", type=FOLDER, metavar="DIR")
@click.argument("authorization_id", metavar="ID")
@click.option(
    "--outcome",
    type=click.Choice([str(one) for one in Outcome]),
    required=True,
    help="What takes its place.",
)
@_who
def override(log: Path, authorization_id: str, outcome: str, who: str, case: str) -> int:
    """Returns 0. Raises Rejected without a decision, or where that outcome stands; Misconfigured,
    Unavailable, Corrupt."""
    settings, _ = load()
    done = parts.set_aside(settings, log, authorization_id, Outcome(outcome), who=who, case=case)
    say(f"{authorization_id}  {done.before} set aside, {done.after} by {who} for {case}")
    say(f"record     event {done.sequence} of the keystore; the auditor appends it")
    return 0


@click.group("keys", help=help_of(__doc__))
def keys() -> None:
    """Several actions."""


@keys.command("init", help="Make a keystore, for a log without records.")
def init() -> int:
    """Returns 0. Raises Misconfigured where there is one, or a part of one."""
    settings, _ = load()
    parts.make_keystore(settings)
    say(f"{settings.keystore.path}: made, with its root keys in {settings.keystore.roots}")
    if not settings.keystore.copies:
        say("keystore.copies names no folder: after an erasure there is no copy of it", err=True)
    return 0


@keys.command("show", help="How many keys there are of each quarter, and which holds.")
def show() -> int:
    """Returns 0. Raises Misconfigured, Unavailable, Corrupt."""
    settings, _ = load()
    with parts.keystore(settings) as store:
        counts, holds, emitter = store.counts(), store.holds(), store.emitter
    say(f"{emitter}: {counts.events} events, root key {counts.generation}")
    for period, number in counts.keys.items():
        say(f"  {period}  {number:>12,} keys")
    say(f"  {counts.erased:,} subjects erased, {counts.holds:,} holds")
    for one in holds:
        say(f"  {one.subject}  held for {one.case}")
    return 0


@keys.command("subject", help="Print the pseudonym of a card.")
@_whose
def subject(tenant: str | None, card: str | None, subject: str | None) -> int:
    """Returns 0. Raises Misconfigured, Unavailable."""
    settings, _ = load()
    say(_subject(settings, tenant, card, subject))
    return 0


@keys.command("expire", help="Destroy keys past their retention, but for those under a hold.")
@click.option(
    "--through",
    metavar="QUARTER",
    help="The last one (default: by keystore.keep_quarters of the settings).",
)
@_who
def expire(through: str | None, who: str, case: str) -> int:
    """Returns 0. Raises Rejected for a quarter that is not over, or that a duty keeps,
    Misconfigured, Unavailable."""
    last, gone = parts.expire(load()[0], through, who=who, case=case)
    say(f"{gone:,} keys of {last} and before destroyed")
    return 0


@keys.command("rewrap", help=help_of("""Let another key wrap the root keys; the log tells of it.

Set keystore.wrapper to the new one, say with --before what it was until now, and destroy the old
key afterwards. Nothing else may use the keystore meanwhile.
"""))  # fmt: skip
@click.option(
    "--before", required=True, metavar="WRAPPER", help='As keystore.wrapper had it; "" for nothing.'
)
@_who
def rewrap(before: str, who: str, case: str) -> int:
    """Returns 0. Raises Misconfigured, Unavailable."""
    settings, _ = load()
    done = parts.rewrap(settings, before, who=who, case=case)
    say(f"{done.before} wraps the root keys no longer, {done.after} does")
    say(f"record     event {done.sequence} of the keystore; the auditor appends it")
    return 0


@keys.command("copy", help="Copy the keystore, whole, while it is used; without its root keys.")
@click.argument("folder", type=FOLDER, metavar="DIR")
def copy(folder: Path) -> int:
    """Returns 0. Raises Misconfigured, Unavailable."""
    settings, _ = load()
    with parts.keystore(settings) as store:
        say(str(store.copy(folder)))
    return 0


@keys.command("sweep", help="Take out of the archive again whatever was erased before.")
@archive_option
def sweep(archive: str | None) -> int:
    """Returns 0. Raises Misconfigured, Unavailable, Corrupt."""
    settings, _ = load()
    say(f"{parts.sweep(settings, archive_named(settings, archive))} rows rewritten")
    return 0


@keys.command("reapply", help="Do again what a log says was done, after a copy was brought back.")
@click.argument("log", type=FOLDER, metavar="DIR")
def reapply(log: Path) -> int:
    """Returns 0. Raises Misconfigured, Unavailable; Corrupt for another keystore's log."""
    settings, _ = load()
    say(f"{parts.reapply(settings, log)} events done again")
    return 0


COMMANDS: tuple[click.Command, ...] = (
    erase, hold, unhold, grant, open_sealed, override, keys,
)  # fmt: skip
"""Of the group ``sluice log``."""
