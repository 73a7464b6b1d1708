"""Machine code in a folder that cannot be written is run as it lies there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from services import warm
from tests.support.confined import confined, why_not

ROOT = Path(__file__).parents[3]
RUN = """
import json
import logging

logging.basicConfig(format="%(message)s")
from services import warm
from sluice.domain.features import kernel
from sluice.domain.policy import rules

warm.main()
stats = {
    name: [sum(f.stats.cache_hits.values()), sum(f.stats.cache_misses.values())]
    for module in (rules, kernel)
    for name, f in vars(module).items()
    if hasattr(f, "stats") and f.__module__ == module.__name__
}
print(json.dumps({name: counts for name, counts in stats.items() if any(counts)}))
"""

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(bool(why_not(str(ROOT))), reason=why_not(str(ROOT))),
]


def run(**environment: str) -> tuple[dict[str, list[int]], str]:
    """What the kernel's caches of a confined process counted, and what it wrote to its log."""
    done = subprocess.run(
        confined([sys.executable, "-c", RUN]),
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_a_kept_kernel_is_read_and_nothing_is_compiled() -> None:
    warm.main()
    counts, log = run()
    assert counts.keys() == {"_finalise", "_update_all", "judge"}
    assert all(misses == 0 for _, misses in counts.values()), counts
    assert "kernel_compiled_in_memory" not in log


@pytest.mark.slow
def test_without_a_kept_kernel_it_is_compiled_and_said_once() -> None:
    counts, log = run(NUMBA_CACHE_DIR="/nowhere")
    assert all(hits == 0 for hits, _ in counts.values()), counts
    assert log.count("kernel_compiled_in_memory") == 1
