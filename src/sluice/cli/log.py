"""Check the compliance log, prove entries of it, look into it, and let a card be forgotten.

sluice log verify DIR --key KEY        # every byte, signature and record
sluice log verify DIR --key KEY --accounting   # and that none is missing
sluice log prove DIR ID --key KEY --out FILE   # a proof that stands alone
sluice log verify-proof FILE --key KEY
sluice log diff CP1 CP2 --log DIR --key KEY    # did it only grow?
sluice log tail DIR                    # the newest records
sluice log stats DIR                   # what it holds
sluice log keygen --out FILE --name ORIGIN     # FILE (secret), FILE.pub
sluice log erase --tenant T --card - --who ann --case GDPR-17
sluice log hold --tenant T --card - --who ann --case C-5   # until `unhold`
sluice log grant ID --who bob --case FRAUD-3 --key FILE --out GRANT
sluice log open DIR ID --grant GRANT   # what is sealed; written down
sluice log override DIR ID --outcome approve --who bob --case REV-7
sluice log keys show

DIR is one log's folder, or a copy of it; nothing but --accounting asks the network: the
brokers, for their watermarks and for what they hold where the log has a gap. KEY is the log's
verifier key, name+id+base64, or a file of such, which you have from somebody you trust, not from
the folder.

Exit status: 0 it holds, 1 tampered, 2 incomplete, 3 cannot be verified, 64 wrong usage
(docs/reference/compliance-log.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from sluice.audit.errors import Malformed, Refuted, Tampered
from sluice.audit.notes import LOG, Key
from sluice.bootstrap import log as parts
from sluice.cli.log_keys import COMMANDS
from sluice.cli.output import say, say_document, say_json, write
from sluice.cli.parameters import FOLDER, bootstrap_option
from sluice.cli.progress import Progress
from sluice.cli.text import help_of
from sluice.cli.trusting import keys_of, order_of, trusting
from sluice.domain.clock import SECOND_US, to_datetime
from sluice.errors import SluiceError
from sluice.settings import load

if TYPE_CHECKING:
    from sluice.application.log_accounting import Accounts
    from sluice.application.verify_log import Verdict

OK, TAMPERED, UNVERIFIABLE = 0, 1, 3
TAIL = 10
MISSING_SHOWN = 20


@click.group(help=help_of(__doc__))
def command() -> None:
    """What a log's folder, a proof or a checkpoint holds. Exit statuses are the group's."""


_retired = click.option(
    "--retired", "retired", multiple=True, metavar="KEY",
    help="A key that a log had before, or a file of such: it signed checkpoints given beside it.",
)  # fmt: skip
_json = click.option("--json", "as_json", is_flag=True, help="For programs.")


def _note(path: Path, option: str) -> bytes:
    try:
        return parts.read_note(path)
    except SluiceError as exc:
        raise click.BadParameter(str(exc), param_hint=option) from exc


def _one_key(keys: Sequence[str]) -> Key:
    found = keys_of(keys, LOG, "--key")
    if len(found) != 1:
        raise click.BadParameter("one log has one key", param_hint="--key")
    return found[0]


@command.command("verify", help=help_of(
    """Check every byte of a log: signatures, tree, and each record's form, order and origin.

    With --accounting also that nothing is missing: each offset of its sources is in exactly one
    record up to the brokers' watermarks, no committed record lies in a gap that is said to hold
    none, no emitter's numbers have a hole, and the log's writer was never silent for longer than
    it promises. Give all logs of a cell at once then: an emitter's decisions are spread over them.

    With --since a checkpoint that you keep is believed, and what it holds is not read again. With
    --known a checkpoint is only required to be of this log.
    """
))  # fmt: skip
@click.argument("folders", type=FOLDER, nargs=-1, required=True, metavar="DIR...")
@trusting
@_retired
@click.option("--since", type=FOLDER, metavar="CP", help="Check what came after it.")
@click.option("--known", type=FOLDER, multiple=True, metavar="CP", help="Published once.")
@click.option("--accounting", is_flag=True, help="Nothing is missing; asks the brokers.")
@click.option("--offline", is_flag=True, help="With --accounting: look for holes alone.")
@bootstrap_option
@_json
def verify_(
    folders: Sequence[Path],
    keys: Sequence[str],
    witnesses: Sequence[str],
    required: int,
    retired: Sequence[str],
    since: Path | None,
    known: Sequence[Path],
    accounting: bool,
    offline: bool,
    bootstrap: str | None,
    as_json: bool,
) -> int:
    """Returns the worst that was found."""
    from sluice.application.log_accounting import Accounting  # noqa: PLC0415
    from sluice.application.verify_log import verify  # noqa: PLC0415

    order = order_of(witnesses, required)
    logs = keys_of(keys, LOG, "--key")
    before = keys_of(retired, LOG, "--retired")
    if (since or known) and len(folders) > 1:
        raise click.UsageError("--since and --known are of one log")
    if len(logs) != len(folders):
        raise click.UsageError(f"{len(folders)} logs, and {len(logs)} keys of logs, in their order")
    asked_of = [
        order(key)._replace(
            since=None if since is None else _note(since, "--since"),
            known=[_note(path, "--known") for path in known],
            retired=[one for one in before if one.name == key.name],
        )
        for key in logs
    ]
    found: list[Verdict] = []
    account = balance = marks = None
    try:
        with ExitStack() as held:
            if accounting and not offline:
                settings = load()[0]
                brokers = held.enter_context(parts.brokers(settings, bootstrap))
                account, marks = Accounting(brokers.look), parts.watermarks(brokers, settings)
            elif accounting:
                account = Accounting()
            line = held.enter_context(Progress())

            def told(done: int, of: int) -> None:
                line.show(f"log {len(found) + 1}: {done:,} of {of:,} entries", done, of)

            for folder, asked in zip(folders, asked_of, strict=True):
                read = parts.log_files(folder)
                found.append(verify(read, asked, accounting=account, progress=told))
            if account is not None and all(one.status == OK for one in found):
                balance = account.accounts(marks, whole=since is None)
    except SluiceError as error:
        say(f"sluice log: {error}", err=True)
        return UNVERIFIABLE
    if balance is not None:
        for one in found:
            why = ["records are missing"] * bool(balance.missing)
            why += ["its writer was silent"] * any(quiet.writing for quiet in one.silences)
            if why:
                one.verdict, one.why = "incomplete", ", ".join(why)
    if as_json:
        said: dict[str, Any] = {"logs": found}
        if balance is not None:
            said |= {
                "partitions": balance.balances,
                "missing": balance.missing,
                "in_flight": balance.in_flight,
            }
        say_json(msgspec.json.format(msgspec.json.encode(said), indent=2).decode())
    else:
        for verdict in found:
            _say_all(_lines(verdict))
        if balance is not None:
            _say_all(_balance_lines(balance, "no longer provable" if marks else "not looked at"))
    # Tampered is the worst, then incomplete: the smaller of what is not 0.
    return min((one.status for one in found if one.status), default=OK)


def _say_all(lines: Iterator[str]) -> None:
    for line in lines:
        say(line)


def _lines(verdict: Verdict) -> Iterator[str]:
    yield f"{verdict.log}: {verdict.verdict}"
    if verdict.why:
        yield f"  {verdict.why}"
    if verdict.first_bad is not None and verdict.until is not None:
        last = verdict.until - 1
        entries = f"entry {verdict.first_bad}"
        yield "  first bad: " + (entries if last == verdict.first_bad else f"{entries} to {last}")
    since = f" from {verdict.since:,} on" if verdict.since else ""
    yield f"  checked    {verdict.checked:,} of {verdict.size:,} entries{since}"
    if verdict.root:
        yield f"  root       {verdict.root}"
    for name, at_s in sorted(verdict.cosigned.items()):
        yield f"  cosigned   {name}, {to_datetime(at_s * 1_000_000):%Y-%m-%d %H:%M:%S} UTC"
    if verdict.first_at is not None and verdict.last_at is not None:
        yield f"  recorded   {_time(verdict.first_at)} to {_time(verdict.last_at)}"
    if verdict.types:
        yield f"  records    {_counts(verdict.types)}"
    for quiet in verdict.silences[:MISSING_SHOWN]:
        seconds = (quiet.until - quiet.since) / SECOND_US
        yield (
            f"  {'silent    ' if quiet.writing else 'no writer '} {_time(quiet.since)} to "
            f"{_time(quiet.until)}, {seconds:,.1f} s"
            + ": the one before ended without a word"
            * (not quiet.writing)
        )
    if len(verdict.silences) > MISSING_SHOWN:
        yield f"  and {len(verdict.silences) - MISSING_SHOWN:,} more"


def _balance_lines(found: Accounts, unproved: str) -> Iterator[str]:
    missing = found.missing
    yield "accounting: " + ("some offsets or numbers are in no record" if missing else "balances")
    for one in found.balances:
        total = f"{one.until - one.first:,} offsets"
        gaps = f" ({_counts(one.gaps)})" * bool(one.gaps)
        yield (
            f"  {one.topic}/{one.partition} {one.first} to {one.until - 1}: {total} = "
            f"{_counts(one.records) or 'nothing'}{gaps}"
            + (f" + {one.missing:,} missing" * bool(one.missing))
        )
        if one.hidden:
            yield f"    {one.hidden:,} of the gaps' offsets are of committed records"
        if one.unproved:
            yield f"    {one.unproved:,} of the gaps' offsets are {unproved}"
    for hole in missing[:MISSING_SHOWN]:
        yield f"  missing    {hole}"
    if len(missing) > MISSING_SHOWN:
        yield f"  and {len(missing) - MISSING_SHOWN:,} more"
    for hole in found.in_flight[:MISSING_SHOWN]:
        yield f"  in flight  {hole}: on their way when the emitter was last heard of"
    if len(found.in_flight) > MISSING_SHOWN:
        yield f"  and {len(found.in_flight) - MISSING_SHOWN:,} more"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))


def _time(us: int) -> str:
    return f"{to_datetime(us):%Y-%m-%d %H:%M:%S} UTC"


def _failed(exc: Exception) -> int:
    """Say what is wrong with a log or a proof. Returns the status."""
    say(f"sluice log: {exc}", err=True)
    if isinstance(exc, Tampered) and exc.first < exc.until:
        say(f"first bad: entry {exc.first}", err=True)
    return TAMPERED if isinstance(exc, Refuted) else UNVERIFIABLE


@command.command("prove", help=help_of(
    """Write a proof that one record is in a log: the record, its place in the tree, the checkpoint.

    ID is an authorization's; of its records the decision is taken, the others are named. The file
    is a C2SP tlog-proof; verify-proof needs nothing else but the keys.
    """
))  # fmt: skip
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.argument("authorization_id", required=False, metavar="[ID]")
@click.option("--index", type=click.IntRange(min=0), metavar="N", help="Of the entry, instead.")
@trusting
@click.option("--out", type=FOLDER, metavar="FILE", help="Default: stdout.")
def prove_(
    folder: Path,
    authorization_id: str | None,
    index: int | None,
    keys: Sequence[str],
    witnesses: Sequence[str],
    required: int,
    out: Path | None,
) -> int:
    """Returns 0; 1 if the log does not prove it, 3 if it holds none or cannot be read."""
    from sluice.application.prove_entry import prove, records_of, the_one  # noqa: PLC0415
    from sluice.application.read_log import CHECKPOINT, Unverifiable, opened  # noqa: PLC0415

    if (authorization_id is None) == (index is None):
        raise click.UsageError("name the entry by an authorization's ID or by --index")
    order = order_of(witnesses, required)(_one_key(keys))
    read = parts.log_files(folder)
    try:
        now = opened(read, order)
        if authorization_id is not None:
            with Progress() as line:
                found = records_of(
                    read, now.checkpoint.size, authorization_id,
                    lambda done, of: line.show(f"{done:,} of {of:,} entries", done, of),
                )  # fmt: skip
            index = the_one(found)
            for one in found:
                proven = " (proven)" * (one.place == index)
                say(f"entry {one.place}: {one.type}{proven}", err=True)
        proof = bytes(prove(read, read(CHECKPOINT), now, index or 0))
    except (Malformed, Refuted, Unverifiable, OSError) as exc:
        return _failed(exc)
    if out is None:
        say_document(proof)
    else:
        write(out, proof)
    return OK


@command.command("verify-proof", help="Check a proof that `prove` wrote; it needs no log.")
@click.argument("file", type=FOLDER, metavar="FILE")
@trusting
@_json
def verify_proof(
    file: Path, keys: Sequence[str], witnesses: Sequence[str], required: int, as_json: bool
) -> int:
    """Returns 0; 1 if it does not hold, 3 if it is no proof."""
    from sluice.application.prove_entry import check  # noqa: PLC0415

    order = order_of(witnesses, required)(_one_key(keys))
    try:
        raw = parts.read_proof(file)
    except SluiceError as exc:
        say(f"sluice log: {exc}", err=True)
        return UNVERIFIABLE
    try:
        proven = check(raw, order.key, order.witnesses, order.required)
    except (Malformed, Refuted) as exc:
        return _failed(exc)
    checkpoint, cosigned = proven.opened
    if as_json:
        said = {
            "log": checkpoint.origin, "index": proven.place, "size": checkpoint.size,
            "root": checkpoint.root.hex(), "cosigned": cosigned, "record": proven.record,
        }  # fmt: skip
        say_json(msgspec.json.format(msgspec.json.encode(said), indent=2).decode())
    else:
        say(f"entry {proven.place} of {checkpoint.origin}, of {checkpoint.size} entries: holds")
        for name, at_s in sorted(cosigned.items()):
            say(f"  cosigned   {name}, {_time(at_s * 1_000_000)}")
        say(f"  recorded   {_time(proven.record.recorded_at)}")
        say(f"  record     {msgspec.json.encode(proven.record).decode()}")
    return OK


@command.command("diff", help=help_of(
    """Whether a log only grew between two of its checkpoints, and what came in between.

    Two of one size that differ are a fork, for which no log is needed; for two sizes its tiles are.
    """
))  # fmt: skip
@click.argument("one", type=FOLDER, metavar="CP1")
@click.argument("other", type=FOLDER, metavar="CP2")
@click.option("--log", "folder", type=FOLDER, metavar="DIR", help="The log's folder.")
@trusting
@_retired
@_json
def diff(
    one: Path,
    other: Path,
    folder: Path | None,
    keys: Sequence[str],
    witnesses: Sequence[str],
    required: int,
    retired: Sequence[str],
    as_json: bool,
) -> int:
    """Returns 0; 1 for a fork, 3 without the tiles that tell."""
    from sluice.application.read_log import Unverifiable  # noqa: PLC0415
    from sluice.application.verify_log import grown  # noqa: PLC0415

    order = order_of(witnesses, required)(_one_key(keys))
    order = order._replace(retired=keys_of(retired, LOG, "--retired"))
    raws = [_note(path, f"CP{at}") for at, path in enumerate((one, other), 1)]
    try:
        read = None if folder is None else parts.log_files(folder)
        found = grown(read, order, *raws)
    except (Malformed, Refuted, Unverifiable, OSError) as exc:
        return _failed(exc)
    if as_json:
        say_json(msgspec.json.encode(found).decode())
    else:
        say(f"{found.log}: the first {found.since:,} of {found.size:,} entries are the same")
        say(f"  new        {_counts(found.types) or 'none'}")
    return OK


@command.command("tail", help="The newest records of a log, as they are written; unverified.")
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.option(
    "--count", "-n", type=click.IntRange(min=0, max=100_000), default=TAIL, show_default=True,
    metavar="N", help="So many.",
)  # fmt: skip
def tail(folder: Path, count: int) -> int:
    """Returns 0, or 3 for a log that cannot be read."""
    from sluice.application.read_log import Unverifiable, bundles, size_of  # noqa: PLC0415
    from sluice.audit.entries import split  # noqa: PLC0415

    read = parts.log_files(folder)
    try:
        size = size_of(read)
        since = max(0, size - count)
        for first, entries in bundles(read, size, since):
            for at, entry in enumerate(entries, first):
                if at >= since:
                    header, sealed = split(entry)
                    say(f"{at} {len(sealed):,} {header.decode(errors='backslashreplace')}")
    except (Malformed, Unverifiable, OSError) as exc:
        return _failed(exc)
    return OK


@command.command("keygen", help=help_of("""Make the key of a log, or of a witness.

