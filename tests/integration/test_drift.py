"""The committed release among the population it was made for, and among another one.

The other one is made here, in the shape of the Fraud Detection Handbook's table, which is not ours
to copy; docs/decisions/0043 has the figures on the table itself.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from sluice.adapters.onnx import OnnxScorer, load, read_trust
from sluice.adapters.policyfiles import read_policy
from sluice.application.dry_run import Recent, Rows
from sluice.application.population import LOOK_S, PopulationCheck
from sluice.cli import main
from sluice.cli.parameters import instant
from sluice.domain.clock import HOUR_US
from sluice.domain.features import catalogue
from sluice.domain.records.authorization import Authorization, Channel
from sluice.domain.reference import Comparison
from sluice.domain.release import public_line
from sluice.testing.factories import make_authorization
from sluice.testing.release import KEY, make_release
from sluice.testing.store import FakeClock
from tests.support.populations import elsewhere, rows_of, simulated, write_split

MADE_UNTIL, DAYS = 38, 45
AUTHS: dict[str, Authorization] = {
    channel.value: make_authorization(channel=channel) for channel in Channel
}


@dataclass
class Made:
    """Archives of both populations, a training set of the first, and the release with it."""

    here: Path
    there: Path
    dataset: Path
    release: Path
    trust: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("populations")
    fx = read_policy(Path("policies/default"), catalogue.FEATURES).fx
    here = simulated(root / "here", fx, cards=1_500, days=DAYS)
    there = elsewhere(root / "there", fx, rows=20_000, days=DAYS)
    dataset = write_split(root / "dataset", here, MADE_UNTIL - 14, MADE_UNTIL)
    release = root / "release"
    shutil.copytree("models/releases/current", release)
    key = root / "release.key"
    assert main(["release", "keygen", "--out", str(key)]) == 0
    assert main(["release", "reference", str(release), "--dataset", str(dataset)]) == 0
    assert not (release / "manifest.sig").exists(), "the old signature is over another manifest"
    assert main(["release", "sign", str(release), "--key", str(key)]) == 0
    trust = root / "trust"
    shutil.copytree("policies/trust", trust)  # whose key signed the gate's certificate in it
    assert main(["release", "verify", str(release), "--trust", str(key) + ".pub"]) != 0
    shutil.copy(str(key) + ".pub", trust)
    assert main(["release", "verify", str(release), "--trust", str(trust)]) == 0
    return Made(here, there, dataset, release, trust)


@pytest.fixture(scope="module")
def scorer(made: Made) -> OnnxScorer:
    return load(made.release, read_trust(made.trust), catalogue.FEATURES, "EUR")


# ---------------------------------------------------------------- the decider's check


class Told:
    """What a decider's check found. after_us: of traffic, until it first said so."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock, self._began = clock, clock.now_us()
        self.after_us: int | None = None
        self.looks = self.out = 0

    def begun(self, release: str, reference_rows: int) -> None:
        assert reference_rows > 1_000

    def compared(self, found: Comparison, worst: list[str], out: bool) -> None:
        self.looks += 1
        self.out += out

    def changed(self, release: str, found: Comparison, worst: list[str], out: bool) -> None:
        if self.after_us is None:
            self.after_us = self._clock.now_us() - self._began


class Deciding:
    """What a replica keeps of its decisions."""

    out_of_domain = False

    def __init__(self, scorer: OnnxScorer) -> None:
        self.recent = Recent(2_000)
        self.scorer = scorer

    @property
    def releases(self) -> Deciding:
        return self

    def current(self) -> OnnxScorer:
        return self.scorer


def decide(scorer: OnnxScorer, rows: pa.Table, *, a_minute: int) -> Told:
    """Rows as traffic of so many decisions a minute, with a look each."""
    clock = FakeClock()
    active, told = Deciding(scorer), Told(clock)
    check = PopulationCheck(active, clock, told)
    check.look()
    features = np.stack([rows[name].to_numpy() for name in catalogue.NAMES], axis=1)
    channels = rows["channel"].to_pylist()
    for at in range(0, len(rows), a_minute):
        some = features[at : at + a_minute]
        zeros = np.zeros(len(some), np.int64)
        auths = [AUTHS[channel] for channel in channels[at : at + a_minute]]
        active.recent.add(Rows(auths, some, zeros, zeros, scorer.score(some).ppm))
        clock.advance(LOOK_S)
        check.look()
    return told


@pytest.mark.parametrize("a_minute", [20, 500])
def test_a_release_is_silent_among_the_population_it_was_made_for(
    made: Made, scorer: OnnxScorer, a_minute: int
) -> None:
    told = decide(scorer, rows_of(made.here, MADE_UNTIL, DAYS), a_minute=a_minute)
    assert told.looks > 20
    assert told.out == 0


