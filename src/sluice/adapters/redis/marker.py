"""What the store says of itself: whose it is, and how far its states have come.

One hash, KEY. A store without it is new, or has lost everything. Fields:

- id: made anew with each installation and each rebuild.
- state: ready, lost, rebuilding or catching_up (:mod:`sluice.application.ports`).
- format: what the numbers inside its states mean (:mod:`sluice.domain.stateformat`). A store whose
  tables are the beginning of ours is ours to read, and takes our note once we write to it; any
  other is neither read nor written.
- beat: rises with every batch of a featurizer; a store whose beat falls went back in time.
- ``<topic>/<partition>``: offset behind the last record whose effect is in the store. A featurizer
  writes it after the states and before it commits the offset to Kafka, so it is never behind what
  the group has committed, unless the store forgot something.

See docs/decisions/0016-a-store-that-knows-what-it-holds.md.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Any

from hiredis import ReplyError

from sluice.adapters.redis.blocking import BlockingConnection
from sluice.adapters.redis.commands import pack
from sluice.application.ports import LOST, MISSING, READY, REBUILDING, STORE_LOST, Mark, Offsets
from sluice.domain.stateformat import NOTE, why_not
from sluice.errors import Unavailable

KEY = b"sluice:store"
RUNBOOK = "docs/runbooks/store-down.md"
ADOPT_TRIES_MAX = 3
"""Against others that note their format at the same moment: there are as many as versions run."""
_OURS = NOTE.encode()
_OTHER_FORMAT = b"format"

_ADVANCE = b"""
local mark = redis.call('HMGET', KEYS[1], 'state', 'format')
local state = mark[1]
if state ~= 'ready' and state ~= 'catching_up' then return state or 'missing' end
if mark[2] ~= ARGV[1] then return 'format' end
local moved = false
for i = 2, #ARGV, 3 do
  local have = tonumber(redis.call('HGET', KEYS[1], ARGV[i]) or '0')
  if have < tonumber(ARGV[i + 1]) then
    redis.call('HSET', KEYS[1], 'state', 'lost')
    return 'behind:' .. ARGV[i] .. ':' .. have
  end
  if have < tonumber(ARGV[i + 2]) then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 2])
    moved = true
  end
