"""What the node runs on: a Java that is new enough, and jars that are what the lock names."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from local.kafka import jars, java
from sluice.errors import Corrupt


@pytest.mark.parametrize(
    ("reported", "status", "expected"),
    [
        ('openjdk version "25.0.2" 2026-01-20 LTS', 0, 25),
        ('openjdk version "17.0.15" 2025-04-15', 0, 17),
        ('java version "1.8.0_402"', 0, 8),
        ('openjdk version "21" 2023-09-19', 0, 21),
        ("The operation couldn't be completed. Unable to locate a Java Runtime.", 1, None),
        ('openjdk version "21"', 1, None),
    ],
)
def test_javas_version_is_read_as_it_prints_it(
    tmp_path: Path, reported: str, status: int, expected: int | None
) -> None:
    fake = tmp_path / "java"
    fake.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{reported}\nEND\nexit {status}\n")
    fake.chmod(0o755)
    assert java.major(fake) == expected


def test_a_java_that_cannot_be_run_is_none(tmp_path: Path) -> None:
    assert java.major(tmp_path / "java") is None


def test_the_lock_holds_what_the_pom_asks_for_and_no_address() -> None:
    closure = {(jar.group, jar.artifact): jar.version for jar in jars.locked()}
    pom = jars.POM.read_text()
    versions = dict(re.findall(r"<(kafka|log4j)\.version>(.*?)<", pom))
    assert closure["org.apache.kafka", "kafka_2.13"] == versions["kafka"]
    assert closure["org.apache.logging.log4j", "log4j-slf4j-impl"] == versions["log4j"]
    assert len(closure) == len(jars.locked()) > 40
    assert all(re.fullmatch("[0-9a-f]{64}", jar.sha256) for jar in jars.locked())
    assert "://" not in jars.LOCK.read_text()


def test_a_jar_that_is_missing_is_told_from_one_that_was_changed(tmp_path: Path) -> None:
    content = b"a jar"
    good = jars.Jar("org.example", "good", "1.0", hashlib.sha256(content).hexdigest())
    absent = jars.Jar("org.example", "absent", "1.0", "0" * 64)
    (tmp_path / good.path).parent.mkdir(parents=True)
    (tmp_path / good.path).write_bytes(content)
    assert str(good.path) == "org/example/good/1.0/good-1.0.jar"
    assert jars.missing(tmp_path, [good, absent]) == [absent]

    (tmp_path / good.path).write_bytes(content + b"!")
    with pytest.raises(Corrupt) as reported:
        jars.missing(tmp_path, [good])
    assert "good-1.0.jar" in str(reported.value)
    assert "remove the file" in str(reported.value)


def test_one_certificate_bundle_is_enough_for_every_fetch() -> None:
    assert jars.trusting({"SSL_CERT_FILE": "ours.crt"})["REQUESTS_CA_BUNDLE"] == "ours.crt"
    both = {"SSL_CERT_FILE": "ours.crt", "REQUESTS_CA_BUNDLE": "theirs.crt"}
    assert jars.trusting(both) == both
    assert jars.trusting({"HOME": "/"}) == {"HOME": "/"}
