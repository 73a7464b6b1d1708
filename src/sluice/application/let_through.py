"""The day's budget of let-throughs, of one decider process."""

from __future__ import annotations

from sluice.application.ports import Count, uncounted
from sluice.domain.clock import DAY_US, Clock
from sluice.domain.policy.let_through import Draw, LetThrough, key_of
from sluice.domain.policy.policy import Policy
from sluice.errors import Misconfigured


class DayBudget:
    """Counts what was let through since midnight (UTC), whatever policy asked for it.

    What is spent on a decision that then could not be recorded stays spent. Not thread-safe.
    """

    def __init__(self, clock: Clock, count: Count = uncounted) -> None:
        self._clock = clock
        self._count = count
        self._day = 0
        self._number = 0
        self._amount_minor = 0

    def spend(self, limits: LetThrough, amount_minor: int) -> bool:
        """Take one of this amount from the day's budget; False where it has no room for it."""
        day = self._clock.now_us() // DAY_US
        if day != self._day:
            self._day, self._number, self._amount_minor = day, 0, 0
        number, amount = self._number + 1, self._amount_minor + amount_minor
        most, most_minor = limits.count_per_day, limits.amount_per_day_minor
        if (most is not None and number > most) or (most_minor is not None and amount > most_minor):
            self._count("sluice_decider_let_through_total", "spent")
            return False
        self._number, self._amount_minor = number, amount
        self._count("sluice_decider_let_through_total", "approved")
        self._count("sluice_decider_let_through_minor_total", by=amount_minor)
        return True


def draw_of(secret: str, clock: Clock, count: Count = uncounted) -> Draw | None:
    """What a decider lets through by; None without a key. Raises Misconfigured for a bad key."""
    return Draw(key_of(secret), DayBudget(clock, count).spend) if secret else None


def refuse_undrawn(policy: Policy, secret: str) -> None:
    """Raises Misconfigured for a policy that lets through where no key is set: each decider would
    have to draw by its own, and nobody could say afterwards why an id was drawn."""
    if policy.let_through is not None and not secret:
        raise Misconfigured(
            "the policy lets through, and there is no key to draw by",
            where="decider.let_through_key",
            fix="openssl rand -hex 32, the same at every decider; or take let_through out of the "
            "policy",
            code="no_let_through_key",
        )
