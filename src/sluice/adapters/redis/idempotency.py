"""Who decides an authorization, and what was decided: one key an id, taken with SET NX GET.

An idempotency record is kind 1, the content's digest, and whose it is. Once decided it is
replaced by kind 2, the digest and the answer's bytes. See
docs/decisions/0004-pending-and-idempotency.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from sluice.adapters.redis.commands import bulk, size_of
from sluice.application.ports import Arrival

IN_PROGRESS, ANSWERED = b"\x01", b"\x02"
DIGEST_BYTES = 8
_BODY = 1 + DIGEST_BYTES


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


class KeepAnswer:
    """SET of an answer over its idempotency record, with the answer's time to live."""

    def __init__(self, ttl_s: float) -> None:
        self._head = b"*5\r\n" + bulk(b"SET")
        self._tail = b"\r\n" + bulk(b"PX") + bulk(b"%d" % round(ttl_s * 1000))

    def add(
        self, parts: list[bytes], tenant: str, authorization_id: str, digest: bytes, answer: bytes
    ) -> None:
        """Append the command's bytes."""
        where = key(tenant, authorization_id)
        parts += (self._head, size_of(len(where)), where, b"\r\n")
        parts += (size_of(_BODY + len(answer)), ANSWERED, digest, answer, self._tail)


@dataclass(frozen=True, slots=True)
class Held:
    """What an id's key already held for an arrival. All empty: the arrival's own idempotency
    record."""

    earlier: bytes | None = None
    in_progress_elsewhere: bool = False
    conflict: bool = False


_OURS, _ELSEWHERE, _CONFLICT = Held(), Held(in_progress_elsewhere=True), Held(conflict=True)


def read(held: bytes, mine: bytes, *, from_stream: bool) -> Held:
    """Judge what was found under an id. mine: the idempotency record that we tried to leave.

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
    return _OURS if from_stream and held == mine else _ELSEWHERE
