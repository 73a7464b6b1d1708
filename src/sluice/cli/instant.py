"""A moment on the command line."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from sluice.domain.clock import from_datetime


def instant(text: str) -> int:
    """Microseconds UTC of an ISO 8601 time; one without a zone is UTC.

    >>> instant("1970-01-02")
    86400000000
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text} is no time: write 2026-10-16T00:00:00Z") from exc
    return from_datetime(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
