"""Errors by the reaction they ask for. Each says what, where, and what to do."""

from __future__ import annotations


class SluiceError(Exception):
    """Base of every error we raise on purpose.

    what: one sentence. where: topic/partition@offset, file:line, key. fix: the next step.
    code: a bounded, stable word for metrics, dead letters and HTTP answers.
    """

    code = "error"

    def __init__(self, what: str, *, where: str = "", fix: str = "", code: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix
        if code:
            self.code = code

    def __str__(self) -> str:
        parts = [self.what]
        if self.where:
            parts.append(f"at {self.where}")
        if self.fix:
            parts.append(f"fix: {self.fix}")
        return "; ".join(parts)


class Rejected(SluiceError):
    """The message is wrong. Dead-letter it with digest and reason, move on."""

    code = "rejected"


class Unavailable(SluiceError):
    """The outside is late or down. Retry inside the deadline, then degrade."""

    code = "unavailable"


class Corrupt(SluiceError):
    """An invariant broke. Stop and page; no quiet repair."""

    code = "corrupt"


class Misconfigured(SluiceError):
    """We were set up wrong. Refuse to start, name the key."""

    code = "misconfigured"
