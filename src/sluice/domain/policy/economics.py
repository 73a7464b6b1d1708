"""What decisions were worth, against the truth: integers of minor units and counts.

Stopped is everything but approve: a challenge, a review and a decline all keep the money in until
someone has looked.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Worth:
    """Amounts are minor units of one currency.

    false_positives_per_10k: genuine authorizations stopped, per 10,000 genuine ones; None
    without any.
    """

    frauds: int
    genuine: int
    fraud_minor: int
    stopped_minor: int
    let_through_minor: int
    frauds_stopped: int
    false_positives: int
    false_positives_per_10k: float | None
    genuine_stopped_minor: int


def worth(severity: Ints, is_fraud: Bools, amount_minor: Ints) -> Worth:
    """Euros stopped and let through, and what that cost the genuine.

    severity: (n,) 0 approve to 3 decline. is_fraud: (n,) truth. amount_minor: (n,) in one
    currency. O(n).

    >>> w = worth(np.array([0, 3, 1]), np.array([True, True, False]), np.array([500, 700, 90]))
    >>> w.stopped_minor, w.let_through_minor, w.false_positives
    (700, 500, 1)
    """
    stopped = np.asarray(severity) > 0
    fraud = np.asarray(is_fraud, np.bool_)
    amount = np.asarray(amount_minor, np.int64)
    genuine = int((~fraud).sum())
    false = int((stopped & ~fraud).sum())
    return Worth(
        frauds=int(fraud.sum()),
        genuine=genuine,
        fraud_minor=int(amount[fraud].sum()),
        stopped_minor=int(amount[fraud & stopped].sum()),
        let_through_minor=int(amount[fraud & ~stopped].sum()),
        frauds_stopped=int((fraud & stopped).sum()),
        false_positives=false,
        false_positives_per_10k=10_000 * false / genuine if genuine else None,
        genuine_stopped_minor=int(amount[~fraud & stopped].sum()),
    )
