"""Each Terraform module by its own tests, and the chart with what a whole cell gives it.

Providers are mocked: no account, no network. The AWS provider's binary must be on the machine, in
one of the folders that Terraform looks into by itself or below /opt: ``terraform init`` would ask
the internet for it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.helm import ROOT, Helm, Object

TERRAFORM = ROOT / "terraform"
TESTED = sorted(path.parent.parent for path in TERRAFORM.glob("**/tests/*.tftest.hcl"))
ROOTS = sorted({path.parent for path in TERRAFORM.glob("*/*/*.tf")})
SECURED = ROOT / "docs/how-to/secure-a-deployment.md"
RUN_MAX_S = 900
HOST = "registry.terraform.io"

Run = Callable[..., str]


def _mirror() -> Path | None:
    homes = [Path.home() / ".terraform.d/plugins", *Path("/usr/share/terraform").glob("*")]
    for folder in [*homes, *Path("/opt").glob("*")]:
        if (folder / HOST / "hashicorp/aws").is_dir():
            return folder
    return None


@pytest.fixture(scope="session")
def terraform(tmp_path_factory: pytest.TempPathFactory) -> Run:
    program = shutil.which("terraform")
    mirror = _mirror()
    if program is None or mirror is None:
        pytest.skip("terraform and its AWS provider (terraform providers mirror) are not here")
    home = tmp_path_factory.mktemp("terraform")
    (home / "rc").write_text(
        f'provider_installation {{\n  filesystem_mirror {{ path = "{mirror}" }}\n}}\n'
    )
    shutil.copytree(TERRAFORM, home / "terraform", ignore=shutil.ignore_patterns(".terraform*"))
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "TF_"))}
    env = kept | {
        "TF_CLI_CONFIG_FILE": str(home / "rc"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "CHECKPOINT_DISABLE": "1",
    }

    def run(folder: Path, *words: str) -> str:
        """In a copy of the folder. The standard output."""
        done = subprocess.run(
            [program, *words],
            cwd=home / folder.relative_to(ROOT),
            env=env,
            capture_output=True,
            text=True,
            timeout=RUN_MAX_S,
            check=False,
        )
        assert done.returncode == 0, f"terraform {' '.join(words)}\n{done.stdout}{done.stderr}"
        return done.stdout

    return run


@pytest.fixture(scope="session")
def cell(terraform: Run) -> Object:
    """What envs/aws gives, of its own tests."""
    folder = TERRAFORM / "envs/aws"
    terraform(folder, "init", "-backend=false", "-input=false")
    said = [
        json.loads(line) for line in terraform(folder, "test", "-json", "-verbose").splitlines()
    ]
    states = [line["test_state"] for line in said if line["type"] == "test_state"]
    return {name: output["value"] for name, output in states[-1]["outputs"].items()}


def test_all_of_it_is_formatted(terraform: Run) -> None:
    terraform(TERRAFORM, "fmt", "-check", "-diff", "-recursive")


def test_each_module_has_tests_and_says_what_it_takes() -> None:
    modules = sorted(path for path in (TERRAFORM / "modules").iterdir() if path.is_dir())
    assert len(modules) == 9
    assert set(modules) < set(TESTED)
    for folder in ROOTS:
        text = "".join(path.read_text() for path in folder.glob("*.tf"))
        for kind in ("variable", "output"):
            for name, body in re.findall(rf'^{kind} "(\w+)" {{\n(.*?)^}}', text, re.S | re.M):
                assert "description" in body, f"{folder.name}: {kind} {name} says nothing"
                assert kind == "output" or " type " in body, f"{folder.name}: {name} takes anything"


@pytest.mark.parametrize("folder", TESTED, ids=lambda path: path.name)
def test_it_is_valid_and_passes_its_own_tests(folder: Path, terraform: Run) -> None:
    terraform(folder, "init", "-backend=false", "-input=false")
    terraform(folder, "validate")
    assert re.search(
        r"Success! .*[1-9]\d* passed, 0 failed", terraform(folder, "test", "-no-color")
    )


def test_the_store_s_users_have_the_rights_that_the_docs_list() -> None:
    variables = (TERRAFORM / "modules/valkey/variables.tf").read_text()
    for user in ("decider", "featurizer"):
        listed = re.search(rf"^ACL SETUSER {user} on >PASSWORD (.*)$", SECURED.read_text(), re.M)
        given = re.search(rf'^ +{user} += "on (.*)"$', variables, re.M)
        assert listed is not None
        assert given is not None
        assert given[1] == listed[1]


def test_the_chart_takes_what_a_cell_gives(chart: Helm, cell: Object) -> None:
    given: dict[str, Any] = yaml.safe_load(cell["values"])
    own = {
        "access": {
            "issuer": "https://login.example.org",
            "audience": "sluice",
            "keys": "https://login.example.org/certs",
        },
        "trust": {"keys": {"risk.pub": "sluice-release-key 1\n"}},
        "labeller": {"enabled": True, "lookUp": True},
        "airflow": {"enabled": True, "dags": {"repository": "https://git.example.org/sluice.git"}},
    }
    for name in ("labeller", "steps"):
        given["kafka"]["external"]["existingSecrets"][name] = f"kafka-{name}"
    made = chart.render(given | own, namespace=cell["cluster"]["namespace"])
    names = {(one["kind"], one["metadata"]["name"]) for one in made}
    assert ("InferenceService", "sluice") in names
    assert ("NetworkPolicy", "sluice-allow-pod-identity") in names
    assert ("PersistentVolumeClaim", "sluice-archive") not in names
    accounts = {one["metadata"]["name"] for one in made if one["kind"] == "ServiceAccount"}
    main = (TERRAFORM / "modules/sluice/main.tf").read_text()
    roles = re.search(r"roles += toset\(\[(.*)\]\)", main)
    assert roles is not None
    for role in re.findall(r'"([^"]+)"', roles[1]):
        assert f"sluice-{role}" in accounts
