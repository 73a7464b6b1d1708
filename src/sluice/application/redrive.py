"""Send dead messages again, each at most once, from where their bytes still lie."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from sluice.domain.clock import Clock
from sluice.domain.records.authorization import encode
from sluice.domain.records.dead_letter import DUPLICATE, REDRIVEN, DeadLetter
from sluice.domain.records.decision import Origin

SERVICE = "redrive"
FILE = "file:"
"""Origins of published files begin so; their partition is 0, their offset the line."""


@dataclass(frozen=True, slots=True)
class Original:
    """What lies at an origin."""

    key: bytes | None
    value: bytes
    traceparent: str | None


class Originals(Protocol):
    """Reads single records."""

    def at(self, origin: Origin) -> Original | None:
        """None if the place expired."""
        ...


class Sender(Protocol):
    """Sends a record and the dead letter that notes it, both or neither."""

    def send(self, origin: Origin, original: Original, note: bytes) -> None:
        """Durable on return. Raises Unavailable."""
        ...


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one dead letter. refused: why it was not sent, "" if it was (or would be)."""

    dead_letter: DeadLetter
    refused: str = ""


def select(
    dead_letters: Iterable[DeadLetter],
    *,
    code: str = "",
    since_us: int = 0,
    origin: str = "",
) -> list[DeadLetter]:
    """Those of a code, not older than since_us, of one origin; oldest first."""
    return sorted(
        (
            dead_letter
            for dead_letter in dead_letters
            if (not code or dead_letter.code == code)
            and dead_letter.dead_at >= since_us
            and (not origin or str(dead_letter.origin) == origin)
        ),
        key=lambda dead_letter: dead_letter.dead_at,
    )


def worth_a_try(chosen: Iterable[DeadLetter]) -> list[DeadLetter]:
    """Without those that can never be sent again: whoever asks for everything means the rest."""
    return [one for one in chosen if one.code not in (DUPLICATE, REDRIVEN)]


def redrive(
    dead_letters: Iterable[DeadLetter],
    chosen: Iterable[DeadLetter],
    originals: Originals,
    sender: Sender | None,
    clock: Clock,
    who: str | None = None,
) -> Iterator[Result]:
    """Send the chosen messages again; one result a dead letter.

    dead_letters: all there are, for those sent before. sender: None for a dry run. Each message
    goes to its topic with its key and bytes, together with a dead letter of code
    "redriven": a second run, and
    a run after a kill, skip it. who: answers for it.
    """
    sent = {dead_letter.origin for dead_letter in dead_letters if dead_letter.code == REDRIVEN}
    for dead_letter in chosen:
        original = None
        refused = _refusal(dead_letter, sent)
        if not refused:
            original = originals.at(dead_letter.origin)
            refused = _mismatch(dead_letter, original)
        if not refused and original is not None:
            sent.add(dead_letter.origin)
            if sender is not None:
                sender.send(dead_letter.origin, original, encode(_note(dead_letter, clock, who)))
        yield Result(dead_letter, refused)


def _refusal(dead_letter: DeadLetter, sent: set[Origin]) -> str:
    if dead_letter.code == REDRIVEN:
        return "this dead letter notes that a message was sent again"
    if dead_letter.code == DUPLICATE:
        return "it was decided before, with the same content"
    if dead_letter.origin.topic.startswith(FILE):
        return "its origin is a file: correct the line and publish it again"
    if dead_letter.origin in sent:
        return "it was sent again before"
    return ""


def _mismatch(dead_letter: DeadLetter, original: Original | None) -> str:
    if original is None:
        return "its bytes have expired from the topic"
    if hashlib.sha256(original.value).hexdigest() != dead_letter.sha256:
        return "other bytes lie at its origin now: the topic was made anew"
    return ""


def _note(dead_letter: DeadLetter, clock: Clock, who: str | None) -> DeadLetter:
    return DeadLetter(
        origin=dead_letter.origin,
        sha256=dead_letter.sha256,
        size_bytes=dead_letter.size_bytes,
        code=REDRIVEN,
        error=f"sent again; it had stopped with {dead_letter.code}",
        service=SERVICE,
        dead_at=clock.now_us(),
        who=who,
    )
