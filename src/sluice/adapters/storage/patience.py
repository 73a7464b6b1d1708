"""Asking again: for verbs, which have minutes where a service has a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import TypeVar

from sluice.errors import Unavailable

WAITS_S = (1, 2, 4, 8, 15, 30, 60)
"""Between tries, each of which the client tries some times itself: an outage of two minutes is
outlived. A longer one ends the verb, which may be run again."""

_Answer = TypeVar("_Answer")


class RefusedError(Unavailable):
    """It answers, and wants something else: a bucket that is there, a right, a key, room. Who waits
    for minutes need not."""


def patiently(
    ask: Callable[[], _Answer],
    progress: Callable[[str], None],
    pause: Callable[[float], None] = time.sleep,
    *,
    at_once: Collection[str] = (),
) -> _Answer:
    """The answer, after as many tries as it takes. ask: what may be done twice. progress: hears of
    each try that failed. Raises what the last one raised, at once what no other would change: a
    refusal, and errors of the codes ``at_once``."""
    for wait_s in WAITS_S:
        try:
            return ask()
        except RefusedError:
            raise
        except Unavailable as error:
            if error.code in at_once:
                raise
            progress(f"{error.what}; once more in {wait_s} s")
            pause(wait_s)
    return ask()
