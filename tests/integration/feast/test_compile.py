"""``sluice features compile`` reads Feast's registry, and refuses what we would not read."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from feast import FeatureStore

from sluice.adapters.feast.contract import plan_of
from sluice.domain.features import catalogue
from sluice.domain.release import decode_manifest
from tests.integration.feast.conftest import RELEASES, Applied

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def compile_(applied: Applied, service: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("sluice"), "features", "compile", "--service", service,
         "--repository", "."],
        cwd=applied.directory,
        env=applied.env | {"FEAST_FS_YAML_FILE_PATH": str(applied.directory / "env.yaml")},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )  # fmt: skip


def test_a_releases_service_compiles_to_what_this_build_reads(applied: Applied):
    (path,) = RELEASES.glob("*-*/manifest.json")
    manifest = decode_manifest(path.read_bytes())
    done = compile_(applied, manifest.id)
    assert done.returncode == 0, done.stderr
    assert done.stdout.encode() == plan_of(manifest.names).document()


def test_a_service_that_does_not_exist_is_named(applied: Applied):
    done = compile_(applied, "nobody")
    assert done.returncode == 78
    assert "nobody" in done.stderr
    assert "feast apply" in done.stderr


def test_a_registry_that_differs_from_this_build_is_refused(applied: Applied, sdk: FeatureStore):
    changed = sdk.get_feature_view("device_state")
    changed.ttl = timedelta(days=1)
    sdk.apply(changed)
    try:
        done = compile_(applied, "catalogue")
    finally:
        applied.feast("apply")
    assert done.returncode == 78
    assert "ttl_s=86400" in done.stderr
    assert msgspec.json.decode(compile_(applied, "catalogue").stdout)["digest"] == (
        plan_of(catalogue.NAMES).digest
    )
