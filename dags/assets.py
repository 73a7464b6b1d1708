"""What the DAGs tell each other, by URI. An event names what it is about in its ``extra``."""

from __future__ import annotations

from airflow.sdk import Asset

LABELS_MATURED = Asset("sluice_labels_matured", uri="x-sluice://labels/matured")
"""A further week of authorizations is old enough for most of its frauds to be reported."""
DRIFT_FOUND = Asset("sluice_drift_found", uri="x-sluice://drift/found")
"""What deciders see is no longer what the release in force was made for; told once a week."""
CANDIDATE = Asset("sluice_candidate", uri="x-sluice://releases/candidate")
"""A release that passed the gate scores in shadow."""

ALL = (LABELS_MATURED, DRIFT_FOUND, CANDIDATE)
