"""A Count that remembers what adapters counted."""

from __future__ import annotations

from collections import Counter

from sluice.telemetry import TABLE

_LABELS = {row.name: len(row.labels) for row in TABLE if row.kind == "counter"}


class Counted(Counter[str]):
    """The port Count: by metric and labels, joined with spaces. What was never counted is 0.

    Raises LookupError, as the process's metrics do, for what is in no row of the table.

    >>> counted = Counted()
    >>> counted("sluice_store_posts_lost_total", "down")
    >>> counted["sluice_store_posts_lost_total down"]
    1
    """

    def __call__(self, metric: str, /, *labels: str, by: float = 1) -> None:
        """Add to a counter."""
        if _LABELS.get(metric) != len(labels):
            raise LookupError(f"no counter {metric} with {len(labels)} labels in telemetry.TABLE")
        self[" ".join((metric, *labels))] += int(by)
