"""An auditor that makes its own keys, under a KMS that is away when it begins and while it runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from local.kafka.broker import Node, free_port
from sluice.adapters.kafka.topics import Topics
from sluice.bootstrap.keystore import keystore
from sluice.cli.log import command
from sluice.settings import load
from tests.support.decisions import decide
from tests.support.kafka import wait_until
from tests.support.kms_server import KmsServer

pytestmark = [pytest.mark.integration, pytest.mark.fault]


class Auditor:
    """Its processes, one after another, over one disk and one volume of keys."""

    def __init__(self, bootstrap: str, topics: Topics, folder: Path, wrapper: str) -> None:
        self.bootstrap, self.topics, self.folder = bootstrap, topics, folder
        self.environment = {
            "SLUICE_KAFKA_BOOTSTRAP": bootstrap,
            "SLUICE_KAFKA_TOPIC_PREFIX": topics.decisions.removesuffix("decisions.v1"),
            "SLUICE_AUDITOR_ROOT": str(folder / "log"),
            "SLUICE_AUDITOR_MAKE_KEYS": "true",
            "SLUICE_AUDITOR_KEY_FILE": str(folder / "keys/log/0.pem"),
            "SLUICE_AUDITOR_ENVIRONMENT": "test",
            "SLUICE_AUDITOR_CELL": "eu",
            "SLUICE_KEYSTORE_PATH": str(folder / "keys/keystore/keys.sqlite"),
            "SLUICE_KEYSTORE_ROOTS": str(folder / "keys/roots/roots.json"),
            "SLUICE_KEYSTORE_COPIES": str(folder / "copies"),
            "SLUICE_KEYSTORE_WRAPPER": wrapper,
            "SLUICE_SERVICE_ADMIN_PORT": str(free_port()),
        }
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self) -> subprocess.Popen[bytes]:
        with (self.folder / "said").open("ab") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "services.auditor.main"],
                env=os.environ | self.environment,
                stdout=said,
                stderr=said,
            )
        self.running.append(process)
        return process

    def said(self) -> str:
        return (self.folder / "said").read_text()

    def answers(self, path: str) -> str:
        """Of the admin port; "" while it does not listen."""
        url = f"http://127.0.0.1:{self.environment['SLUICE_SERVICE_ADMIN_PORT']}{path}"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as refused:
            return str(refused.read().decode())
        except OSError:
            return ""

    def verdict(self) -> int:
        """Of `sluice log verify --accounting`."""
        key = str(self.folder / "keys/log/0.pem.pub")
        done = CliRunner(env=self.environment).invoke(
            command,
            ["verify", str(self.folder / "log/0"), "--accounting", "--key", key],
            standalone_mode=False,
        )
        return int(done.return_value) if done.exception is None else -1


@pytest.fixture
def auditor(kafka: Node, topics: Topics, tmp_path: Path, kms_key: str) -> Iterator[Auditor]:
    made = Auditor(kafka.bootstrap, topics, tmp_path, f"kms:{kms_key}")
    yield made
    for process in made.running:
        process.kill()
        process.wait()


def test_it_waits_for_the_kms_makes_its_keys_once_and_loses_nothing_while_that_is_away(
    auditor: Auditor, kms: KmsServer
) -> None:
    decide(auditor.bootstrap, auditor.topics, 0, 100)
    kms.stop()
    try:
        process = auditor.start()
        wait_until(
            lambda: "it waits for the keystore" in auditor.answers("/v2/health/ready"), "it waits"
        )
        assert not (auditor.folder / "keys/keystore/keys.sqlite").exists()
    finally:
        kms.start()
    wait_until(lambda: auditor.verdict() == 0, "the log verifies, and nothing is missing")

    settings, _ = load(auditor.environment)
    with keystore(settings) as store:
        card = store.subject("test", "card-1")
        assert store.erase(card, "2099Q4", who="ann", case="GDPR-17").periods
    kms.stop()
    try:
        decide(auditor.bootstrap, auditor.topics, 100, 200)
        away = 'sluice_consumer_aborts_total{code="kms"}'
        wait_until(lambda: away in auditor.answers("/metrics"), "it takes nothing")
        assert process.poll() is None
        assert auditor.verdict() == 2  # incomplete: what waits in its topic
    finally:
        kms.start()
    wait_until(lambda: auditor.verdict() == 0, "it goes on by itself")
    process.terminate()
    assert process.wait(180) == 0

    keys = auditor.folder / "keys"
    before = (keys / "log/0.pem").read_bytes(), (keys / "roots/roots.json").read_bytes()
    process = auditor.start()
    wait_until(lambda: auditor.said().count('"event":"writes"') == 2, "it writes again")
    process.terminate()
    assert process.wait(180) == 0
    assert ((keys / "log/0.pem").read_bytes(), (keys / "roots/roots.json").read_bytes()) == before
    assert auditor.said().count('"event":"key_made"') == 1

    for name in ("keys", "log"):  # what was published is remembered elsewhere
        shutil.move(auditor.folder / name, auditor.folder / f"lost-{name}")
    assert auditor.start().wait(180) == 1
    assert "keys_gone" in auditor.said().splitlines()[-1]
    assert not keys.exists()
