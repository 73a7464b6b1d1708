"""What the store says of itself: whose it is, and how far its states have come.

One hash, KEY; in a cluster MARKS of them, in slots apart from each other. A store without it is
new, or has lost everything. Fields:

- id: made anew with each installation and each rebuild.
- state: ready, lost, rebuilding or catching_up (:mod:`sluice.application.ports`).
- format: what the numbers inside its states mean (:mod:`sluice.domain.features.stateformat`). A
  store whose tables are the beginning of ours is ours to read, and takes our note once we write to
  it; any other is neither read nor written.
- why: why it is lost, in words.
- run_id, evicted_keys: of the server, when the store was declared or its rebuild began; what it
  evicts after that is lost.
- epoch: rises with every batch of a featurizer; a store whose epoch falls went back in time.
- ``topic:<topic>``: the id of the topic that they were made from. A topic made again has the same
  name and other records under the same offsets, which states would take for seen.
- ``<topic>/<partition>``: offset behind the last record whose effect is in the store. A featurizer
  writes it after the states and before it commits the offset to Kafka, so it is never behind what
  the group has committed, unless the store forgot something.

See docs/decisions/0016-a-store-that-knows-what-it-holds.md.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from hiredis import ReplyError

from sluice.adapters.redis import figures
from sluice.adapters.redis.address import Address
from sluice.adapters.redis.blocking_cluster import blocking
from sluice.adapters.redis.commands import lacks_script, pack
from sluice.adapters.redis.refusals import DATABASE, PASSWORD, said
from sluice.application.ports import (
    CATCHING_UP,
    LOST,
    MISSING,
    READY,
    REBUILDING,
    STORE_LOST,
    STORE_RUNBOOK,
    Count,
    Offsets,
    Partition,
    Watermark,
    uncounted,
)
from sluice.domain.features.stateformat import NOTE, why_not
from sluice.errors import Misconfigured, Unavailable

KEY = b"sluice:store"
ADOPT_TRIES_MAX = 3
"""Against others that note their format at the same moment: as many as versions run."""
TIMEOUT_S = 5.0
"""Longest that the server may take to answer."""

_ADVANCE = b"""
local mark = redis.call('HMGET', KEYS[1], 'state', 'format')
local state = mark[1]
if state ~= 'ready' and state ~= 'catching_up' then return state or 'missing' end
if mark[2] ~= ARGV[1] then return 'format' end
local moved = false
for i = 2, #ARGV, 3 do
  local have = tonumber(redis.call('HGET', KEYS[1], ARGV[i]) or '0')
  if have < tonumber(ARGV[i + 1]) then
    local why = 'it ends at offset ' .. have .. ' of ' .. ARGV[i]
    redis.call('HSET', KEYS[1], 'state', 'lost', 'why', why)
    return 'behind:' .. ARGV[i] .. ':' .. have
  end
  if have < tonumber(ARGV[i + 2]) then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 2])
    moved = true
  end
end
if moved then redis.call('HINCRBY', KEYS[1], 'epoch', 1) end
return 'ok'
"""
"""Arguments: our format; then field, what it must hold at least, what it holds from now on; and so
on. Offsets only rise, so a featurizer that lost its partition and does not know it yet cannot set
them back."""
_OTHER_FORMAT = b"format"

_BIND = b"""
for i = 1, #ARGV, 2 do
  local have = redis.call('HGET', KEYS[1], 'topic:' .. ARGV[i])
  if have and have ~= ARGV[i + 1] then
    redis.call('HSET', KEYS[1], 'state', 'lost', 'why', ARGV[i] .. ' was deleted and made again')
    return ARGV[i]
  end
end
for i = 1, #ARGV, 2 do redis.call('HSET', KEYS[1], 'topic:' .. ARGV[i], ARGV[i + 1]) end
return ''
"""
"""Arguments: topic, id; and so on."""

_INITIALISE = b"""
if redis.call('EXISTS', KEYS[1]) == 1 then return redis.call('HGET', KEYS[1], 'id') or '' end
redis.call('HSET', KEYS[1], 'id', ARGV[1], 'state', 'ready', 'epoch', '0', 'format', ARGV[2],
  'run_id', ARGV[3], 'evicted_keys', ARGV[4])
