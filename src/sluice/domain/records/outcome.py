"""The answers, and their lattice: approve < challenge < review < decline.

One more is a line here, in its place between the others, and a step for it in the policy.
"""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """What the acquirer hears, mildest first. Joining two takes the stricter."""

    APPROVE = "approve"
    CHALLENGE = "challenge"
    REVIEW = "review"
    DECLINE = "decline"

    @property
    def severity(self) -> int:
        """Place in the lattice, 0 for approve."""
        return SEVERITY[self]

    def joined(self, other: Outcome) -> Outcome:
        """The least outcome that is at least as strict as both.

        >>> Outcome.REVIEW.joined(Outcome.CHALLENGE)
        <Outcome.REVIEW: 'review'>
        """
        return self if SEVERITY[self] >= SEVERITY[other] else other


BY_SEVERITY: tuple[Outcome, ...] = tuple(Outcome)
SEVERITY: dict[Outcome, int] = {outcome: i for i, outcome in enumerate(BY_SEVERITY)}
"""Never stored: records name their outcome."""
STRICTER = BY_SEVERITY[1:]
"""All but approve."""
