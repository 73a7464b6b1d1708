"""Who handles records alone does not pay for the kernel: numba is 0.5 s and 100 MB."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import pytest

from sluice.domain import records

RECORDS = [module.name for module in pkgutil.iter_modules(records.__path__)]


@pytest.mark.parametrize("module", RECORDS)
def test_importing_a_record_loads_no_numba(module: str) -> None:
    program = f"import sys, sluice.domain.records.{module}; print('numba' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "False\n"