return ARGV[1]
"""
"""Returns the id that it has then."""
_BEGIN = b"""
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'id', ARGV[1], 'state', 'rebuilding', 'epoch', '0', 'format', ARGV[2],
  'run_id', ARGV[3], 'evicted_keys', ARGV[4])
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


class RedisWatermark:
    """The port WatermarkStore on Redis or Valkey. Connects when first used.

    In a cluster there are MARKS of them (:mod:`sluice.adapters.redis.slots`), which say the same
    but for what a node has lost: the store is what the worst of them says, and has applied what all
    of them have.
    """

    def __init__(
        self, url: str | Address, *, timeout_s: float = TIMEOUT_S, count: Count = uncounted
    ) -> None:
        self._server = blocking(url, timeout_s=timeout_s, count=count)
        self._keys = self._server.marks(KEY)

    def read(self) -> Watermark:
        """See the port."""
        return _together([_mark(fields) for fields in self._fields()])

    def _fields(self) -> list[dict[bytes, bytes]]:
        with self._refusals():
            found = self._server.each([pack(b"HGETALL", key) for key in self._keys], self._keys)
            return [dict(zip(flat[::2], flat[1::2], strict=True)) for flat in self._good(found)]

    def initialise(self) -> bool:
        """See the port. In a cluster the first takes the id that the others get, so that of two who
        declare it at once both say the same."""
        mine = _fresh_id()
        first, others = self._keys[:1], self._keys[1:]
        words: list[str | int] = [NOTE, *self._begun()]
        (taken,) = self._run(_INITIALISE, mine, *words, keys=first)
        if others:
            self._run(_INITIALISE, taken.decode(), *words, keys=others)
        return bool(taken == mine.encode())

    def adopt(self) -> None:
        """See the port."""
        for _ in range(ADOPT_TRIES_MAX):
            marks = {
                key: _mark(fields) for key, fields in zip(self._keys, self._fields(), strict=True)
            }
            foreign = {
                key: mark.format
                for key, mark in marks.items()
                if mark.state != MISSING and mark.format != NOTE
            }
            if not foreign:
                return
            for noted in foreign.values():
                if why := why_not(noted):
                    raise _lost(f"the online store is not used: {why}")
            if all(
                self._run(_REFORMAT, noted, NOTE, keys=[key]) == [1]
                for key, noted in foreign.items()
            ):
                return
        raise _lost("the note on what the online store's states mean keeps changing")

    def advance(self, known: Offsets, ends: Offsets | None = None) -> None:
        """See the port. One mark costs 21 us of CPU, a cluster's 163: once a batch."""
        words: list[str | int] = [NOTE]
        for place, offset in known.items():
            words += (_field(place), offset, offset if ends is None else ends.get(place, offset))
        said = self._run(_ADVANCE, *words)
        if _OTHER_FORMAT in said:
            self.adopt()
            said = self._run(_ADVANCE, *words)
        for answer in said:
            if answer != b"ok":
                if len(said) > 1 and answer != MISSING.encode():
                    self._lose_all(answer)
                raise _lost(_spoken(answer.decode()))

    def _lose_all(self, answer: bytes) -> None:
        """What one node lost the whole store has: a rebuild makes it again as one."""
        if answer.startswith(b"behind:"):
            _, place, have = answer.decode().split(":")
            self.lose(f"a node of it ends at offset {have} of {place}")

    def bind(self, topic_ids: Mapping[str, str]) -> None:
        """See the port."""
        words = [word for pair in topic_ids.items() for word in pair]
        if not words:
            return
        for other in self._run(_BIND, *words):
            if other:
                raise _lost(f"the online store's states are of another {other.decode()}")

    def lose(self, why: str) -> None:
        """See the port."""
        with self._refusals():
            self._good(
                self._server.each(
                    [
                        pack(b"HSET", key, b"state", LOST.encode(), b"why", why.encode())
                        for key in self._keys
                    ],
                    self._keys,
                )
            )

    def begin(self) -> str:
        """See the port."""
        made = _fresh_id()
        self._run(_BEGIN, made, NOTE, *self._begun())
        return made

    def _begun(self) -> tuple[str, int]:
        """The server's start, and what it has evicted since; nothing where it does not tell."""
        try:
            info = figures.of_all(self._server)
        except Unavailable:
            return "", 0
        return info.run_id, info.evicted_keys

    def move(self, watermark_id: str, state: str, applied: Offsets | None = None) -> None:
        """See the port."""
        words: list[str | int] = ["state", state]
        for place, offset in (applied or {}).items():
            words += (_field(place), offset)
        if not all(self._run(_MOVE, watermark_id, *words)):
            raise Unavailable(
                "the store was lost again, or another rebuild took it",
                where=KEY.decode(),
                fix="see that only one runs, then `sluice states rebuild` again",
                code=STORE_LOST,
            )

    def close(self) -> None:
        """Disconnect."""
        self._server.close()

    def _run(self, script: bytes, *words: str | int, keys: Iterable[bytes] = ()) -> list[Any]:
        """A script on each of the keys, all of ours unless told otherwise: what it returns."""
        keys = [*keys] or self._keys
        sha = hashlib.sha1(script, usedforsecurity=False).hexdigest().encode()
        told = [str(word).encode() for word in words]
        with self._refusals():
            said = self._server.each(
                [pack(b"EVALSHA", sha, b"1", key, *told) for key in keys], keys
            )
            again = [i for i, answer in enumerate(said) if lacks_script(answer)]
            if again:
                some = [keys[i] for i in again]
                retried = self._server.each(
                    [pack(b"EVAL", script, b"1", key, *told) for key in some], some
                )
                for i, answer in zip(again, retried, strict=True):
                    said[i] = answer
            return self._good(said)

    def _good(self, answers: list[Any]) -> list[Any]:
        for answer in answers:
            if isinstance(answer, ReplyError):
                raise self._server.refused(answer)
        return answers

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """A refused password or database as Misconfigured."""
        try:
            yield
        except Unavailable as exc:
            if exc.code not in (PASSWORD, DATABASE):
                raise
            raise Misconfigured(
                exc.what, where=f"store.url, {exc.where}", fix=exc.fix, code=exc.code
            ) from exc


