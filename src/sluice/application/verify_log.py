"""Check a log offline: its tree, who signed it, what its records say, and that none is missing.

The bytes are the leaf's business (:mod:`sluice.audit.verify`). Here every header is read in the one
form it may have, must be of this log, and must not go back in time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, reduce
from operator import or_
from types import UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec

from sluice.application.log_accounting import Accounting
from sluice.application.read_log import (
    Order,
    Unverifiable,
    bundles,
    given,
    opened,
    signer_of,
    size_of,
)
from sluice.audit.checkpoints import Opened
from sluice.audit.entries import HEADER_MAX_BYTES, split
from sluice.audit.errors import Malformed, Tampered
from sluice.audit.tiles import Read
from sluice.audit.verify import check_grown, verified_bundles
from sluice.domain.records.log_record import TYPES, AnyRecord, KeyRotationRecord

Word = Literal["ok", "tampered", "incomplete", "unverifiable"]
WORDS: tuple[Word, ...] = get_args(Word)
"""In the order of the exit statuses of ``sluice log``."""
OK = WORDS.index("ok")
SKEW_MAX_US = 60_000_000
"""How far the clocks of a log's writers, one after another, and of its witnesses may be apart."""
EMITTERS_MAX = 1_000
"""That a log's statistics name."""
TELL_EVERY = 65_536
"""Entries between two words of progress."""


class Grown(msgspec.Struct):
    """What came between two checkpoints, by type: the entries since to size - 1."""

    log: str
    since: int
    size: int
    types: dict[str, int]


class Verdict(msgspec.Struct, kw_only=True):
    """What was found of one log. first_bad: index of the first entry that may not be the one that
    was signed; until: the last of them, exclusive. Times are microseconds UTC."""

    v: Literal[1] = 1
    verdict: Word = "ok"
    log: str
    why: str = ""
    first_bad: int | None = None
    until: int | None = None
    size: int = 0
    root: str = ""
    since: int = 0
    checked: int = 0
    """Entries whose bytes were hashed and whose header was read."""
    cosigned: dict[str, int] = {}
    """Witnesses of the checkpoint, and when, in seconds."""
    types: dict[str, int] = {}
    first_at: int | None = None
    last_at: int | None = None

    @property
    def status(self) -> int:
        """For the shell."""
        return WORDS.index(self.verdict)


