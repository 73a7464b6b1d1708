"""Where keys lie in a cluster: 16,384 slots, of which each node owns some.

Source: the Redis Cluster specification, sections Key distribution model and Hash tags. Feast's keys
are what its layout makes them, and hash whole; keys of ours that must lie with another carry a tag.
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

from hiredis import ReplyError

from sluice.adapters.redis.address import Place
from sluice.adapters.redis.commands import pack

SLOTS = 16_384
MARKS = 32
"""Watermarks of a cluster, one in each 512 slots, so that every node of 512 slots in a row has one:
what a replica that takes over lacks shows by the marks that it has. Each costs the featurizer a
script a batch (docs/reference/online-store.md, Cost)."""
_TAG_LETTERS = range(0x40, 0x50)
"""CRC16 is linear in their lower four bits, so four of them reach every slot."""


def slot(key: bytes) -> int:
    """The slot of a key: CRC16 (XMODEM) of what stands in its first braces, else of all of it.

    >>> slot(b"123456789"), slot(b"{user1000}.following") == slot(b"user1000")
    (12739, True)
    """
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) % SLOTS


@cache
def tags() -> tuple[bytes, ...]:
    """Four letters for each slot, which hash to it.

    >>> slot(b"sluice:pending:{" + tags()[4711] + b"}:acme:card-1")
    4711
    """
    found: dict[int, bytes] = {}
    for letters in product(_TAG_LETTERS, repeat=4):
        found.setdefault(crc_hqx(bytes(letters), 0) % SLOTS, bytes(letters))
    return tuple(found[number] for number in range(SLOTS))


def mark_keys(key: bytes) -> dict[bytes, int]:
    """The key of each of the cluster's MARKS, to its slot."""
    apart = SLOTS // MARKS
    return {b"%b:{%b}" % (key, tags()[number]): number for number in range(0, SLOTS, apart)}


ASK = pack(b"CLUSTER", b"INFO") + pack(b"CLUSTER", b"SLOTS")
"""Two commands, of which :func:`topology` reads the answers."""


@dataclass(frozen=True, slots=True)
class Topology:
    """Who owns what, as one node sees it. epoch: the newest that it has heard of; of two views the
    one of the higher epoch is the later."""

    epoch: int
    whole: bool
    """The node serves: all slots are owned, and it sees most masters."""
    owners: tuple[Place | None, ...]
    """(SLOTS,)"""


def topology(answers: Sequence[Any], asked: Place) -> Topology:
    """Read the answers to ASK. asked: whose they are; a node may not know its own host.

    Raises ReplyError where the node refuses, ValueError for anything else.
    """
    for answer in answers:
        if isinstance(answer, ReplyError):
            raise answer
    info, ranges = answers
    try:
        lines = info.decode().splitlines()
        figures = dict(line.split(":", 1) for line in lines if ":" in line)
        owners: list[Place | None] = [None] * SLOTS
        for first, last, master, *_replicas in ranges:
            host, port = master[0], master[1]
            name = (host or b"").decode()
            place = (name if name not in ("", "?") else asked[0], int(port))
            owners[first : last + 1] = [place] * (last + 1 - first)
        return Topology(
            int(figures["cluster_current_epoch"]),
            figures["cluster_state"].strip() == "ok",
            tuple(owners[:SLOTS]),
        )
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as exc:
        raise ValueError(f"this is no answer to CLUSTER SLOTS: {exc}") from exc


def marks_of(
    owners: Sequence[object], keys: Mapping[bytes, int]
) -> dict[object, tuple[bytes, ...]]:
    """Of each owner the first and the last mark in its slots: while a reshard moves the one, the
    other stays."""
    held: dict[object, list[bytes]] = {}
    for key, number in keys.items():
        held.setdefault(owners[number], []).append(key)
    return {owner: tuple(dict.fromkeys((mine[0], mine[-1]))) for owner, mine in held.items()}


class UnansweredError(ReplyError):  # type: ignore[misc]
    """In place of a reply: the node that owns the key did not answer, or there is none."""

    def __init__(self, why: str) -> None:
        super().__init__(f"UNANSWERED {why}")


REDIRECTS = {"MOVED": "moved", "ASK": "ask"}


def redirect(answer: ReplyError, asked: Place) -> tuple[str, Place] | None:
    """Where a node sends us instead, and how: moved or ask. None if it does not.

    >>> redirect(ReplyError("MOVED 3999 127.0.0.1:6381"), ("127.0.0.1", 6379))
    ('moved', ('127.0.0.1', 6381))
    """
    words = str(answer).split(" ")
    if words[0] not in REDIRECTS or len(words) != 3:
        return None
    host, _, port = words[2].rpartition(":")
    if not port.isdecimal():
        return None
    return REDIRECTS[words[0]], (host.strip("[]") or asked[0], int(port))