end
if moved then redis.call('HINCRBY', KEYS[1], 'beat', 1) end
return 'ok'
"""
"""Arguments: our format; then field, what it must hold at least, what it holds from now on; and so
on. Offsets only rise, so a featurizer that lost its partition and does not know it yet cannot set
them back."""
_ADVANCE_SHA = hashlib.sha1(_ADVANCE, usedforsecurity=False).hexdigest().encode()

_INITIALISE = b"""
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], 'id', ARGV[1], 'state', 'ready', 'beat', '0', 'format', ARGV[2])
return 1
"""
_REFORMAT = b"""
if redis.call('HGET', KEYS[1], 'format') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'format', ARGV[2])
return 1
"""
"""Note our format if it is still the one that was judged."""
_MOVE = b"""
if redis.call('HGET', KEYS[1], 'id') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
return 1
"""
"""Set fields if the id is still the one given."""


class Marker:
    """The key, for those that write states: featurizer, backfill, rebuild."""

    def __init__(self, connection: BlockingConnection) -> None:
        self._connection = connection

    def read(self) -> Mark:
        """Raises Unavailable."""
        flat = self._call(b"HGETALL", KEY)
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        return Mark(
            fields.get(b"id", b"").decode(),
            fields.get(b"state", MISSING.encode()).decode(),
            {_place(name): int(value) for name, value in fields.items() if b"/" in name},
            fields.get(b"format", b"").decode(errors="replace"),
        )

    def initialise(self) -> bool:
        """Declare a new, empty store ready. False, and nothing changes, if it has a marker."""
        return bool(self._call(b"EVAL", _INITIALISE, b"1", KEY, _fresh_id(), _OURS))

    def adopt(self) -> None:
        """Note that its states have our format from now on, before we write the first.

        Does nothing to a store without a marker. Raises Unavailable with code STORE_LOST if its
        states have a format that we cannot read.
        """
        for _ in range(ADOPT_TRIES_MAX):
            mark = self.read()
            if mark.state == MISSING or mark.format == NOTE:
                return
            if why := why_not(mark.format):
                raise _lost(f"the online store is not used: {why}")
            if self._call(b"EVAL", _REFORMAT, b"1", KEY, mark.format.encode(), _OURS):
                return
        raise _lost("the note on what its states mean keeps changing")

    def advance(self, known: Offsets, ends: Offsets | None = None) -> None:
        """Check that the store holds what it must, and note what it holds from now on.

        known: what was applied to it before, as far as we know. ends: of the batch just applied,
        a part of the same partitions. Raises Unavailable with code STORE_LOST if it is behind
        ``known``, was marked, has no marker, or a format that we cannot read; the caller then
        writes nothing more to it.
        """
        words: list[bytes] = [_OURS]
        for place, offset in known.items():
            end = offset if ends is None else ends.get(place, offset)
            words += (_field(place), b"%d" % offset, b"%d" % end)
        said = self._advance(words)
        if said == _OTHER_FORMAT:
            self.adopt()
            said = self._advance(words)
        if said != b"ok":
            raise _lost(_spoken(said.decode()))

    def _advance(self, words: Sequence[bytes]) -> Any:
        try:
            return self._call(b"EVALSHA", _ADVANCE_SHA, b"1", KEY, *words)
        except Unavailable as error:
            if not isinstance(error.__cause__, ReplyError) or "NOSCRIPT" not in error.what:
                raise
            return self._call(b"EVAL", _ADVANCE, b"1", KEY, *words)

    def lose(self) -> None:
        """Mark the store as lost: nobody serves it or writes to it until it is rebuilt."""
        self._call(b"HSET", KEY, b"state", LOST.encode())

    def begin(self) -> str:
        """Take the store for a rebuild. Returns the new id, by which later moves prove theirs."""
        made = _fresh_id()
        replies = self._connection.call(
            pack(b"MULTI")
            + pack(b"DEL", KEY)
            + pack(
                *(b"HSET", KEY, b"id", made, b"state", REBUILDING.encode(), b"beat", b"0"),
                *(b"format", _OURS),
            )
            + pack(b"EXEC"),
            4,
        )
        for reply in replies:
            self._refuse(reply)
        return made.decode()

    def move(self, mark_id: str, state: str, applied: Offsets | None = None) -> None:
        """Go on to the next state of a rebuild.

        Raises Unavailable with code STORE_LOST if the store is no longer the one begun with.
        """
        words = [b"state", state.encode()]
        for place, offset in (applied or {}).items():
            words += (_field(place), b"%d" % offset)
        if not self._call(b"EVAL", _MOVE, b"1", KEY, mark_id.encode(), *words):
            raise Unavailable(
                "the store was lost again, or another rebuild took it",
                where=KEY.decode(),
                fix="see that only one runs, then `sluice states rebuild` again",
                code=STORE_LOST,
            )

    def _call(self, *words: bytes) -> Any:
        (reply,) = self._connection.call(pack(*words), 1)
        self._refuse(reply)
        return reply

    def _refuse(self, reply: Any) -> None:
        if isinstance(reply, ReplyError):
            raise Unavailable(
                f"the online store refuses a command: {reply}",
                where=str(self._connection.address),
                fix="docs/reference/online-store.md, section When it is down",
            ) from reply


def _spoken(said: str) -> str:
    """What _ADVANCE says, in words."""
    if said.startswith("behind:"):
        _, place, have = said.split(":")
        return f"the online store went back: its states end at offset {have} of {place}"
    return f"the online store's states are {said}"


def _lost(what: str) -> Unavailable:
    return Unavailable(what, where=KEY.decode(), fix=RUNBOOK, code=STORE_LOST)


def _fresh_id() -> bytes:
    return os.urandom(8).hex().encode()


def _field(place: tuple[str, int]) -> bytes:
    return f"{place[0]}/{place[1]}".encode()


def _place(field: bytes) -> tuple[str, int]:
    topic, _, partition = field.decode().rpartition("/")
    return topic, int(partition)


READ = pack(b"HMGET", KEY, b"state", b"id", b"beat", b"format")
"""Read with every batch of a decider, after the states: what was lost before, shows."""


class Trust:
    """Whether a decider may serve states, judged by each reply to READ.

    changed: told why not, "" for yes, whenever that changes.
    """

    def __init__(self, changed: Callable[[str], None]) -> None:
        self._changed = changed
        self._why: str | None = None
        self._id = b""
        self._beat = 0
        self._format: bytes | None = _OURS
        self._foreign = ""

    def judge(self, reply: Any) -> bool:
        """True if the states read just before it are what the log makes."""
        why = self._why_not(reply)
        if why != self._why:
            self._why = why
            self._changed(why)
        return not why

    def _why_not(self, reply: Any) -> str:
        if isinstance(reply, ReplyError):
            return f"the marker cannot be read: {reply}"
        state, mark_id, beat, noted = reply
        if state != READY.encode():
            return MISSING if state is None else str(state.decode())
        if noted != self._format:
            self._format = noted
            self._foreign = why_not((noted or b"").decode(errors="replace"))
        if self._foreign:
            return self._foreign
        if mark_id != self._id:
            self._id, self._beat = mark_id, 0
        if int(beat) < self._beat:
            return f"it went back from beat {self._beat} to {int(beat)}"
        self._beat = int(beat)
        return ""
