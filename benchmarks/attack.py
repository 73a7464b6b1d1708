"""``make attack``: hostile input, storms, faults and floods, and what became of each.

Every part is a test or a measurement of its own, named below, and can be run alone. This runs all
of them against real processes, Kafka and Valkey, prints what they say as they say it, and ends with
one table: load held, faults survived, bad inputs tried, lost, twice, 5xx. Ten to fifteen minutes.
Figures of floods and faults mean something on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks import faults, overload
from benchmarks.report import Row, machine, result, row, save, table
from benchmarks.testbed import FULL, Testbed
from tests.support import card_corpus

HOSTILE = (
    "tests/integration/test_hostile_http.py",
    "tests/integration/test_any_request.py",
    "tests/integration/test_memory_limit.py",
)
STORMS = (
    "tests/fault/test_one_id_one_answer.py",
    "tests/fault/test_store_forgets.py",
    "tests/fault/test_flood.py",
)
STORM = re.compile(
    r"^(\w+): ([\d,]+) ids of the sync API, ([\d,]+) of both entrypoints, ([\d,]+) of the stream; "
    r"decided twice (\d+), of them at both entrypoints (\d+); two answers heard of (\d+); "
    r"refused .*; given up (\d+)$",
    re.MULTILINE,
)
OUTCOME = re.compile(r"(\d+) (passed|failed|error|errors|skipped)\b")


class Part(NamedTuple):
    """What one part found. held: whether it kept every promise that it tries."""

    rows: list[Row]
    held: bool


def numbers(args: argparse.Namespace) -> Part:
    """Card numbers in every encoding, and ordinary ids, past the entrypoint's own reader."""
    count = args.numbers
    tried, leaks, worst = 0, 0, 0.0
    for name in card_corpus.ENCODINGS:
        found = card_corpus.numbers(name, count)
        tried += found.sent
        leaks += len(found.passed) + found.said
    for make in card_corpus.IDS.values():
        worst = max(worst, card_corpus.ids(make, count).refused_ppm)
    rows = [
        row("card numbers tried", "", tried),
        row("came through, or were repeated in an error", "", leaks, target="0"),
        row("ordinary ids refused, the worst kind", "%", worst / 1e4, target="< 0.1"),
    ]
    return Part(rows, not leaks and worst < card_corpus.REFUSED_MAX_PPM)


def hostile(_: argparse.Namespace) -> Part:
    """Bytes that no client should send. Each test asserts that nothing but 503 is a 5xx."""
    return _tests("hostile input", "--hypothesis-profile=random", *HOSTILE)[0]


def storms(_: argparse.Namespace) -> Part:
    """Callers that ask again while store, Kafka or replicas are slow, stalled or killed."""
    part, said = _tests("storms", "-rP", *STORMS)
    ids = twice = crossed = differing = given_up = 0
    for storm in STORM.finditer(said):
        counts = [int(group.replace(",", "")) for group in storm.groups()[1:]]
        ids += sum(counts[:3])
        twice += counts[3]
        crossed += counts[4]
        differing += counts[5]
        given_up += counts[6]
    rows = [
        *part.rows,
        row("storms: ids sent, most of them more than once", "", ids),
        row("storms: decided twice though somebody could know", "", twice - crossed, target="0"),
        row("storms: decided twice, at two entrypoints without a store", "", crossed),
        row("storms: two answers heard", "", differing),
        row("storms: callers that never heard", "", given_up, target="0"),
    ]
    return Part(rows, part.held and ids > 0)


def network(args: argparse.Namespace) -> Part:
    """The sync API with each fault between it and store or Kafka."""
    print(faults.HEAD, flush=True)
    found = []
    for one in faults.measure(args.fault_seconds, args.rate):
        print(faults.line(one), flush=True)
        found.append(one)
    back = sum(one.recovered_s < faults.RECOVERED_MAX_S for one in found)
    lost = sum(one.unanswered for one in found)
    rows = [
        row("network faults tried", "", len(found)),
        row("network faults survived: complete answers again after them", "", back,
            target=str(len(found))),
        row("network faults in which p99.9 kept the deadline and 5 ms", "",
            sum(one.held for one in found), target=str(len(found))),
        row("network faults: requests that heard nothing", "", lost, target="0"),
    ]  # fmt: skip
    return Part(rows, back == len(found) and not lost)


def flood(args: argparse.Namespace) -> Part:
    """Twice and five times what the sync API can decide."""
    with Testbed(FULL) as testbed:
        rows, notes = overload.measure(testbed, args.flood_seconds, args.connections)
    print(*notes, sep="\n", flush=True)
    share = [one.value for one in rows if one.name.endswith("complete (D0) of the decided")]
    return Part(rows, min(share) >= overload.COMPLETE_MIN)


def _tests(name: str, *arguments: str) -> tuple[Part, str]:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--no-header", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    print(done.stdout, flush=True)
    counts = {what: int(number) for number, what in OUTCOME.findall(done.stdout[-500:])}
    passed = counts.get("passed", 0)
    rows = [
        row(f"{name}: tests", "", sum(counts.values()) - counts.get("skipped", 0)),
        row(f"{name}: of them passed", "", passed, target="all"),
    ]
    return Part(rows, done.returncode == 0 and passed > 0), done.stdout


PARTS: dict[str, Callable[[argparse.Namespace], Part]] = {
    "numbers": numbers,
    "hostile": hostile,
    "storms": storms,
    "network": network,
    "flood": flood,
}


def main() -> int:
    """Run what was asked for. Returns 1 if a promise was broken; missed figures are printed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attack", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--numbers", type=int, default=10_000, help="of each encoding and kind")
    parser.add_argument("--fault-seconds", type=float, default=5.0, help="that each fault lasts")
    parser.add_argument("--rate", type=float, default=200.0, help="a second, during faults")
    parser.add_argument("--flood-seconds", type=float, default=30.0, help="that each flood lasts")
    parser.add_argument("--connections", type=int, default=512, help="of a flood")
    args = parser.parse_args()
    about = machine()
    rows, notes = [], []
    for name in args.only:
        print(f"\n== {name}: {(PARTS[name].__doc__ or '').strip()}", flush=True)
        began = time.perf_counter()
        part = PARTS[name](args)
        rows += part.rows
        notes.append(
            f"{name}: {'held' if part.held else 'BROKEN'} ({time.perf_counter() - began:.0f} s)"
        )
    args.out.mkdir(parents=True, exist_ok=True)
    found = result("attack", "make attack", about, rows, notes)
    save(args.out, found)
    print(table(found), flush=True)
    return int(any("BROKEN" in note for note in notes))


if __name__ == "__main__":
    raise SystemExit(main())
