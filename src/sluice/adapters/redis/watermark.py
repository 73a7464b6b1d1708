"""What the store says of itself: whose it is, and how far its states have come.

One hash, KEY. A store without it is new, or has lost everything. Fields:

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

import os
from collections.abc import Callable, Mapping
from typing import Any

from hiredis import ReplyError

from sluice.adapters.redis.address import Address, parse
from sluice.adapters.redis.client import TIMEOUT_S, connect, translated
from sluice.adapters.redis.commands import pack
from sluice.adapters.redis.refusals import said
from sluice.application.ports import (
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
from sluice.errors import Unavailable

KEY = b"sluice:store"
ADOPT_TRIES_MAX = 3
"""Against others that note their format at the same moment: as many as versions run."""

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
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], 'id', ARGV[1], 'state', 'ready', 'epoch', '0', 'format', ARGV[2],
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
    """The port WatermarkStore on one Redis or Valkey server. Connects when first used."""

    def __init__(
        self, url: str | Address, *, timeout_s: float = TIMEOUT_S, count: Count = uncounted
    ) -> None:
        self._count = count
        self._address = parse(url)
        self._server = connect(self._address, timeout_s=timeout_s)
        self._advance = self._server.register_script(_ADVANCE)
        self._initialise = self._server.register_script(_INITIALISE)
        self._move = self._server.register_script(_MOVE)
        self._bind = self._server.register_script(_BIND)
        self._reformat = self._server.register_script(_REFORMAT)

    def read(self) -> Watermark:
        """See the port."""
        with translated(self._address, self._count):
            fields = self._server.hgetall(KEY)
        return Watermark(
            fields.get(b"id", b"").decode(),
            fields.get(b"state", MISSING.encode()).decode(),
            {_place(name): int(value) for name, value in fields.items() if b"/" in name},
            fields.get(b"format", b"").decode(errors="replace"),
            fields.get(b"why", b"").decode(errors="replace"),
            fields.get(b"run_id", b"").decode(errors="replace"),
            int(fields.get(b"evicted_keys", b"0")),
        )

    def initialise(self) -> bool:
        """See the port."""
        begun = self._begun()
        with translated(self._address, self._count):
            return bool(self._initialise(keys=[KEY], args=[_fresh_id(), NOTE, *begun.values()]))

    def adopt(self) -> None:
        """See the port."""
        for _ in range(ADOPT_TRIES_MAX):
            mark = self.read()
            if mark.state == MISSING or mark.format == NOTE:
                return
            if why := why_not(mark.format):
                raise _lost(f"the online store is not used: {why}")
            with translated(self._address, self._count):
                if self._reformat(keys=[KEY], args=[mark.format, NOTE]):
                    return
        raise _lost("the note on what the online store's states mean keeps changing")

    def advance(self, known: Offsets, ends: Offsets | None = None) -> None:
        """See the port. 19 to 25 us of CPU on redis-py, 15 on our own connection: once a batch."""
        words: list[str | int] = [NOTE]
        for place, offset in known.items():
            words += (_field(place), offset, offset if ends is None else ends.get(place, offset))
        with translated(self._address, self._count):
            said = self._advance(keys=[KEY], args=words)
        if said == _OTHER_FORMAT:
            self.adopt()
            with translated(self._address, self._count):
                said = self._advance(keys=[KEY], args=words)
        if said != b"ok":
            raise _lost(_spoken(said.decode()))

    def bind(self, topic_ids: Mapping[str, str]) -> None:
        """See the port."""
        words = [word for pair in topic_ids.items() for word in pair]
        if not words:
            return
        with translated(self._address, self._count):
            other = self._bind(keys=[KEY], args=words)
        if other:
            raise _lost(f"the online store's states are of another {other.decode()}")

    def lose(self, why: str) -> None:
        """See the port."""
        with translated(self._address, self._count):
            self._server.hset(KEY, mapping={"state": LOST, "why": why})

    def begin(self) -> str:
        """See the port."""
        made, begun = _fresh_id(), self._begun()
        with (
            translated(self._address, self._count),
            self._server.pipeline(transaction=True) as steps,
        ):
            steps.delete(KEY)
            steps.hset(
                KEY,
                mapping={"id": made, "state": REBUILDING, "epoch": 0, "format": NOTE, **begun},
            )
            steps.execute()
        return made

    def _begun(self) -> dict[str, str | int]:
        """The server's start, and what it has evicted since; nothing where it does not tell."""
        try:
            with translated(self._address):
                info = self._server.info("server", "stats")
        except Unavailable:
            info = {}
        return {
            "run_id": str(info.get("run_id", "")),
            "evicted_keys": int(info.get("evicted_keys", 0)),
        }

    def move(self, watermark_id: str, state: str, applied: Offsets | None = None) -> None:
        """See the port."""
        words: list[str | int] = ["state", state]
        for place, offset in (applied or {}).items():
            words += (_field(place), offset)
        with translated(self._address, self._count):
            moved = self._move(keys=[KEY], args=[watermark_id, *words])
        if not moved:
            raise Unavailable(
                "the store was lost again, or another rebuild took it",
                where=KEY.decode(),
                fix="see that only one runs, then `sluice states rebuild` again",
                code=STORE_LOST,
            )

    def close(self) -> None:
        """Disconnect."""
        self._server.close()


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


READ = pack(b"HMGET", KEY, b"state", b"id", b"epoch", b"format")
"""Read with every batch of a decider, after the states: what was lost before, shows."""


class Trust:
    """Whether a decider may serve states, judged by each reply to READ.

    changed: told why not, "" for yes, whenever that changes.
    """

    def __init__(self, changed: Callable[[str], None]) -> None:
        self._changed = changed
        self._why: str | None = None
        self._distrust: dict[str, str] = {}
        self._id = b""
        self._epoch = 0
        self._format: bytes | None = NOTE.encode()
        self._foreign = ""

    def judge(self, reply: Any) -> bool:
        """True if the states read just before it are what the log makes."""
        why = self._why_not(reply)
        if why != self._why:
            self._say(why)
        return not why

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

    def _why_not(self, reply: Any) -> str:
        if self._distrust:
            return next(iter(self._distrust.values()))
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
        if watermark_id != self._id:
            self._id, self._epoch = watermark_id, 0
        if int(epoch) < self._epoch:
            return f"it went back from epoch {self._epoch} to {int(epoch)}"
        self._epoch = int(epoch)
        return ""
