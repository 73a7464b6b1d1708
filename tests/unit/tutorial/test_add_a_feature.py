"""The tutorial, followed: its row, put into a copy of the source, is seen by everyone.

And releases go both ways between that build and this one, as during a rolling update.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sluice.adapters.onnx import ReleaseDirectory, load, read_trust
from sluice.bootstrap import services as bootstrap
from sluice.domain.features import catalogue
from sluice.domain.features.events import AMOUNT, EVENT_US, ID, WIDTH
from sluice.domain.features.kernel import Kernel
from sluice.settings import load as load_settings

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/tutorial/add-a-feature.md").read_text()
NAME = "card_amount_1h_to_1d_milli"
BESIDE = '        Feature("card_amount_1d_to_30d_milli",'
SEEN = """
import json
import sys
from pathlib import Path

sys.path.insert(0, "feature_repo")
import definitions
import numpy as np

from sluice.bootstrap import services as bootstrap
from sluice.adapters.feast.contract import plan_of
from sluice.cli.reference import PAGES
from sluice.domain.features import catalogue
from sluice.domain.features.events import AMOUNT, EVENT_US, ID, WIDTH
from sluice.domain.features.kernel import Kernel
from sluice.settings import load
from sluice.domain.release import public_line
from sluice.testing.release import FEATURES, KEY, make_release

# The kernel as Python reads it: the same code, without minutes of compiling it anew.
event = np.zeros((1, WIDTH), np.int64)
event[0, EVENT_US], event[0, ID], event[0, AMOUNT] = 1_700_000_000_000_000, 5, 4321
served = Kernel().finalise(event, [[b""] * 4], [[]]).features[0]
name = sys.argv[1]
for folder, columns in (("old_features", FEATURES), ("new_feature", (*FEATURES, name))):
    make_release(Path(folder), id=folder.replace("_", "-"), features=columns)
Path("test.pub").write_text(public_line(KEY.public_key(), "test"))
active = bootstrap.active_configuration(load()[0])
scorer = active.releases.current()
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
    "release": scorer and scorer.release,
    "refused": str(active.releases.refused),
    "ppm": scorer and scorer.score(served[None]).ppm.tolist(),
    "plan": [f.name for f in plan_of(catalogue.NAMES).features].index(name),
}))
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build with the tutorial's row: a copy of the source."""
    copy = tmp_path_factory.mktemp("copy")
    for folder in ("src", "feature_repo", "models/releases", "policies"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, copy / folder, symlinks=True, ignore=ignored)
    (row,) = re.findall(r"```python\n(.*)\n```", PAGE)
    table = copy / "src/sluice/domain/features/catalogue.py"
    text = table.read_text()
    assert text.count(BESIDE) == 1
    table.write_text(text.replace(BESIDE, f"        {row}\n{BESIDE}"))
    return copy


@pytest.fixture(scope="module")
def seen(copy: Path) -> dict[str, object]:
    """What a fresh interpreter finds there; it leaves releases of its own, too."""
    done = subprocess.run(
        [sys.executable, "-c", SEEN, NAME],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy / "src"), "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        timeout=600,
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


def test_a_release_of_the_old_catalogue_keeps_its_service(seen):
    assert seen["services"] == sorted(["every", "states", committed()])


def test_the_new_build_decides_by_the_old_release_as_before(seen):
    assert (seen["release"], seen["refused"]) == (committed(), "None")
    event = np.zeros((1, WIDTH), np.int64)
    event[0, EVENT_US], event[0, ID], event[0, AMOUNT] = 1_700_000_000_000_000, 5, 4321
    features = Kernel().finalise(event, [[b""] * 4], [[]]).features
    trusted = read_trust(ROOT / "policies/trust")
    scorer = load(ROOT / "models/releases/current", trusted, catalogue.FEATURES, "EUR")
    assert scorer.score(features).ppm.tolist() == seen["ppm"]


def test_this_build_decides_by_a_newer_release_of_features_that_it_has(seen, decider_of):
    releases = decider_of("old_features")
    assert releases.current().release == "old-features"
    assert releases.refused is None


def test_this_build_refuses_a_newer_release_of_the_new_feature_by_name(seen, decider_of):
    releases = decider_of("new_feature")
    assert releases.current() is None
    assert releases.refused.code == "misconfigured"
    assert f"the catalogue has no feature {NAME}" in str(releases.refused)


@pytest.fixture
def decider_of(copy: Path, tmp_path: Path) -> Callable[[str], ReleaseDirectory]:
    """What a decider of this build that starts on a release of the other one makes of it."""
    shutil.copy(copy / "test.pub", tmp_path)  # each process signs with a key of its own

    def start(release: str) -> ReleaseDirectory:
        settings = load_settings(
            {
                "SLUICE_DECIDER_RELEASE_DIR": str(copy / release),
                "SLUICE_DECIDER_TRUST_DIR": str(tmp_path),
                "SLUICE_DECIDER_POLICY_DIR": str(ROOT / "policies/default"),
            }
        )[0]
        return bootstrap.active_configuration(settings).releases

    return start


def committed() -> str:
    return (ROOT / "models/releases/current").readlink().name