def _mark(fields: Mapping[bytes, bytes]) -> Watermark:
    return Watermark(
        fields.get(b"id", b"").decode(),
        fields.get(b"state", MISSING.encode()).decode(),
        {_place(name): int(value) for name, value in fields.items() if b"/" in name},
        fields.get(b"format", b"").decode(errors="replace"),
        fields.get(b"why", b"").decode(errors="replace"),
        fields.get(b"run_id", b"").decode(errors="replace"),
        int(fields.get(b"evicted_keys", b"0")),
    )


_WORST = (LOST, REBUILDING, CATCHING_UP, READY)


def _together(marks: list[Watermark]) -> Watermark:
    """What the marks of one store say: the worst, and what all have applied.

    Some missing and nothing applied anywhere: whoever declared the store was killed half-way, and
    it is MISSING still. Some missing otherwise, or of different rebuilds: it is LOST.
    """
    there = [mark for mark in marks if mark.state != MISSING]
    if len(marks) == 1 or not there:
        return marks[0]
    if len(there) < len(marks) and not any(mark.applied for mark in there):
        return replace(there[0], state=MISSING)
    worst = min(there, key=lambda mark: _WORST.index(mark.state) if mark.state in _WORST else 0)
    why = worst.why
    if len(there) < len(marks):
        why = why or f"{len(marks) - len(there)} of {len(marks)} watermarks are missing"
    elif len({mark.id for mark in marks}) > 1:
        why = why or "a rebuild was stopped while it began"
    else:
        why = "" if worst.state != LOST else why
    torn = len(there) < len(marks) or len({mark.id for mark in marks}) > 1
    places = {place for mark in there for place in mark.applied}
    return replace(
        worst,
        state=LOST if torn else worst.state,
        why=why,
        applied={at: min(mark.applied.get(at, 0) for mark in marks) for at in places},
        format=next((mark.format for mark in there if why_not(mark.format)), worst.format),
    )


