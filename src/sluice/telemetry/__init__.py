"""What a process shows of itself: a table of metrics, JSON logs, W3C trace context."""

from sluice.telemetry.admin import HEALTH, WHY_MAX, AdminServer, Health
from sluice.telemetry.logs import (
    ALL_PPM,
    Line,
    Sampler,
    configure_logging,
    count_lines,
    decided_line,
    event,
    name_in_log,
    write_lines,
)
from sluice.telemetry.metrics import (
    METRICS,
    Metrics,
    observe_decisions,
    show_lag,
)
from sluice.telemetry.table import LABEL_SETS_MAX, SHOWN_BY, TABLE
from sluice.telemetry.traces import Joined, join_trace, trace_id_of

__all__ = [
    "ALL_PPM",
    "HEALTH",
    "LABEL_SETS_MAX",
    "METRICS",
    "SHOWN_BY",
    "TABLE",
    "WHY_MAX",
    "AdminServer",
    "Health",
    "Joined",
    "Line",
    "Metrics",
    "Sampler",
    "configure_logging",
    "count_lines",
    "decided_line",
    "event",
    "join_trace",
    "name_in_log",
    "observe_decisions",
    "show_lag",
    "trace_id_of",
    "write_lines",
]