def verify(
    read: Read,
    order: Order,
    *,
    accounting: Accounting | None = None,
    seen: Callable[[int, Sequence[bytes]], None] = lambda _first, _entries: None,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Verdict:
    """One log. accounting: takes its records, too. seen: is given each bundle, with the index of
    its first entry; what that says counts only if the verdict is ok. read: see the leaf; raises
    Malformed for what is no file of a log. progress: entries done, and of how many."""
    verdict = Verdict(log=order.key.name)
    try:
        _verify(read, order, verdict, accounting, seen, progress)
    except Tampered as exc:
        verdict.verdict, verdict.why = "tampered", str(exc)
        if exc.first < exc.until:
            verdict.first_bad, verdict.until = exc.first, exc.until
    except Unverifiable as exc:
        verdict.verdict, verdict.why = "unverifiable", str(exc)
    except OSError as exc:
        verdict.verdict, verdict.why = "unverifiable", f"it cannot be read: {exc}"
    return verdict


def _verify(
    read: Read,
    order: Order,
    verdict: Verdict,
    accounting: Accounting | None,
    seen: Callable[[int, Sequence[bytes]], None],
    progress: Callable[[int, int], None],
) -> None:
    since = None if order.since is None else given(order.since, order)
    known = [given(raw, order) for raw in order.known]
    if since is not None:
        known.append(since)
    verdict.since = 0 if since is None else since.checkpoint.size
    now, short = _newest(read, order)
    checkpoint = now.checkpoint
    verdict.size, verdict.root = checkpoint.size, checkpoint.root.hex()
    verdict.cosigned = now.cosigned
    records = _Records(checkpoint.origin, [*known, now], verdict)
    notes = [*order.known, *([] if order.since is None else [order.since])]
    signed = [
        (one.checkpoint.size, signer_of(raw, order).short)
        for one, raw in zip(known, notes, strict=True)
    ]
    signed.append((checkpoint.size, order.key.short))
    told = 0
    false: Tampered | None = None
    checked = verified_bundles(
        read, checkpoint, since and since.checkpoint, [one.checkpoint for one in known]
    )
    try:
        for first, entries in checked:
            if false is None:
                false = records.take(first, entries, accounting)
                if false is None:
                    seen(first, entries)
            if first - told >= TELL_EVERY:
                told = first
                progress(first, checkpoint.size)
    except Tampered as exc:
        # Another tree than the signed one may have records that nobody writes, further on.
        raise exc if false is None or exc.first <= false.first else false from exc
    if false is not None:
        raise false
    records.check_keys([one for one in signed if one[0] >= verdict.since])
    if short is not None:
        raise short


def _newest(read: Read, order: Order) -> tuple[Opened, Unverifiable | None]:
    """The folder's checkpoint; beside it, that too few cosigned it: a tree that is not the signed
    one is the worse finding, so it is looked for first."""
    try:
        return opened(read, order), None
    except Unverifiable as exc:
        if not order.required:
            raise
        return opened(read, order._replace(required=0)), exc


def _without_patterns(kind: Any) -> Any:
    """A record's type without the patterns of its texts: 3 us to read instead of 10.

    Who writes an entry has looked at them; what is left, with the bytes that it is written in, is
    what tells one reader from another.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        bounds = [m for m in parts[1:] if not isinstance(m, msgspec.Meta) or m.pattern is None]
        bare = _without_patterns(parts[0])
        return Annotated[bare, *bounds] if bounds else bare
    if origin in (Union, UnionType):
        return reduce(or_, map(_without_patterns, parts))
    if origin in (list, tuple):
        return origin[tuple(map(_without_patterns, parts))]
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _struct_without_patterns(kind)
    return kind


@cache
def _struct_without_patterns(kind: type[msgspec.Struct]) -> type[msgspec.Struct]:
    hints = get_type_hints(kind, include_extras=True)
    if isinstance(hints.get("body"), TypeVar):
        (hints["body"],) = get_args(vars(kind)["__orig_bases__"][0])
    fields = [
        (one.name, _without_patterns(hints[one.name]), *([] if one.required else [one.default]))
        for one in msgspec.structs.fields(kind)
    ]
    config = kind.__struct_config__
    return msgspec.defstruct(
        kind.__name__, fields, frozen=True, kw_only=True, gc=False,
        forbid_unknown_fields=config.forbid_unknown_fields, omit_defaults=config.omit_defaults,
        tag=config.tag, tag_field=config.tag_field,
    )  # fmt: skip


_KINDS: dict[type, str] = {_struct_without_patterns(kind): name for name, kind in TYPES.items()}
_decode: Callable[[bytes], AnyRecord] = msgspec.json.Decoder(reduce(or_, _KINDS)).decode
_encode_into = msgspec.json.Encoder().encode_into


class _Records:
    """Headers, one after another."""

    def __init__(self, origin: str, published: Sequence[Opened], verdict: Verdict) -> None:
        self._origin = origin
        self._verdict = verdict
        self._last_us = 0
        self._floors = sorted(
            (one.checkpoint.size, min(one.cosigned.values()) * 1_000_000)
            for one in published
            if one.cosigned
        )
        """Entries from a size on are younger than its first cosignature."""
        self._rotations: list[tuple[int, str, str]] = []
        """Index, key before and key after, of each rotation of the log's key."""

    def take(
        self, first: int, entries: Sequence[bytes], accounting: Accounting | None
    ) -> Tampered | None:
        """The first entry that no writer of this log writes, and why."""
        try:
            self._take(first, entries, accounting)
        except Tampered as exc:
            return exc
        return None

    def check_keys(self, signed: Sequence[tuple[int, str]]) -> None:
        """signed: sizes of checkpoints, and which key signed them. Raises Tampered for one that the
        log itself says had another key's place by then, or had not come yet."""
        for size, by in signed:
            index, wanted = size, by
            for at, before, after in reversed(self._rotations):
                index, wanted = (at, after) if at < size else (size, before)
                if at < size:
                    break
            if by != wanted:
                raise Tampered(
                    f"the checkpoint of {size} entries is signed by {by}, where the log's key was "
                    f"{wanted}",
                    first=index,
                    until=max(size, index + 1),
                )

    def _take(self, first: int, entries: Sequence[bytes], accounting: Accounting | None) -> None:
        verdict, origin, last = self._verdict, self._origin, self._last_us
        counts, floors, decode, encode_into = verdict.types, self._floors, _decode, _encode_into
        again = bytearray(HEADER_MAX_BYTES)
        for index, entry in enumerate(entries, first):
            end = entry.find(b"\n")
            if not 0 < end <= HEADER_MAX_BYTES:
                raise _bad(index, f"no line of JSON of at most {HEADER_MAX_BYTES} bytes")
            header = entry[:end]
            try:
                record = decode(header)
            except (msgspec.DecodeError, UnicodeDecodeError) as exc:
                raise _bad(index, str(exc)) from exc
            # One form alone, and no character but plain ASCII's: see entries.parse_header.
            encode_into(record, again)
            if again != header or not header.isascii() or b"\\" in header or b"\x7f" in header:
                raise _bad(index, "written in another way than a log's writer writes it")
            if record.log != origin:
                raise _bad(index, f"it is a record of {record.log}")
            at = record.recorded_at
            while floors and floors[0][0] <= index:
                last = max(last, floors.pop(0)[1])
            if at > last:
                last = at
            elif at < last - SKEW_MAX_US:
                raise _bad(
                    index, "it is dated a minute before one before it, or before a cosignature"
                )
            kind = _KINDS[type(record)]
            counts[kind] = counts.get(kind, 0) + 1
            if kind == "key_rotation":
                body = cast(KeyRotationRecord, record).body
                if body.purpose == "log":
                    self._rotations.append((index, body.before or "", body.after))
            if accounting is not None:
                accounting.take(index, record, kind)
        self._last_us = last
        verdict.checked += len(entries)
        if verdict.first_at is None and entries:
            verdict.first_at = _decode(split(entries[0])[0]).recorded_at
        verdict.last_at = last


def grown(read: Read | None, order: Order, one: bytes, other: bytes) -> Grown:
    """Whether a log only grew between two of its checkpoints. read: None without its files.

    Raises Tampered for a fork; Unverifiable without the tiles that tell; Malformed, OSError for
    what cannot be read of them.
    """
    pair = [given(raw, order).checkpoint for raw in (one, other)]
    old, new = sorted(pair, key=lambda found: found.size)
    if read is None:
        if old.size != new.size:
            raise Unverifiable("the two have other sizes: only the log's tiles tell")
        read = no_files
    check_grown(read, old, new)
    counts: dict[str, int] = {}
    for at, entries in bundles(read, new.size, old.size) if old.size < new.size else ():
        for entry in entries[max(0, old.size - at) :]:
            kind = type_of(entry)
            counts[kind] = counts.get(kind, 0) + 1
    return Grown(new.origin, old.size, new.size, counts)


def no_files(path: str) -> bytes:
    """Reads of a log of which only checkpoints are at hand."""
    raise FileNotFoundError(path)


def type_of(entry: bytes) -> str:
    """What kind of record an entry is. Raises Malformed."""
    try:
        return _KINDS[type(_decode(split(entry)[0]))]
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise Malformed(f"no record: {exc}") from exc


def _bad(index: int, why: str) -> Tampered:
    return Tampered(f"entry {index}: {why}", first=index, until=index + 1)


class Stats(msgspec.Struct):
    """What a log holds, unverified. emitters: the first EMITTERS_MAX; the rest are "others"."""

    log: str = ""
    entries: int = 0
    bytes: int = 0
    sealed: int = 0
    sealed_bytes: int = 0
    first_at: int | None = None
    last_at: int | None = None
    types: dict[str, int] = {}
    bytes_by_type: dict[str, int] = {}
    emitters: dict[str, int] = {}


def stats_of(read: Read, progress: Callable[[int, int], None] = lambda _done, _of: None) -> Stats:
    """Count a log's records. Raises Malformed, Unverifiable, OSError."""
    size = size_of(read)
    found = Stats()
    for first, entries in bundles(read, size):
        progress(first, size)
        for entry in entries:
            header, sealed = split(entry)
            try:
                record = _decode(header)
            except (msgspec.DecodeError, UnicodeDecodeError) as exc:
                raise Malformed(f"no record: {exc}") from exc
            kind = _KINDS[type(record)]
            emitter = record.emitter or "no emitter's"
            if emitter not in found.emitters and len(found.emitters) >= EMITTERS_MAX:
                emitter = "others"
            found.log = record.log
            found.entries += 1
            found.bytes += len(entry)
            found.sealed += bool(sealed)
            found.sealed_bytes += len(sealed)
            found.first_at = record.recorded_at if found.first_at is None else found.first_at
            found.last_at = record.recorded_at
            found.types[kind] = found.types.get(kind, 0) + 1
            found.bytes_by_type[kind] = found.bytes_by_type.get(kind, 0) + len(entry)
            found.emitters[emitter] = found.emitters.get(emitter, 0) + 1
    return found