FILE is the private key, for its owner alone; FILE.pub and the output hold the verifier key, which
goes to whoever checks, and to witnesses.
"""))  # fmt: skip
@click.option("--out", type=FOLDER, required=True, metavar="FILE", help="A new file.")
@click.option(
    "--name", required=True, metavar="NAME",
    help="A log's origin, environment/cell/shard; or a witness's own name.",
)  # fmt: skip
@click.option("--witness", is_flag=True, help="It cosigns, and signs no log.")
def keygen(out: Path, name: str, witness: bool) -> int:
    """Returns 0. Raises Misconfigured."""
    from sluice.application.log_keys import make_log_key  # noqa: PLC0415

    say(str(make_log_key(out, name, witness=witness)))
    return OK


@command.command("stats", help="What a log holds, by type and emitter; unverified.")
@click.argument("folder", type=FOLDER, metavar="DIR")
@_json
def stats(folder: Path, as_json: bool) -> int:
    """Returns 0, or 3 for a log that cannot be read."""
    from sluice.application.read_log import Unverifiable  # noqa: PLC0415
    from sluice.application.verify_log import stats_of  # noqa: PLC0415

    try:
        with Progress() as line:
            found = stats_of(
                parts.log_files(folder),
                lambda done, of: line.show(f"{done:,} of {of:,} entries", done, of),
            )
    except (Malformed, Unverifiable, OSError) as exc:
        return _failed(exc)
    if as_json:
        say_json(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
        return OK
    say(f"{found.log}: {found.entries:,} entries, {found.bytes:,} bytes")
    say(f"  sealed     {found.sealed:,} entries, {found.sealed_bytes:,} bytes of them")
    if found.first_at is not None and found.last_at is not None:
        say(f"  recorded   {_time(found.first_at)} to {_time(found.last_at)}")
    for kind, count in sorted(found.types.items()):
        say(f"  {kind:<12} {count:>12,}  {found.bytes_by_type[kind]:>16,} bytes")
    for emitter, count in sorted(found.emitters.items()):
        say(f"  {count:>12,} by {emitter}")
    return OK


for one in COMMANDS:
    command.add_command(one)
