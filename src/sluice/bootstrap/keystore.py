"""What the keystore's verbs and the auditor need of it, joined."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec import structs

from sluice.adapters.keystore.roots import FileWrapper, KeyWrapper, NoWrapper, RootFile
from sluice.adapters.keystore.sqlite import SqliteKeystore
from sluice.adapters.regular_files import read_regular
from sluice.adapters.storage import AnyPath
from sluice.adapters.tiles.folder import LogFolder
from sluice.application import open_record
from sluice.application import set_aside as overrides
from sluice.application.open_record import key_events
from sluice.application.sealing import earlier, period_of
from sluice.application.sign_release import read_private_key
from sluice.bootstrap import verbs
from sluice.domain import duties
from sluice.domain.clock import HOUR_US, SystemClock
from sluice.domain.records.key_event import KeyEvent
from sluice.domain.records.log_record import WORD
from sluice.domain.records.outcome import Outcome
from sluice.errors import Misconfigured, Rejected
from sluice.settings import Settings


def open_keystore(settings: Settings) -> SqliteKeystore:
    """That of the settings. The caller closes it.

    Raises Misconfigured, with code ``no_keystore`` where none was made, and where keys would not be
    kept for as long as a duty asks; Corrupt, Unavailable.
    """
    given = settings.keystore
    least, duty = duties.quarters(given.duties)
    if given.keep_quarters < least:
        raise Misconfigured(
            f"keys of {given.keep_quarters} quarters would be kept, {duty} asks for {least}",
            where="keystore.keep_quarters",
            fix=f"{least} or more, or take {duty} out of keystore.duties",
        )
    copies = Path(given.copies) if given.copies else None
    return SqliteKeystore(Path(given.path), _roots(settings), SystemClock(), copies)


def expire(settings: Settings, through: str | None, *, who: str, case: str) -> tuple[str, int]:
    """Destroy the keys of a quarter and of all before it; None is by ``keystore.keep_quarters``.
    Returns the quarter, and how many keys. Raises Rejected for a quarter that is not over, or that
    a duty keeps."""
    now = period_of(SystemClock().now_us())
    through = through or earlier(now, settings.keystore.keep_quarters + 1)
    least, duty = duties.quarters(settings.keystore.duties)
    if least and through > (last := earlier(now, least + 1)):
        raise Rejected(
            f"{duty} keeps the {least} quarters before this one", where=through, fix=f"{last}"
        )
    with keystore(settings) as store:
        return through, store.expire(through, who=who, case=case)


@contextmanager
def keystore(settings: Settings) -> Iterator[SqliteKeystore]:
    """The same, closed at the end."""
    opened = open_keystore(settings)
    try:
        yield opened
    finally:
        opened.close()


def make_keystore(settings: Settings) -> None:
    """A new one. Raises Misconfigured where there is one, or a part of one."""
    SqliteKeystore.make(Path(settings.keystore.path), _roots(settings))


def erase(
    settings: Settings, subject: str, through: str, archive: AnyPath, *, who: str, case: str
) -> KeyEvent:
    """Erase a subject from the archive, then destroy its keys; both can be done again.

    archive: a folder that is not there has nothing to erase. Raises Rejected, with code HELD under
    a legal hold: then nothing was changed.
    """
    with keystore(settings) as store:
        store.check_erasable(subject)
        rows = _sweep(archive, lambda one: through if one == subject else "", store)
        return store.erase(subject, through, who=who, case=case, archive_rows=rows)


def sweep(settings: Settings, archive: AnyPath) -> int:
    """Erase from the archive whatever was erased in the keystore; holds are not asked again.
    Returns the rows rewritten."""
    with keystore(settings) as store:
        erased = store.erased()
        return _sweep(archive, lambda one: erased.get(one, ""), store) or 0


def reapply(settings: Settings, log: Path) -> int:
    """Do again what a log says was done to a keystore that came back from a copy. Returns how many
    events were new. Raises Corrupt where it is another keystore's log."""
    with keystore(settings) as store:
        return store.reapply(key_events(LogFolder(log).read, store.emitter))


def grant(authorization_id: str, *, who: str, case: str, hours: int, key_file: Path) -> bytes:
    """See :func:`sluice.application.open_record.grant`."""
    now = SystemClock().now_us()
    key = read_private_key(key_file)
    until = now + hours * HOUR_US
    return open_record.grant(authorization_id, who=who, case=case, until=until, now_us=now, key=key)


