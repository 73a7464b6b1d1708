"""An Airflow that nobody started: a home of its own, and no variable of the caller's."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

DAGS = Path(__file__).parents[1]
for name in [name for name in os.environ if name.startswith("AIRFLOW")]:
    del os.environ[name]
os.environ |= {
    "AIRFLOW_HOME": tempfile.mkdtemp(prefix="sluice-dags-"),
    "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    "SCARF_ANALYTICS": "false",
}
sys.path[:0] = [str(DAGS), str(Path(__file__).parent)]  # the first as Airflow does
