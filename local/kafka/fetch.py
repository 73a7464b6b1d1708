"""Runs in the environment that holds jgo, which resolves and fetches Maven artifacts without Maven.

fetch.py fetch FOLDER GROUP:ARTIFACT:VERSION ...   each jar into FOLDER, laid out as a repository
fetch.py lock POM OUT                              the closure of POM, a line a jar with its SHA-256

It imports nothing of ours. Whoever calls checks the hashes.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests
from jgo.maven import POM, Artifact, MavenContext

AT_ONCE = 8
TRIES = 3
TIMEOUT_S = 60
PAUSE_S = 2.0
STEP = 10
HEAD = "# Made by `make locks` from pom.xml: the broker's class path, each jar by its SHA-256.\n"


def main(words: list[str]) -> int:
    """Exits 1 with a line on standard error if an artifact cannot be had."""
    try:
        match words:
            case ["fetch", folder, *names]:
                fetch(Path(folder), names)
            case ["lock", pom, out]:
                lock(Path(pom), Path(out))
            case _:
                print(__doc__, file=sys.stderr)
                return 64
    except (RuntimeError, OSError) as error:  # RuntimeError is jgo's own, OSError also requests'
        print(f"kafka: {error}", file=sys.stderr)
        return 1
    return 0


def fetch(folder: Path, names: list[str]) -> list[Path]:
    """The jars' paths below folder, in the order of names; a line every STEP jars."""
    context = MavenContext(repo_cache=folder, timeout=TIMEOUT_S)
    artifacts = []
    for name in names:
        group, artifact, version = name.split(":")
        artifacts.append(context.project(group, artifact).at_version(version).artifact())
    paths = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for count, path in enumerate(pool.map(_fetch, artifacts), 1):
            paths.append(path)
            if count % STEP == 0 or count == len(names):
                print(f"kafka: {count} of {len(names)} jars", file=sys.stderr, flush=True)
    return paths


def _fetch(artifact: Artifact) -> Path:
    """jgo takes half a file for a whole one: what a broken connection left is removed."""
    for attempt in range(1, TRIES + 1):
        try:
            return artifact.resolve()
        except (requests.RequestException, RuntimeError):
            if artifact.cached_path:
                artifact.cached_path.unlink(missing_ok=True)
            if attempt == TRIES:
                raise
            time.sleep(PAUSE_S)
    raise AssertionError("TRIES is at least 1")


def lock(pom: Path, out: Path) -> None:
    """Versions as Maven would choose them: jgo follows parents, imports and exclusions."""
    with tempfile.TemporaryDirectory() as folder:
        context = MavenContext(repo_cache=Path(folder), timeout=TIMEOUT_S)
        _, nodes = context.pom_dependency_list(POM(pom))
        wanted = [node.dep for node in nodes]
        odd = [str(d) for d in wanted if d.classifier or d.type != "jar" or d.optional]
        if odd:
            raise RuntimeError(f"the lock has no place for {odd}")
        names = [f"{d.groupId}:{d.artifactId}:{d.version}" for d in wanted]
        digests = [
            hashlib.sha256(path.read_bytes()).hexdigest() for path in fetch(Path(folder), names)
        ]
        lines = [f"{name} sha256:{digest}\n" for name, digest in zip(names, digests, strict=True)]
        out.write_text(HEAD + "".join(lines))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
