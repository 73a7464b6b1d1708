"""Who decides an authorization, and what was decided: one key an id, taken with SET NX GET.

An idempotency record is kind 1, the content's digest, and whose it is. Once decided it is
replaced by kind 2, the digest and the answer's bytes. See
docs/decisions/0004-pending-and-idempotency.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sluice.adapters.redis.commands import bulk, size_of
from sluice.application.ports import Arrival

IN_PROGRESS, ANSWERED = b"\x01", b"\x02"
DIGEST_BYTES = 8
_BODY = 1 + DIGEST_BYTES
_END = b"\r\n"


def key(tenant: str, authorization_id: str) -> bytes:
    """Where an id's idempotency record and answer lie.

    >>> key("acme", "a-1")
    b'sluice:idempotency:acme:a-1'
    """
    return f"sluice:idempotency:{tenant}:{authorization_id}".encode()


def record(arrival: Arrival, replica: bytes) -> bytes:
    """The value that says: this arrival is being decided.

    A redelivery from the same place in Kafka makes the same value, by whichever replica, so that
    it takes up where a killed decider left off. Behind HTTP every arrival is its own: replica (8
    random bytes of this process) and the time received.
    """
    origin = arrival.origin
    owner = (
        f"{origin.topic}/{origin.partition}@{origin.offset}".encode()
        if origin is not None
        else b"%b%d" % (replica, arrival.received_at)
    )
    return b"".join((IN_PROGRESS, arrival.digest, owner))


KEEP = b"""
for i = 1, #KEYS do
  local held = redis.call('GET', KEYS[i])
  if not held or string.byte(held, 1) == 1 then
    redis.call('SET', KEYS[i], ARGV[i + 1], 'PX', ARGV[1])
  end
end
return #KEYS
"""
"""Set each answer where there is none, over an idempotency record whoever's it is: this answer was
given. What a newer release left is not ours to replace. Arguments: time to live, answers."""
KEEP_MAX = 64
"""Answers of one script call, in which the server serves nobody else."""


class KeepAnswers:
    """KEEP of answers, whose bytes go with each call: a hundred bytes, and no server has to know
    the script from before."""

    def __init__(self, ttl_s: float) -> None:
        self._head = bulk(b"EVAL") + bulk(KEEP)
        self._ttl = bulk(b"%d" % round(ttl_s * 1000))

    def commands(
        self, answers: Sequence[tuple[str, str, bytes, bytes]], each: int = KEEP_MAX
    ) -> list[bytes]:
        """(tenant, authorization_id, digest, answer) of each, to the bytes of each command. each:
        answers of one command."""
        return [self._command(answers[at : at + each]) for at in range(0, len(answers), each)]

    def _command(self, answers: Sequence[tuple[str, str, bytes, bytes]]) -> bytes:
        count = len(answers)
        parts = [b"*%d\r\n" % (4 + 2 * count), self._head, bulk(b"%d" % count)]
        for tenant, authorization_id, _, _ in answers:
            where = key(tenant, authorization_id)
            parts += (size_of(len(where)), where, _END)
        parts.append(self._ttl)
        for _, _, digest, answer in answers:
            parts += (size_of(_BODY + len(answer)), ANSWERED, digest, answer, _END)
        return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Held:
    """What an id's key already held for an arrival. All empty: the arrival's own idempotency
    record."""

    earlier: bytes | None = None
    in_progress_elsewhere: bool = False
    conflict: bool = False


_OURS, _ELSEWHERE, _CONFLICT = Held(), Held(in_progress_elsewhere=True), Held(conflict=True)


def read(held: bytes, mine: bytes, *, again: bool) -> Held:
    """Judge what was found under an id. mine: the idempotency record that we tried to leave. again:
    we may have left it before; otherwise its equal is another arrival's.

    A kind we do not know (a newer release's) is taken for an idempotency record elsewhere: the
    caller tries again, and nothing is decided twice.
    """
    kind = held[:1]
    if kind not in (IN_PROGRESS, ANSWERED) or len(held) < _BODY:
        return _ELSEWHERE
    if held[1:_BODY] != mine[1:_BODY]:
        return _CONFLICT
    if kind == ANSWERED:
        return Held(earlier=held[_BODY:])
    return _OURS if again and held == mine else _ELSEWHERE