def granted(
    settings: Settings, note: Path, authorization_id: str
) -> tuple[bytes, open_record.Grant]:
    """A grant of a file, and its bytes. Raises Rejected for one that does not hold."""
    raw = read_regular(note, open_record.GRANT_MAX_BYTES)
    now = SystemClock().now_us()
    trusted = verbs.trusted_keys(Path(settings.keystore.grants)).at(now)
    return raw, open_record.granted(raw, authorization_id, trusted=trusted, now_us=now)


def open_entries(
    settings: Settings, log: Path, authorization_id: str, note: Path
) -> Iterator[tuple[open_record.Found, bytes]]:
    """The sealed parts of an authorization's entries. Raises Rejected without a grant; see
    :func:`sluice.application.open_record.opened`."""
    raw, given = granted(settings, note, authorization_id)
    with keystore(settings) as store:
        found = _entries(log, authorization_id)
        yield from open_record.opened(found, authorization_id, raw, given, store)


def set_aside(
    settings: Settings, log: Path, authorization_id: str, outcome: Outcome, *, who: str, case: str
) -> KeyEvent:
    """See :func:`sluice.application.set_aside.set_aside`."""
    with keystore(settings) as store:
        found = _entries(log, authorization_id)
        return overrides.set_aside(found, authorization_id, outcome, store, who=who, case=case)


def tell(
    settings: Settings,
    action: str,
    target: str,
    told: Sequence[str],
    *,
    who: str | None,
    case: str | None,
) -> None:
    """Have the log told who changes how the system runs, before it is done.

    told: lines that say what is done, none for nothing. Raises Rejected for one of who and case
    without the other, and for what is no login or ticket; Misconfigured without a keystore.
    """
    if not who or not case:
        raise Rejected("one of --who and --case is missing", fix="say both, or neither")
    if told:
        with keystore(settings) as store:
            store.admin(action, target, told, who=who, case=case)


def _entries(log: Path, authorization_id: str) -> Iterator[open_record.Found]:
    """Those whose header has the id somewhere."""
    mark = b'"authorization_id":' + msgspec.json.encode(authorization_id)
    return open_record.entries(LogFolder(log).read, lambda header: mark in header)


def _sweep(archive: AnyPath, through: Callable[[str], str], store: SqliteKeystore) -> int | None:
    if isinstance(archive, Path) and not archive.is_dir():
        return None
    return verbs.erase_rows(archive, lambda tenant, token: through(store.subject(tenant, token)))


def rewrap(settings: Settings, before: str, *, who: str, case: str) -> KeyEvent:
    """Let ``keystore.wrapper`` wrap the root keys, where ``before`` did, written as it is; ""
    wrapped them with nothing. Raises Misconfigured, Unavailable."""
    wrapped_before = structs.replace(
        settings, keystore=structs.replace(settings.keystore, wrapper=before)
    )
    after = settings.keystore.wrapper
    if after == before:
        raise Misconfigured(
            "the same wraps them already", where="keystore.wrapper", fix="set it to the new one"
        )
    with keystore(wrapped_before) as store:
        return store.rewrap(
            _wrapper(settings), before=_named(before), after=_named(after), who=who, case=case
        )


def _named(wrapper: str) -> str:
    """How a record names it: as the settings do; by its digest what is no word of a record."""
    if not wrapper:
        return "nothing"
    digest = f"sha256-{hashlib.sha256(wrapper.encode()).hexdigest()[:32]}"
    return wrapper if WORD.fullmatch(wrapper) else digest


def _roots(settings: Settings) -> RootFile:
    return RootFile(Path(settings.keystore.roots), _wrapper(settings))


def _wrapper(settings: Settings) -> KeyWrapper:
    kind, _, rest = settings.keystore.wrapper.partition(":")
    if not kind:
        return NoWrapper()
    if kind == "file" and rest:
        return FileWrapper(Path(rest))
    if kind == "kms" and rest:
        from sluice.adapters.keystore.kms import KmsWrapper  # noqa: PLC0415 - an extra, 40 MB

        cell = f"{settings.auditor.environment}/{settings.auditor.cell}"
        return KmsWrapper(rest, {"sluice:cell": cell})
    raise Misconfigured(
        f"no wrapper {settings.keystore.wrapper!r}",
        where="keystore.wrapper",
        fix="file:PATH, kms:KEY, or nothing",
    )
