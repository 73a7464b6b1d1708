"""The broker's jars: ``pom.xml`` names two, ``jars.lock`` the whole closure, with a hash for each.

They lie in Maven's local repository, where other tools look too. What is missing is fetched by
Maven where it is installed (its mirrors and credentials count), otherwise by jgo, and moved there
only when its hash is the lock's. Nothing resolves versions at run time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from local.kafka.java import HERE, environment, one_at_a_time, say
from sluice.errors import Corrupt, Misconfigured, Unavailable

LOCK = HERE / "jars.lock"
POM = HERE / "pom.xml"
COPY_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
WHY_JGO = "jgo, which needs no Maven: 2 MB, once"


Command = Callable[[Path, list["Jar"]], list[str]]
"""What to run so that these jars lie in that folder, laid out as a repository."""


class Jar(NamedTuple):
    """One line of the lock."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def path(self) -> Path:
        """Relative to a repository."""
        name = f"{self.artifact}-{self.version}.jar"
        return Path(*self.group.split("."), self.artifact, self.version, name)


def locked(lock: Path = LOCK) -> list[Jar]:
    """The closure. A line: GROUP:ARTIFACT:VERSION sha256:HEX."""
    jars = []
    for line in lock.read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, digest = line.partition(" sha256:")
            group, artifact, version = name.split(":")
            jars.append(Jar(group, artifact, version, digest))
    return jars


def repository() -> Path:
    """M2_REPO, or ~/.m2/repository."""
    return Path(os.environ.get("M2_REPO") or Path("~/.m2/repository").expanduser())


def class_path(lock: Path = LOCK) -> str:
    """Every jar of a lock, the broker's by default, checked; the first call of a machine fetches
    44 MB.

    Raises Unavailable if one cannot be fetched, Corrupt if one is not what the lock names.
    """
    root, jars = repository(), locked(lock)
    if missing(root, jars):
        fetch = _by_maven if lock == LOCK and shutil.which("mvn") else _by_jgo()
        with one_at_a_time():
            if lacking := missing(root, jars):
                _fetch(root, lacking, fetch)
    return ":".join(str(root / jar.path) for jar in jars)


def missing(root: Path, jars: list[Jar]) -> list[Jar]:
    """Those that are not there. Raises Corrupt for one whose bytes are others. 45 MB: 0.15 s."""
    lacking = []
    for jar in jars:
        try:
            found = hashlib.sha256((root / jar.path).read_bytes()).hexdigest()
        except FileNotFoundError:
            lacking.append(jar)
            continue
        if found != jar.sha256:
            raise Corrupt(
                f"{jar.path.name} has SHA-256 {found}, jars.lock says {jar.sha256}",
                where=str(root / jar.path),
                fix="remove the file; it is fetched again",
            )
    return lacking


def _fetch(root: Path, lacking: list[Jar], command: Command) -> None:
    """Through a folder beside the repository, so that half a jar is never found in it."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix="sluice-", dir=root.parent))
    except OSError as error:
        raise Misconfigured(
            f"no jars can be kept there: {error}", where=str(root), fix="set M2_REPO to a folder"
        ) from error
    try:
        say(f"{len(lacking)} jars, once")
        done = subprocess.run(command(fresh, lacking), check=False, env=trusting(os.environ))
        if done.returncode or (still := missing(fresh, lacking)):
            raise Unavailable(
                "not every jar could be fetched"
                if done.returncode
                else f"{still[0].path.name} was not among what was fetched",
                where=str(POM),
                fix="check the network; SSL_CERT_FILE if a certificate was refused;"
                " ~/.m2/settings.xml if you use Maven",
            )
        for jar in lacking:
            (root / jar.path).parent.mkdir(parents=True, exist_ok=True)
            (fresh / jar.path).replace(root / jar.path)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def trusting(environment: Mapping[str, str]) -> dict[str, str]:
    """With SSL_CERT_FILE, which pip and uv read, named to jgo too: its requests reads another."""
    bundle = environment.get("SSL_CERT_FILE")
    return ({"REQUESTS_CA_BUNDLE": bundle} if bundle else {}) | dict(environment)


def _by_maven(folder: Path, lacking: list[Jar]) -> list[str]:
    """All of the closure: Maven resolves the pom, and copies what it has anyway."""
    return [
        *("mvn", "-q", "-B", "-f", str(POM), COPY_GOAL, "-DincludeScope=runtime"),
        *(f"-DoutputDirectory={folder}", "-Dmdep.useRepositoryLayout=true"),
    ]


def _by_jgo() -> Command:
    """Installs jgo, for which it takes the lock itself: call it without holding that."""
    python = environment("jgo.lock", WHY_JGO)
    return lambda folder, lacking: [
        *(str(python), str(HERE / "fetch.py"), "fetch", str(folder)),
        *(f"{jar.group}:{jar.artifact}:{jar.version}" for jar in lacking),
    ]


def lock() -> None:
    """Resolve ``pom.xml`` by jgo, and write LOCK anew. Raises Unavailable."""
    python = environment("jgo.lock", WHY_JGO)
    fetch: list[str | Path] = [python, HERE / "fetch.py", "lock", POM, LOCK]
    done = subprocess.run(fetch, check=False, env=trusting(os.environ))
    if done.returncode:
        raise Unavailable("the jars could not be resolved", where=str(POM), fix="see above")