def _spoken(said: str) -> str:
    """What _ADVANCE says, in words."""
    if said.startswith("behind:"):
        _, place, have = said.split(":")
        return f"the online store went back: its states end at offset {have} of {place}"
    return f"the online store's states are {said}"


def _lost(what: str) -> Unavailable:
    return Unavailable(what, where=KEY.decode(), fix=STORE_RUNBOOK, code=STORE_LOST)


def _fresh_id() -> str:
    return os.urandom(8).hex()


def _field(place: Partition) -> str:
    return f"{place[0]}/{place[1]}"


def _place(field: bytes) -> Partition:
    topic, _, partition = field.decode().rpartition("/")
    return topic, int(partition)


def read(key: bytes) -> bytes:
    """The command for what a decider judges a watermark by."""
    return pack(b"HMGET", key, b"state", b"id", b"epoch", b"format")


READ = read(KEY)
"""Read with every batch of a decider, after the states: what was lost before, shows."""


class Trust:
    """Whether a decider may serve states, judged by the replies to READ.

    changed: told why not, "" for yes, whenever that changes. The store is what its worst node is:
    one that lost something is rebuilt with the others.
    """

    def __init__(self, changed: Callable[[str], None]) -> None:
        self._changed = changed
        self._why: str | None = None
        self._distrust: dict[str, str] = {}
        self._nodes: dict[bytes, str] = {}
        self._seen: dict[bytes, tuple[bytes, int]] = {}
        """Of each watermark the newest id and epoch."""
        self._format: bytes | None = NOTE.encode()
        self._foreign = ""

    def judge(self, nodes: Mapping[bytes, Iterable[tuple[bytes, Any]]]) -> bool:
        """True if the states read just before are what the log makes. nodes: those met, by name:
        the key of each watermark there, and the reply to READ."""
        for name, marks in nodes.items():
            self._nodes[name] = next(filter(None, (self._why_not(*mark) for mark in marks)), "")
        why = next(filter(None, (*self._distrust.values(), *self._nodes.values())), "")
        if why != self._why:
            self._say(why)
        return not why

    def forget_nodes(self) -> None:
        """Others own what these owned; what we have seen of the watermarks holds."""
        self._nodes.clear()

    def distrust(self, whose: str, why: str) -> None:
        """Trust nothing for this reason; "" for none any more. whose: one reason at a time each.
        From any thread."""
        if why:
            self._distrust = {**self._distrust, whose: why}
            if why != self._why:
                self._say(why)
        elif whose in self._distrust:
            self._distrust = {k: v for k, v in self._distrust.items() if k != whose}

    def _say(self, why: str) -> None:
        self._why = why
        self._changed(why)

    def _why_not(self, key: bytes, reply: Any) -> str:
        if isinstance(reply, ReplyError):
            return f"the watermark cannot be read: {said(reply)}"
        state, watermark_id, epoch, noted = reply
        if state != READY.encode():
            return MISSING if state is None else str(state.decode())
        if noted != self._format:
            self._format = noted
            self._foreign = why_not((noted or b"").decode(errors="replace"))
        if self._foreign:
            return self._foreign
        seen_id, seen = self._seen.get(key, (b"", 0))
        if watermark_id == seen_id and int(epoch) < seen:
            return f"it went back from epoch {seen} to {int(epoch)}"
        self._seen[key] = (watermark_id, int(epoch))
        return ""
