"""What the chart tells an Airflow beside it: its case `prod`, as the chart's own tests keep it."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

GOLDEN = Path(__file__).parents[2] / "tests/deploy/golden/prod.yaml"
SECTION = r"(?ms)^# templates/airflow.yaml\n(.*?)(?=^# templates/|\Z)"


def told() -> dict[str, str]:
    """Variables for all parts of Airflow."""
    (rendered,) = re.findall(SECTION, GOLDEN.read_text())
    (found,) = (one for one in yaml.safe_load_all(rendered) if one["kind"] == "ConfigMap")
    return dict(found["data"])
