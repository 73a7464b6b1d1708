"""A keystore in one SQLite file: mutable, outside the log, made so that it can forget.

root key (another file) > pepper and bucket keys > secrets of subject and quarter. A bucket holds
the secrets of one quarter whose subjects share their first ten bits. To erase a subject, its
buckets' keys and the root are made anew and what is left is wrapped anew, then the old root is
forgotten: neither freed pages of this file, what SQLite kept beside it, nor any copy of it from
before can be opened again. That costs one wrap for each bucket, and for each secret of the
subject's (docs/decisions/0049-sealing.md).
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sluice.adapters.keystore.roots import DISK, KeyWrapper, RootFile, check_private
from sluice.application.open_record import Opening
from sluice.application.sealing import (
    NONCE_BYTES,
    PERIOD,
    SECRET_BYTES,
    SUBJECT,
    Erased,
    SealingKey,
    period_of,
    subject_of,
)
from sluice.domain.clock import Clock
from sluice.domain.records.key_event import Given, KeyEvent, KeyEventKind, check_given
from sluice.errors import Corrupt, Misconfigured, Rejected, Unavailable
from sluice.faultpoints import kill_at

CACHED_MAX = 100_000
"""Keys held in memory, 1 kB each, and pseudonyms of cards, 0.3 kB each; past it all are let go."""
ASKED_MAX = 500
"""Keys that one question to SQLite is about; an auditor's batch has at most 256."""
BUSY_S = 10
"""Longest a call waits for another process's transaction: an erasure's, mostly."""
COPIES_KEPT = 2
"""Newest copies in the folder of copies; older ones are deleted."""
HELD = "held"
"""Code of a refused erasure: a legal hold is on the subject."""
NO_KEYSTORE = "no_keystore"
"""Code where none was made."""
_BUCKET_BITS = 10
_SHIFT = 16 - _BUCKET_BITS
_SCHEMA = """
CREATE TABLE meta(name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE bucket(period TEXT, bucket INTEGER, wrapped BLOB NOT NULL,
  PRIMARY KEY(period, bucket)) WITHOUT ROWID;
CREATE TABLE secret(period TEXT, subject BLOB, wrapped BLOB NOT NULL,
  PRIMARY KEY(period, subject)) WITHOUT ROWID;
CREATE TABLE erased(subject BLOB PRIMARY KEY, through TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE hold(subject BLOB, case_id TEXT, PRIMARY KEY(subject, case_id)) WITHOUT ROWID;
CREATE TABLE event(sequence INTEGER PRIMARY KEY, event BLOB NOT NULL);
"""
_EVENT = msgspec.json.Decoder(KeyEvent)


@dataclass(frozen=True)
class Hold:
    """Why a subject's keys stay."""

    subject: str
    case: str


@dataclass(frozen=True)
class KeyCounts:
    """What a keystore holds. keys: by quarter."""

    keys: dict[str, int]
    erased: int
    holds: int
    events: int
    generation: int


