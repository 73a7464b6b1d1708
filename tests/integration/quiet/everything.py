"""``python -m tests.integration.quiet.everything FOLDER``: run once all that runs libraries.

Every module of ours is imported, an authorization scored and judged, a record archived and read,
the feature repository applied and compiled. Nothing of it has a reason to open a connection: prints
"done" and the modules. FOLDER: empty, may be written.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def import_all() -> list[str]:
    """Every module of the library and the services, but those that run when imported."""
    names = []
    for package in ("sluice", "services"):
        made = importlib.import_module(package)
        for found in pkgutil.walk_packages(made.__path__, f"{package}."):
            if found.name.startswith("sluice.adapters.spark."):
                continue  # in an environment of its own
            if not found.name.endswith("__main__"):
                importlib.import_module(found.name)
                names.append(found.name)
    return names


def decide() -> None:
    """Score and judge: the committed release with its warm-up rows, the default policy."""
    from services import warm
    from sluice.adapters.onnx import load, read_trust
    from sluice.domain.features import catalogue

    warm.main()
    release = ROOT / "models/releases/current"
    trust = read_trust(ROOT / "policies/trust")
    load(release, trust, catalogue.FEATURES, "EUR")


def archive(folder: Path) -> None:
    """Write a decision to parquet and read it."""
    from sluice.adapters.kafka.consumer import Message
    from sluice.adapters.parquet.archive import Archive, ParquetFiles
    from sluice.domain.records.authorization import encode
    from sluice.testing.records import make_decision

    value = encode(make_decision("a-1", sequence=1))
    at = ("decisions.v1", 0)
    ParquetFiles(folder, {at[0]: "decisions"}).write(at, [Message(value, None, *at, 5, None, 1)])
    assert len(list(Archive(folder).decisions())) == 1


def features(folder: Path) -> None:
    """Apply the repository as Feast's command does, and compile its plan from the registry."""
    shutil.copytree(ROOT / "feature_repo", folder / "feature_repo")
    shutil.copytree(ROOT / "models/releases", folder / "models/releases", symlinks=True)
    os.environ |= {
        "SLUICE_FEAST_STORE": "127.0.0.1:1",
        "SLUICE_FEAST_REGISTRY": f"sqlite:///{folder}/registry.db",
        "FEAST_FS_YAML_FILE_PATH": str(folder / "feature_repo/env.yaml"),
    }
    feast = [sys.executable, "-m", "feast.cli.cli", "-f", "env.yaml", "apply"]
    subprocess.run(feast, cwd=folder / "feature_repo", check=True, stdout=subprocess.DEVNULL)
    from sluice.adapters.feast.registry import compile_service

    compile_service(folder / "feature_repo", "catalogue")


if __name__ == "__main__":
    work = Path(sys.argv[1])
    modules = import_all()
    decide()
    archive(work / "archive")
    features(work)
    print("done", *modules)
