"""Let-through: a few would-be declines are approved on purpose, to learn what became of them.

Of what was declined nobody ever hears whether it was fraud, so a model that learns from approvals
alone never finds out where it declines in vain. Which ones are let through is drawn by a keyed hash
of the authorization's id: whoever mints ids cannot know, and the same id draws the same at both
entrypoints and in a replay. With its probability recorded, an average over what was let through,
each weighted by 1 / probability, is one over all that might have been (Horvitz and Thompson, 1952).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta

from sluice.errors import Misconfigured

SHARE_MAX_PPM = 100_000
"""A tenth of the would-be declines. More is no sample, it is another threshold."""
KEY_MIN_BYTES = 16
KEY_MAX_BYTES = 64
"""Of BLAKE2b."""
MILLION = 1_000_000
CODE = "LET_THROUGH"
"""The first reason of a decision that was let through."""


class LetThrough(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``let_through`` of a pack. amount_max_minor: of one, in the reference currency.

    The two of a day bound what one decider process lets through on one day (UTC), so that a flood
    of declines, an attack by many small amounts, costs no more than that; null is no bound. never:
    reason codes; what a rule with one of them declines is never let through.
    """

    share_ppm: Annotated[int, Meta(ge=1, le=SHARE_MAX_PPM)]
    amount_max_minor: Annotated[int, Meta(ge=1, le=10**12)]
    count_per_day: Annotated[int, Meta(ge=1, le=10**9)] | None = None
    amount_per_day_minor: Annotated[int, Meta(ge=1, le=10**15)] | None = None
    never: list[str] = []


def _always(_limits: LetThrough, _amount_minor: int) -> bool:
    return True


class Draw:
    """Says which ids are drawn, and whether the day's budget has room.

    key: the same at every decider; see :func:`key_of`. spend: takes an amount from the day's
    budget, False if it has no room; a replay has no budget, and takes what the record says.
    """

    def __init__(self, key: bytes, spend: Callable[[LetThrough, int], bool] = _always) -> None:
        self._key = key
        self.spend = spend

    def drawn(self, tenant: str, authorization_id: str, share_ppm: int) -> bool:
        """Whether this id is among the share. 1 us.

        >>> draw = Draw(b"sixteen bytes or")
        >>> sum(draw.drawn("bank", f"a-{i}", 100_000) for i in range(10_000))
        980
        """
        text = f"{tenant}\0{authorization_id}".encode()
        drawn = hashlib.blake2b(text, key=self._key, digest_size=8, person=CODE.encode()).digest()
        return int.from_bytes(drawn, "big") * MILLION < share_ppm << 64


def key_of(secret: str) -> bytes:
    """The key of a secret setting. Raises Misconfigured for one too short or too long."""
    key = secret.encode()
    if not KEY_MIN_BYTES <= len(key) <= KEY_MAX_BYTES:
        raise Misconfigured(
            f"the key has {len(key)} bytes, {KEY_MIN_BYTES} to {KEY_MAX_BYTES} are needed",
            where="decider.let_through_key",
            fix="openssl rand -hex 32, and the same one for every decider",
        )
    return key
