"""Who handles records or counts alone does not pay for the kernel: numba is 0.5 s and 100 MB."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import pytest

from sluice.domain import records

LIGHT = [
    *(f"sluice.domain.records.{module.name}" for module in pkgutil.iter_modules(records.__path__)),
    "sluice.telemetry",
    "sluice.settings",
]


@pytest.mark.parametrize("module", LIGHT)
def test_importing_it_loads_no_numba(module: str) -> None:
    program = f"import sys, {module}; print('numba' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=600, check=True
    )
    assert done.stdout == "False\n"
