"""Whether each requirements.lock still holds what the pyproject.toml behind it asks for.

  python -m local.locks    part of `make check`: asks nobody, takes a moment

A lock is installed by hash and nothing else (ADR 7): a dependency that a pyproject.toml gained, or
a range that it raised, would be missed where the lock is used, often long after. What a package
outside of this repository asks for is not looked at: `make locks` resolves that.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Source:
    """What a lock was exported from. folder: of its pyproject.toml. groups: of dependencies, beside
    the project's own; alone where ``only``."""

    folder: str
    groups: tuple[str, ...] = ()
    only: bool = False


LOCKS: Mapping[str, Source] = {
    "requirements.lock": Source(".", ("dev",)),
    "services/requirements.lock": Source(".", ("services",)),
    "services/build.lock": Source(".", ("build",), only=True),
    "services/sbom.lock": Source(".", ("sbom",), only=True),
    "models/requirements.lock": Source("models", ("dev",)),
    "models/image.lock": Source("models", ("image",)),
    "benchmarks/requirements.lock": Source("benchmarks"),
    "benchmarks/cluster/requirements.lock": Source("benchmarks", ("loader",), only=True),
    "dags/requirements.lock": Source("dags", ("dev",)),
    "spark/requirements.lock": Source("spark", ("dev",)),
    "tests/deploy/requirements.lock": Source("tests/deploy"),
    "local/tools/requirements.lock": Source("local/tools"),
    "local/kafka/java.lock": Source("local/kafka", ("java",), only=True),
    "local/kafka/jgo.lock": Source("local/kafka", ("jgo",), only=True),
}
"""As `make locks` exports them."""
OURS = (".", "simulator", "models")
"""Folders of the packages that a lock does not name, since they are installed from this tree."""
_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;]+)", re.MULTILINE)


def stale(root: Path = ROOT, locks: Mapping[str, Source] = LOCKS) -> list[str]:
    """One line for each requirement that a lock does not meet: which, by whom, what is there."""
    ours = {canonicalize_name(_project(root / at)["project"]["name"]): root / at for at in OURS}
    found = []
    for lock, source in locks.items():
        pins = {canonicalize_name(n): v for n, v in _PIN.findall((root / lock).read_text())}
        for by, wanted in dict.fromkeys(_wanted(root / source.folder, source, ours)):
            if wanted.marker is not None and not wanted.marker.evaluate():
                continue
            version = pins.get(canonicalize_name(wanted.name))
            if version is None:
                found.append(f"{lock}: does not hold {wanted}, which {by} asks for")
            elif not wanted.specifier.contains(version, prereleases=True):
                found.append(f"{lock}: has {wanted.name} {version}, {by} asks for {wanted}")
    return found


def _project(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text())


def _wanted(
    folder: Path, source: Source, ours: Mapping[NormalizedName, Path]
) -> Iterator[tuple[str, Requirement]]:
    """Requirements of other people's packages, each with the package or group that names it; those
    of ours are followed, with the extras that are asked for."""
    project = _project(folder)
    waiting: list[tuple[str, str]] = []
    if not source.only:
        waiting += _told(project, project["project"].get("dependencies", ()))
    for group in source.groups:
        waiting += _told(project, _grouped(project, group))
    seen: set[tuple[str, str]] = set()
    while waiting:
        by, text = waiting.pop()
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        if name not in ours:
            yield by, requirement
            continue
        its = _project(ours[name])
        for extra in ("", *sorted(requirement.extras)):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            extras = its["project"].get("optional-dependencies", {})
            of_it = extras[extra] if extra else its["project"].get("dependencies", ())
            waiting += _told(its, of_it, f"[{extra}]" if extra else "")


def _told(project: Mapping[str, Any], texts: Iterable[str], of: str = "") -> list[tuple[str, str]]:
    return [(project["project"]["name"] + of, text) for text in texts]


def _grouped(project: Mapping[str, Any], group: str) -> Iterator[str]:
    for one in project["dependency-groups"][group]:
        if isinstance(one, str):
            yield one
        else:
            yield from _grouped(project, one["include-group"])


def main() -> int:
    """0, or 1 with what is stale and what to do."""
    found = stale()
    for line in found:
        print(line, file=sys.stderr)
    if found:
        print(
            "make locks, then commit them together (docs/how-to/update-locks.md)", file=sys.stderr
        )
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