@pytest.mark.parametrize("a_minute", [10, 500])
def test_another_population_is_told_within_an_hour_of_traffic(
    made: Made, scorer: OnnxScorer, a_minute: int
) -> None:
    told = decide(scorer, rows_of(made.there, 30, 35), a_minute=a_minute)
    assert told.after_us is not None
    assert told.after_us <= HOUR_US
    assert told.out == told.looks, "and it does not come and go"


def test_the_committed_release_as_it_is_shipped_says_that_it_is_out_of_its_domain(
    made: Made,
) -> None:
    shipped = Path("models/releases/current")
    scorer = load(shipped, read_trust(Path("policies/trust")), catalogue.FEATURES, "EUR")
    told = decide(scorer, rows_of(made.there, 30, 35), a_minute=500)
    assert told.looks > 3
    assert told.out == told.looks


# ---------------------------------------------------------------- the report


def report(
    made: Made, archive: Path, out: Path, first: str, until: str, *more: str
) -> tuple[int, Any]:
    status = main(
        ["drift", "--archive", str(archive), "--release", str(made.release), "--trust",
         str(made.trust), "--from", first, "--to", until, "--mature-after", "1d", "--report",
         str(out), *more]
    )  # fmt: skip
    return status, msgspec.json.decode(out.read_bytes())


def test_a_report_of_the_same_population_ends_with_0(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said = report(made, made.here, tmp_path / "r.json", "2026-04-08", "2026-04-15")
    text = capsys.readouterr().out
    assert (status, said["verdict"], said["why"]) == (0, "as_made_for", [])
    assert "as made for" in text
    assert said["score_psi"] < 0.05
    assert {(s["by"], s["value"]) for s in said["segments"]} >= {("channel", "ecom")}
    assert said["worth"]["frauds"] > 0
    assert set(said["worth"]["now"]) == set(said["worth"]["then"])
    assert said["worth"]["now"]["auc"] == pytest.approx(said["worth"]["then"]["auc"], abs=0.1)


def test_a_report_of_another_population_ends_with_3_and_says_why(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said = report(made, made.there, tmp_path / "r.json", "2026-04-01", "2026-04-08")
    assert (status, said["verdict"]) == (3, "out_of_domain")
    assert "the score's index is" in said["why"][0]
    assert said["inputs"][0]["psi"] > 1
    assert len(said["inputs"]) == 142
    assert "channel ecom" in said["missing_segments"]
    assert [s["value"] for s in said["segments"] if s["by"] == "channel"] == ["pos"]
    assert "out of domain" in capsys.readouterr().out


def test_what_a_night_told_the_next_ones_repeat_with_4_until_a_week_is_over(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / "r.json").write_text('{"v": 1, "rel')

    def night(day: str) -> tuple[int, int | None]:
        until = f"2026-04-{day}"
        given = (made.there, tmp_path / day / "r.json", "2026-04-01", until, "--again-after", "7d")
        status, said = report(made, *given)
        assert said["verdict"] == "out_of_domain"
        return status, said["told_at"]

    first = instant("2026-04-06")
    assert night("06") == (3, None)
    assert night("07") == (4, first)
    assert "told already by the report up to 2026-04-06 00:00 UTC" in capsys.readouterr().out
    assert night("06") == (3, None), "made again it says what it said"
    assert night("12") == (4, first)
    assert night("13") == (3, None)


def test_what_was_told_before_stands_in_reports_alone(
    made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["drift", "--archive", str(made.here), "--again-after", "7d"]) == 64
    assert "--report" in capsys.readouterr().err


def test_too_few_rows_end_with_2(made: Made, tmp_path: Path) -> None:
    status, said = report(made, made.here, tmp_path / "r.json", "2026-04-08", "2026-04-08T01:00")
    assert (status, said["verdict"]) == (2, "too_few")


def test_a_release_without_a_reference_cannot_be_compared(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trust = tmp_path / "key.pub"
    trust.write_text(public_line(KEY.public_key(), "tests"))
    release = make_release(tmp_path / "release")
    verb = ["drift", "--archive", str(made.here), "--to", "2026-04-15"]
    assert main([*verb, "--release", str(release), "--trust", str(trust)]) == 78
    assert "no reference" in capsys.readouterr().err


def test_a_split_that_the_set_does_not_have_leaves_the_release_as_it_was(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "release"
    shutil.copytree(made.release, folder)
    verb = ["release", "reference", str(folder), "--dataset", str(made.dataset)]
    assert main([*verb, "--split", "test-9"]) != 0
    assert "test-9" in capsys.readouterr().err
    assert main(["release", "verify", str(folder), "--trust", str(made.trust)]) == 0
