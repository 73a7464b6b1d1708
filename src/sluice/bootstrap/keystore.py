"""What the keystore's verbs and the auditor need of it, joined."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from sluice.adapters.keystore.roots import FileWrapper, KeyWrapper, NoWrapper, RootFile
from sluice.adapters.keystore.sqlite import SqliteKeystore
from sluice.adapters.regular_files import read_regular
from sluice.adapters.tiles.folder import LogFolder
from sluice.application import open_record
from sluice.application.open_record import key_events
from sluice.application.sign_release import read_private_key
from sluice.bootstrap import verbs
from sluice.domain.clock import HOUR_US, SystemClock
from sluice.domain.records.key_event import KeyEvent
from sluice.errors import Misconfigured
from sluice.settings import Settings


def open_keystore(settings: Settings) -> SqliteKeystore:
    """That of the settings. The caller closes it.

    Raises Misconfigured, with code ``no_keystore`` where none was made; Corrupt, Unavailable.
    """
    given = settings.keystore
    copies = Path(given.copies) if given.copies else None
    return SqliteKeystore(Path(given.path), _roots(settings), SystemClock(), copies)


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
    settings: Settings, subject: str, through: str, archive: Path, *, who: str, case: str
) -> KeyEvent:
    """Erase a subject from the archive, then destroy its keys; both can be done again.

    archive: a folder that is not there has nothing to erase. Raises Rejected, with code HELD under
    a legal hold: then nothing was changed.
    """
    with keystore(settings) as store:
        store.check_erasable(subject)
        rows = _sweep(archive, lambda one: through if one == subject else "", store)
        return store.erase(subject, through, who=who, case=case, archive_rows=rows)


def sweep(settings: Settings, archive: Path) -> int:
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


def open_entries(
    settings: Settings, log: Path, authorization_id: str, note: Path
) -> Iterator[tuple[open_record.Found, bytes]]:
    """The sealed parts of an authorization's entries. Raises Rejected without a grant; see
    :func:`sluice.application.open_record.opened`."""
    raw = read_regular(note, open_record.GRANT_MAX_BYTES)
    now = SystemClock().now_us()
    trusted = verbs.trusted_keys(Path(settings.keystore.grants)).at(now)
    given = open_record.granted(raw, authorization_id, trusted=trusted, now_us=now)
    mark = b'"authorization_id":' + msgspec.json.encode(authorization_id)
    with keystore(settings) as store:
        found = open_record.entries(LogFolder(log).read, lambda header: mark in header)
        yield from open_record.opened(found, authorization_id, raw, given, store)


def _sweep(archive: Path, through: Callable[[str], str], store: SqliteKeystore) -> int | None:
    if not archive.is_dir():
        return None
    return verbs.erase_rows(archive, lambda tenant, token: through(store.subject(tenant, token)))


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
