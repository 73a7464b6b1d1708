"""The four answers, and the lattice approve < challenge < review < decline."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """What we tell the acquirer. Joining two takes the stricter."""

    APPROVE = "approve"
    CHALLENGE = "challenge"
    REVIEW = "review"
    DECLINE = "decline"

    @property
    def severity(self) -> int:
        """0 for approve to 3 for decline."""
        return SEVERITY[self]

    def joined(self, other: Outcome) -> Outcome:
        """The least outcome that is at least as strict as both.

        >>> Outcome.REVIEW.joined(Outcome.CHALLENGE)
        <Outcome.REVIEW: 'review'>
        """
        return self if SEVERITY[self] >= SEVERITY[other] else other


SEVERITY: dict[Outcome, int] = {
    Outcome.APPROVE: 0,
    Outcome.CHALLENGE: 1,
    Outcome.REVIEW: 2,
    Outcome.DECLINE: 3,
}
BY_SEVERITY: tuple[Outcome, ...] = tuple(sorted(Outcome, key=SEVERITY.__getitem__))