class SqliteKeystore:
    """See :class:`sluice.application.ports.Keystore`; and what operators do. One thread only.

    copies: a folder on another volume, to which a copy goes before an erasure forgets the old root:
    without one, a lost file after an erasure is lost with all its keys.
    """

    def __init__(self, path: Path, roots: RootFile, clock: Clock, copies: Path | None) -> None:
        """Open one that was made. Raises Misconfigured; Corrupt if it is from before an erasure."""
        if not path.exists():
            raise Misconfigured(
                "there is no keystore",
                where=str(path),
                fix="make one, for a log without records: sluice log keys init; for one with "
                "records bring a copy back: docs/runbooks/keystore.md",
                code=NO_KEYSTORE,
            )
        check_private(path)
        self._path = path
        self._roots = roots
        self._clock = clock
        self._copies = copies
        self._ciphers: dict[tuple[str, int], AESGCM] = {}
        self._cached: dict[tuple[str, str], SealingKey | None] = {}
        self._subjects: dict[tuple[str, str], str] = {}
        self._version = -1
        with _translated(path):
            self._db = _connect(path)
        self._finish()  # what an erasure that was killed had left to do
        with self._reading():
            self._pepper = self._unwrap(self._root, b"pepper", self._meta("pepper"))
            self.emitter = "keystore-" + self._meta("id").decode()

    @classmethod
    def make(cls, path: Path, roots: RootFile) -> None:
        """A new, empty keystore and its root. Raises Misconfigured where there is one, or a part
        of one."""
        if path.exists() or roots.exists():
            raise Misconfigured(
                "there is a keystore, or a part of one",
                where=str(path),
                fix="a lost part is brought back from a copy: docs/runbooks/keystore.md",
            )
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        root, fresh = os.urandom(SECRET_BYTES), path.with_name(f".{path.name}.fresh")
        fresh.unlink(missing_ok=True)
        with _translated(path):
            os.close(os.open(fresh, os.O_CREAT | os.O_EXCL, 0o600))
            db = _connect(fresh)
            db.executescript(_SCHEMA)
            values = {
                "id": os.urandom(4).hex().encode(),
                "generation": b"0",
                "expired": b"",
                "pepper": _wrap(AESGCM(root), b"pepper", os.urandom(SECRET_BYTES)),
            }
            db.executemany("INSERT INTO meta VALUES (?, ?)", values.items())
            db.close()
            roots.add(0, root)
            fresh.replace(path)

    # What the auditor asks.

    def subject(self, tenant: str, card_token: str) -> str:
        """See the port, here and below."""
        card = tenant, card_token
        found = self._subjects.get(card)
        if found is None:
            if len(self._subjects) >= CACHED_MAX:
                self._subjects.clear()
            found = self._subjects[card] = subject_of(self._pepper, tenant, card_token)
        return found

    def keys(self, wanted: Sequence[tuple[str, str]]) -> list[SealingKey | None]:
        """Costs a look at the file's version, and a read of each key that is not in memory."""
        while True:  # again where another process wrote meanwhile: what was read is let go
            with self._reading():
                missing = {one for one in wanted if one not in self._cached}
                if len(self._cached) + len(missing) > CACHED_MAX:
                    self._cached.clear()
                    missing.update(wanted)
                absent = self._read(missing)
                if not absent:
                    return [self._cached[one] for one in wanted]
            self._make(absent)

    def key(self, subject: str, period: str) -> SealingKey:
        """One of them."""
        found = self.keys([(subject, period)])[0]
        if found is None:
            raise _erased(subject, period)
        return found

    def existing(self, subject: str, period: str) -> SealingKey:
        """Makes none."""
        with self._reading():
            one = subject, period
            if one not in self._cached:
                self._read([one])
            found = self._cached.get(one)
        if found is None:
            raise _erased(subject, period)
        return found

    def events(self, since: int, limit: int) -> list[KeyEvent]:
        """In order."""
        with _translated(self._path):
            if since > self._next_event():
                raise Corrupt(
                    f"the keystore has had {self._next_event()} events, the log holds {since}: it "
                    "was brought back from a copy, and may hold keys that were erased since",
                    where=str(self._path),
                    fix="sluice log keys reapply: docs/runbooks/keystore.md",
                    code="keystore_behind",
                )
            rows = self._db.execute(
                "SELECT event FROM event WHERE sequence >= ? ORDER BY sequence LIMIT ?",
                (since, limit),
            )
            return [_EVENT.decode(raw) for (raw,) in rows]

    # What operators do.

    def check_erasable(self, subject: str) -> None:
        """Raises Rejected with code HELD while a hold is on it."""
        if held := [hold.case for hold in self.holds(subject)]:
            raise Rejected(
                f"a legal hold is on this subject: {', '.join(held)}",
                where=f"subject {subject}",
                fix="sluice log unhold, once the case is over",
                code=HELD,
            )

    def erase(
        self, subject: str, through: str, *, who: str, case: str, archive_rows: int | None = None
    ) -> KeyEvent:
        """Destroy a subject's keys of a quarter and of all before it; none is made again.

        archive_rows: what was rewritten of the archive, for the record. Raises Rejected, with code
        HELD while a hold is on it."""
        event = self._event("erasure", who, case, subject=subject, through=through)
        with self._forgetting():
            self.check_erasable(subject)
            periods = self._destroy(subject, through)
            event = self._note(
                msgspec.structs.replace(event, periods=periods, archive_rows=archive_rows)
            )
        return event

    def expire(self, through: str, *, who: str, case: str) -> int:
        """Destroy all keys of a quarter and of all before it, but for those under a hold. Returns
        how many. Raises Rejected for a quarter that is not over."""
        if through >= (now := period_of(self._clock.now_us())):
            raise Rejected(
                f"the quarter {through} is not over", where=now, fix="name an earlier one"
            )
        event = self._event("expiry", who, case, through=through)
        with self._forgetting():
            count = self._destroy_all(through)
            self._note(event)
        return count

    def hold(self, subject: str, *, who: str, case: str) -> KeyEvent:
        """Nothing of the subject's is destroyed until the case is lifted."""
        event = self._event("hold", who, case, subject=subject)
        with self._writing():
            self._db.execute("INSERT OR IGNORE INTO hold VALUES (?, ?)", (_raw(subject), case))
            return self._note(event)

    def unhold(self, subject: str, *, who: str, case: str) -> KeyEvent:
        """Lift one. Raises Rejected where there is none of this case."""
        event = self._event("hold_lifted", who, case, subject=subject)
        with self._writing():
            lifted = self._db.execute(
                "DELETE FROM hold WHERE subject = ? AND case_id = ?", (_raw(subject), case)
            ).rowcount
            if not lifted:
                raise Rejected(f"no hold of case {case} is on this subject", where=subject)
            return self._note(event)

    def access(self, opened: Opening, subject: str | None, *, who: str, case: str) -> KeyEvent:
        """Write down, durably, that somebody opens a record; before it is opened."""
        event = msgspec.structs.replace(
            self._event("access", who, case, subject=subject),
            authorization_id=opened.authorization_id,
            index=opened.index,
            grant=opened.grant,
        )
        with self._writing():
            return self._note(event)

    def override(
        self, authorization_id: str, *, before: str, after: str, who: str, case: str
    ) -> KeyEvent:
        """Write down, durably, that somebody set the outcome of an authorization aside."""
        event = msgspec.structs.replace(
            self._event("override", who, case),
            authorization_id=authorization_id,
            before=before,
            after=after,
        )
        with self._writing():
            return self._note(event)

    def admin(
        self, action: str, target: str, told: Sequence[str], *, who: str, case: str
    ) -> KeyEvent:
        """Write down, durably, that somebody changes how the system runs; before it is done.

        told: lines that say what is done."""
        event = msgspec.structs.replace(
            self._event("admin", who, case),
            action=action,
            target=target,
            detail=hashlib.sha256("\n".join(told).encode()).hexdigest(),
        )
        with self._writing():
            return self._note(event)

    def rewrap(
        self, wrapper: KeyWrapper, *, before: str, after: str, who: str, case: str
    ) -> KeyEvent:
        """Let another key wrap the root keys. before, after: how the settings name the two.

        Killed meanwhile, the file may be wrapped anew without the event: the settings of after
        open it then. Raises Unavailable, Misconfigured."""
        event = msgspec.structs.replace(
            self._event("rewrap", who, case), before=before, after=after
        )
        with self._writing():
            event = self._note(event)
            self._roots.rewrap(wrapper)
        return event

    def holds(self, subject: str | None = None) -> list[Hold]:
        """All, or those of one subject."""
        with _translated(self._path):
            rows = self._db.execute("SELECT subject, case_id FROM hold ORDER BY subject, case_id")
            every = [Hold(raw.hex(), case) for raw, case in rows]
        return [hold for hold in every if subject in (None, hold.subject)]

    def erased(self) -> dict[str, str]:
        """Every subject that was erased, and through which quarter."""
        with _translated(self._path):
            rows = self._db.execute("SELECT subject, through FROM erased")
            return {raw.hex(): through for raw, through in rows}

    def counts(self) -> KeyCounts:
        """How much of what there is. Counts every key: seconds for some ten million."""
        with self._reading():
            keys = self._db.execute(
                "SELECT period, count(*) FROM secret GROUP BY period ORDER BY period"
            )
            return KeyCounts(
                keys=dict(keys.fetchall()),
                erased=self._count("erased"),
                holds=self._count("hold"),
                events=self._next_event(),
                generation=self._generation,
            )

    def reapply(self, events: Sequence[KeyEvent]) -> int:
        """Do again what the log says was done since this copy was made. Returns how many were new.

        events: of this keystore, in order, from any before the copy's end on. Raises Corrupt for
        ones that say otherwise than those held, or leave a hole.
        """
        done = 0
        for event in events:
            if event.sequence < self._next_event():
                if self.events(event.sequence, 1) != [event]:
                    raise Corrupt(
                        f"event {event.sequence} is another one in the log",
                        where=str(self._path),
                        fix="this is not a copy of the keystore that the log was written with",
                    )
                continue
            if event.sequence > self._next_event():
                raise Corrupt(
                    f"the log lacks event {self._next_event()} of the keystore",
                    where=str(self._path),
                    fix="sluice log verify --accounting",
                )
            self._do_again(event)
            done += 1
        return done

    def copy(self, folder: Path) -> Path:
        """A copy of the database, whole or not at all, of no use without the root keys.

        Older ones than COPIES_KEPT are deleted. Raises Unavailable."""
        with _translated(self._path):
            return self._copy(folder)

    def close(self) -> None:
        """Let the file go."""
        self._db.close()

    # Keys.

    def _follow(self) -> None:
        """Let go what was read before another process changed the file. In a transaction only."""
        if self._db.execute("PRAGMA data_version").fetchone()[0] != self._version:
            self._refresh()

    def _refresh(self) -> None:
        version = self._db.execute("PRAGMA data_version").fetchone()[0]
        self._cached.clear()
        self._subjects.clear()  # of a card that was erased nothing stays here
        self._ciphers.clear()
        self._version = -1  # until the root is read: what unwraps it may be away
        self._generation = int(self._meta("generation"))
        found = self._roots.read().get(self._generation)
        if found is None:
            raise Corrupt(
                "the keystore is wrapped under a root key that is gone: it is a copy from before "
                "an erasure, or the root keys are",
                where=str(self._path),
                fix="bring back a copy from after it: docs/runbooks/keystore.md",
                code="root_gone",
            )
        self._root, self._version = AESGCM(found), version

    def _read(self, wanted: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Put keys into memory. Returns those that have to be made. Subject and period of each."""
        absent: list[tuple[str, str]] = []
        by_period: dict[str, list[str]] = {}
        for subject, period in wanted:
            by_period.setdefault(period, []).append(subject)
        for period, subjects in by_period.items():
            for at in range(0, len(subjects), ASKED_MAX):
                absent += self._read_some(period, subjects[at : at + ASKED_MAX])
        return absent

    def _read_some(self, period: str, subjects: Sequence[str]) -> Iterator[tuple[str, str]]:
        raws = [_raw(subject) for subject in subjects]
        among = f"subject IN ({','.join('?' * len(raws))})"
        held = dict(
            self._db.execute(
                f"SELECT subject, wrapped FROM secret WHERE period = ? AND {among}", (period, *raws)
            ).fetchall()
        )
        gone = dict(
            self._db.execute(f"SELECT subject, through FROM erased WHERE {among}", raws).fetchall()
        )
        expired = self._meta("expired").decode()
        for subject, raw in zip(subjects, raws, strict=True):
            if raw in held:
                secret = self._unwrap(self._bucket(period, raw), _named(period, raw), held[raw])
                self._cached[subject, period] = SealingKey(secret)
            elif period <= max(gone.get(raw, ""), expired):
                self._cached[subject, period] = None
            else:
                yield subject, period

    def _make(self, absent: Sequence[tuple[str, str]]) -> None:
        before = self._version
        with self._writing():
            if self._version != before:  # another process may have been first
                absent = self._read(absent)
            made = []
            for subject, period in absent:
                raw, secret = _raw(subject), os.urandom(SECRET_BYTES)
                wrapped = _wrap(self._bucket(period, raw), _named(period, raw), secret)
                made.append((period, raw, wrapped))
                self._cached[subject, period] = SealingKey(secret)
            self._db.executemany("INSERT INTO secret VALUES (?, ?, ?)", made)

    def _bucket(self, period: str, raw: bytes) -> AESGCM:
        """The cipher of a bucket, which is made where there is none."""
        at = period, _number(raw)
        found = self._ciphers.get(at)
        if found is None:
            row = self._db.execute(
                "SELECT wrapped FROM bucket WHERE period = ? AND bucket = ?", at
            ).fetchone()
            secret = self._unwrap(self._root, _place(at), row[0]) if row else self._new_bucket(at)
            found = self._ciphers[at] = AESGCM(secret)
        return found

    def _new_bucket(self, at: tuple[str, int]) -> bytes:
        secret = os.urandom(SECRET_BYTES)
        self._db.execute(
            "INSERT OR REPLACE INTO bucket VALUES (?, ?, ?)",
            (*at, _wrap(self._root, _place(at), secret)),
        )
        return secret

    # Forgetting.

    def _destroy(self, subject: str, through: str) -> list[str]:
        """Returns the quarters of which there was a key."""
        raw = _raw(subject)
        rows = self._db.execute(
            "SELECT period FROM secret WHERE subject = ? AND period <= ? ORDER BY period",
            (raw, through),
        )
        periods = [str(period) for (period,) in rows]
        for period in periods:
            self._db.execute("DELETE FROM secret WHERE period = ? AND subject = ?", (period, raw))
            self._renew(period, _number(raw))
        self._db.execute(
            "INSERT INTO erased VALUES (?, ?)"
            " ON CONFLICT(subject) DO UPDATE SET through = max(through, excluded.through)",
            (raw, through),
        )
        return periods

    def _destroy_all(self, through: str) -> int:
        count = self._db.execute(
            "DELETE FROM secret WHERE period <= ? AND subject NOT IN (SELECT subject FROM hold)",
            (through,),
        ).rowcount
        for period, bucket in self._db.execute(
            "SELECT period, bucket FROM bucket WHERE period <= ?", (through,)
        ).fetchall():
            self._renew(period, bucket)
        self._set("expired", max(self._meta("expired"), through.encode()))
        return count

    def _renew(self, period: str, bucket: int) -> None:
        """Give a bucket a new key, and wrap what is left in it anew."""
        low, high = _bounds(bucket)
        left = self._db.execute(
            "SELECT subject, wrapped FROM secret WHERE period = ? AND subject BETWEEN ? AND ?",
            (period, low, high),
        ).fetchall()
        if not left:
            self._db.execute("DELETE FROM bucket WHERE period = ? AND bucket = ?", (period, bucket))
            self._ciphers.pop((period, bucket), None)
            return
        old = self._bucket(period, low)
        new = AESGCM(self._new_bucket((period, bucket)))
        self._db.executemany(
            "UPDATE secret SET wrapped = ? WHERE period = ? AND subject = ?",
            [
                (_wrap(new, named, self._unwrap(old, named, wrapped)), period, raw)
                for raw, wrapped in left
                for named in (_named(period, raw),)
            ],
        )
        self._ciphers[period, bucket] = new

    @contextmanager
    def _forgetting(self) -> Iterator[None]:
        """A transaction that ends under a new root; then the old one is forgotten.

        Killed before the commit, nothing happened; after it, the next to open the keystore forgets
        the old root."""
        with self._writing():
            yield
            root, generation = os.urandom(SECRET_BYTES), self._generation + 1
            new = AESGCM(root)
            rows = self._db.execute("SELECT period, bucket, wrapped FROM bucket").fetchall()
            self._db.executemany(
                "UPDATE bucket SET wrapped = ? WHERE period = ? AND bucket = ?",
                [
                    (_wrap(new, place, self._unwrap(self._root, place, wrapped)), period, bucket)
                    for period, bucket, wrapped in rows
                    for place in (_place((period, bucket)),)
                ],
            )
            self._set("pepper", _wrap(new, b"pepper", self._pepper))
            self._set("generation", str(generation).encode())
            self._roots.read()
            self._roots.add(generation, root)
            kill_at("keystore.root_added")
        kill_at("keystore.committed")
        self._finish()

    def _finish(self) -> None:
        """Copy the file, then forget every root but the one that it is wrapped under."""
        with self._writing():  # nobody else makes or forgets a root meanwhile
            self._refresh()
            if self._roots.read().keys() == {self._generation}:
                return
            if self._copies is not None:
                self._copy(self._copies)
            kill_at("keystore.copied")
            self._roots.forget_all_but(self._generation)

    def _do_again(self, event: KeyEvent) -> None:
        if event.kind in ("erasure", "expiry"):
            with self._forgetting():
                if event.kind == "erasure":
                    self._destroy(event.subject or "", event.through or "")
                else:
                    self._destroy_all(event.through or "")
                self._write_down(event)
            return
        with self._writing():
            if event.kind in ("hold", "hold_lifted"):
                at = _raw(event.subject or ""), event.case
                if event.kind == "hold":
                    self._db.execute("INSERT OR IGNORE INTO hold VALUES (?, ?)", at)
                else:
                    self._db.execute("DELETE FROM hold WHERE subject = ? AND case_id = ?", at)
            self._write_down(event)

    def _copy(self, folder: Path) -> Path:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            name = f"{self._path.name}.{self._clock.now_us():017}"
            final, fresh = folder / name, folder / f".{name}"
            os.close(os.open(fresh, os.O_CREAT | os.O_TRUNC, 0o600))
            # By a connection of its own: ours may be inside a transaction.
            source, target = _connect(self._path), sqlite3.connect(fresh)
            try:
                source.backup(target)
            finally:
                source.close()
                target.close()
            handle = os.open(fresh, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)
            fresh.replace(final)
            for old in sorted(folder.glob(f"{self._path.name}.*"))[:-COPIES_KEPT]:
                old.unlink()
        except OSError as exc:
            raise Unavailable(
                f"the keystore cannot be copied: {exc.strerror}",
                where=str(folder),
                fix="see to keystore.copies; then open the keystore once: sluice log keys show",
            ) from exc
        return final

    # Events, and the file.

    def _event(
        self,
        kind: KeyEventKind,
        who: str,
        case: str,
        *,
        subject: str | None = None,
        through: str | None = None,
    ) -> KeyEvent:
        check_given(Given(who, case))
        if subject is not None:
            _raw(subject)
        if through is not None and not PERIOD.fullmatch(through):
            raise Rejected("a quarter is written as in 2026Q4", where="through")
        return KeyEvent(
            sequence=0,
            at=self._clock.now_us(),
            kind=kind,
            who=who,
            case=case,
            subject=subject,
            through=through,
        )

    def _note(self, event: KeyEvent) -> KeyEvent:
        event = msgspec.structs.replace(event, sequence=self._next_event())
        self._write_down(event)
        return event

    def _write_down(self, event: KeyEvent) -> None:
        self._db.execute(
            "INSERT INTO event VALUES (?, ?)", (event.sequence, msgspec.json.encode(event))
        )

    def _next_event(self) -> int:
        found = self._db.execute("SELECT max(sequence) FROM event").fetchone()[0]
        return 0 if found is None else int(found) + 1

    def _count(self, of: str) -> int:
        return int(self._db.execute(f"SELECT count(*) FROM {of}").fetchone()[0])

    def _meta(self, name: str) -> bytes:
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise Corrupt("not a keystore", where=str(self._path), fix="bring a copy back")
        return bytes(row[0])

    def _set(self, name: str, value: bytes) -> None:
        self._db.execute("UPDATE meta SET value = ? WHERE name = ?", (value, name))

    def _unwrap(self, cipher: AESGCM, place: bytes, wrapped: bytes) -> bytes:
        try:
            return cipher.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], place)
        except (InvalidTag, ValueError) as exc:
            raise Corrupt(
                "a key of the keystore cannot be unwrapped",
                where=str(self._path),
                fix="the file was changed: bring a copy back, docs/runbooks/keystore.md",
                code="unwrap",
            ) from exc

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """One state of the file: no erasure ends between two things that are read of it."""
        with _translated(self._path):
            self._db.execute("BEGIN")
            try:
                self._follow()
                yield
            finally:
                if self._db.in_transaction:
                    self._db.execute("COMMIT")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction, durable when it ends. What was read before it is read again."""
        with _translated(self._path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._follow()
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk has ended it already
                    self._db.execute("ROLLBACK")
                self._version = -1  # nothing that was put into memory meanwhile holds
                self._cached.clear()
                self._ciphers.clear()
                raise


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    db.execute("PRAGMA secure_delete=ON")
    db.execute("PRAGMA synchronous=FULL")
    return db


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as exc:
        if isinstance(exc, sqlite3.OperationalError):
            held = exc.sqlite_errorcode == sqlite3.SQLITE_BUSY
            raise Unavailable(
                f"the keystore cannot be used: {exc}",
                where=str(path),
                fix="another process holds it" if held else "is the disk full, or read-only?",
                code="" if held else DISK,
            ) from exc
        raise Corrupt(
            f"the keystore is damaged: {exc}",
            where=str(path),
            fix="bring a copy back: docs/runbooks/keystore.md",
        ) from exc


def _wrap(cipher: AESGCM, place: bytes, secret: bytes) -> bytes:
    nonce = os.urandom(NONCE_BYTES)
    return nonce + cipher.encrypt(nonce, secret, place)


def _raw(subject: str) -> bytes:
    if not SUBJECT.fullmatch(subject):
        raise Rejected("a subject is 32 hexadecimal digits", where="subject")
    return bytes.fromhex(subject)


def _number(raw: bytes) -> int:
    return int.from_bytes(raw[:2], "big") >> _SHIFT


def _bounds(bucket: int) -> tuple[bytes, bytes]:
    low = bucket << _SHIFT
    return low.to_bytes(2, "big") + bytes(14), (low | (1 << _SHIFT) - 1).to_bytes(2, "big") + (
        b"\xff" * 14
    )


def _place(at: tuple[str, int]) -> bytes:
    return f"bucket {at[0]} {at[1]}".encode()


def _named(period: str, raw: bytes) -> bytes:
    return f"secret {period} ".encode() + raw


def _erased(subject: str, period: str) -> Erased:
    return Erased(
        "the key was destroyed, or never made: what it sealed cannot be opened",
        where=f"subject {subject}, {period}",
    )
