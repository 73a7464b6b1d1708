"""The tutorial, followed: its row, put into a copy of the source, is seen by everyone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sluice.domain.features import catalogue

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/tutorial/add-a-feature.md").read_text()
NAME = "card_amount_1h_to_1d_milli"
BESIDE = '        Feature("card_amount_1d_to_30d_milli",'
SEEN = """
import json
import sys

sys.path.insert(0, "feature_repo")
import definitions
import numpy as np

from sluice.adapters.feast.contract import plan_of
from sluice.cli.reference import PAGES
from sluice.domain.features import catalogue
from sluice.domain.features.events import AMOUNT, EVENT_US, ID, WIDTH
from sluice.domain.features.kernel import Kernel

# The kernel as Python reads it: the same code, without minutes of compiling it anew.
event = np.zeros((1, WIDTH), np.int64)
event[0, EVENT_US], event[0, ID], event[0, AMOUNT] = 1_700_000_000_000_000, 5, 4321
served = Kernel().finalise(event, [[b""] * 4], [[]]).features[0]
name = sys.argv[1]
(field,) = (f for f in definitions.decision_features.features if f.name == name)
print(json.dumps({
    "n": catalogue.N,
    "digest": catalogue.DIGEST,
    "value": int(served[catalogue.INDEX[name]]),
    "page": [line for line in PAGES["features.md"]().splitlines() if name in line],
    "logged": [field.description, field.tags["unit"], field.tags["window"]],
    "served": name in [f.name for f in definitions.authorization_features.features],
    "services": sorted(k for k, v in vars(definitions).items()
                       if type(v).__name__ == "FeatureService"),
    "plan": [f.name for f in plan_of(catalogue.NAMES).features].index(name),
}))
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What a fresh interpreter finds in a copy of the source with the tutorial's row."""
    copy = tmp_path_factory.mktemp("copy")
    for folder in ("src", "feature_repo", "models/releases"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, copy / folder, symlinks=True, ignore=ignored)
    (row,) = re.findall(r"```python\n(.*)\n```", PAGE)
    table = copy / "src/sluice/domain/features/catalogue.py"
    text = table.read_text()
    assert text.count(BESIDE) == 1
    table.write_text(text.replace(BESIDE, f"        {row}\n{BESIDE}"))
    done = subprocess.run(
        [sys.executable, "-c", SEEN, NAME],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy / "src"), "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_the_catalogue_has_one_more_and_another_digest(seen):
    assert seen["n"] == catalogue.N + 1
    assert seen["digest"] != catalogue.DIGEST


def test_the_kernel_computes_it(seen):
    assert seen["value"] == 1000  # all of the day's amount is this one


def test_the_reference_page_tells_of_it(seen):
    (line,) = seen["page"]
    assert "| milli | 1d |" in line
    assert "`milli card.amount.1h card.amount.1d`" in line


def test_feast_serves_it_and_logs_it_with_what_it_means(seen):
    assert seen["served"]
    assert seen["logged"] == ["Amount of the hour over the amount of the day", "milli", "1d"]


def test_the_compiled_plan_has_it_in_its_place(seen):
    assert seen["plan"] == catalogue.INDEX["card_amount_1d_to_30d_milli"]


def test_a_release_of_the_old_catalogue_gets_no_service(seen):
    assert seen["services"] == ["every", "states"]
