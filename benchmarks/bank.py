"""A bank's table through the verbs: backfill, dataset build, train, judge, gate. What is there is
not made again, so that a benchmark that was ended goes on.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
from pathlib import Path

import msgspec

from sluice.application.dataset_manifest import MANIFEST
from sluice.application.judging.judgement import Judgement
from sluice.application.judging.verdict import Verdict

ROOT = Path(__file__).parents[1]
SLUICE, TRAINING = ROOT / ".venv/bin/sluice", ROOT / "models/.venv/bin/sluice"


class Bank:
    """A work folder: archives, sets and runs."""

    def __init__(self, args: argparse.Namespace) -> None:
        """args: of :func:`arguments`."""
        self.work: Path = args.work.absolute()
        self.args = args
        self.work.mkdir(parents=True, exist_ok=True)
        self.archive = self.work / "archive"
        self.key = self.work / "key"
        if not self.key.exists():
            verb(SLUICE, "release", "keygen", "--out", self.key)

    def backfill(self, archive: Path, labels: object) -> None:
        """FILE, into an archive, which is there when it is whole."""
        if archive.exists():
            return
        aside = archive.with_suffix(".part")
        shutil.rmtree(aside, ignore_errors=True)
        a = self.args
        verb(SLUICE, "backfill", a.file.absolute(), "--mapping", a.mapping, "--labels", labels,
            "--no-store", "--archive", aside)  # fmt: skip
        aside.rename(archive)

    def dataset(self, name: str, archive: Path, *more: object) -> Path:
        """A training set of all of an archive that is asked for. more: further words."""
        out, a = self.work / "sets" / name, self.args
        whole = (out / MANIFEST).exists() or len(list(out.glob(f"*/{MANIFEST}"))) == a.tests
        if not whole:
            verb(SLUICE, "dataset", "build", "--archive", archive, "--from", a.first, "--to",
                a.until, "--label-delay", a.label_delay, "--validation", "7d", "--calibration",
                "7d", "--recent", "--tests", a.tests, "--out", out, *more)  # fmt: skip
        return out

    def train(self, name: str, dataset: Path, like: Path | None = None) -> Path:
        """A run on a set. like: whose parameters it takes, and searches none."""
        out = self.work / "runs" / name
        searched = ["--like", like] if like else shlex.split(self.args.train)
        verb(TRAINING, "train", "--dataset", dataset, "--out", out, "--tracking", "none",
             *searched)  # fmt: skip
        return out

    def judge(self, name: str, trained: Path, dataset: Path) -> Judgement:
        """Of a run's candidates, on the tests of its set."""
        out = self.work / "judged" / name
        verb(SLUICE, "judge", "--run", trained, "--dataset", dataset, "--out", out)
        return msgspec.json.decode((out / "judgement.json").read_bytes(), type=Judgement)

    def gate(self, name: str, trained: Path, dataset: Path, *more: object) -> Verdict:
        """Of the better of a run, or of the candidate that ``more`` names."""
        out = self.work / "gate" / name
        words = [SLUICE, "gate", "--dataset", dataset, "--run", trained, "--archive", self.archive,
                 "--no-champion", "--key", self.key, "--out", out, *more]  # fmt: skip
        subprocess.run([str(word) for word in words], cwd=ROOT, check=False)  # 1 is a verdict too
        return msgspec.json.decode((out / "verdict.json").read_bytes(), type=Verdict)


def arguments(prog: str, about: str | None, work: str) -> argparse.ArgumentParser:
    """What every benchmark on a bank's table is asked."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{prog}", description=about)
    parser.add_argument("file", type=Path)
    parser.add_argument("--mapping", default="handbook")
    parser.add_argument("--labels", default="handbook-labels")
    parser.add_argument("--label-delay", default="7d")
    parser.add_argument("--first", default="2018-05-08")
    parser.add_argument("--until", default="2018-09-05")
    parser.add_argument("--tests", type=int, default=4)
    parser.add_argument("--train", default="--time-box 0s --trials 1", help="options of train")
    parser.add_argument("--at-once", type=int, default=1, metavar="N", help="verbs")
    parser.add_argument("--work", type=Path, default=Path(work))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    return parser


def verb(*words: object) -> None:
    """One command, from the repository's root. Raises CalledProcessError where it fails."""
    print("$", *words, flush=True)
    subprocess.run([str(word) for word in words], check=True, cwd=ROOT)
