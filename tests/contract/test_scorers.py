"""One suite that every scorer passes, the fake included."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sluice.adapters.onnx import OnnxScorer, load, read_trust
from sluice.application.ports import Count, Scorer, uncounted
from sluice.domain.features import catalogue
from sluice.domain.policy.reasons import BY_CODE, MODEL_CODES
from sluice.domain.release import decode_manifest
from sluice.errors import Unavailable
from sluice.testing.counting import Counted
from sluice.testing.release import FEATURES, TRUSTED, make_model, make_release
from sluice.testing.scorer import FakeScorer


def onnx(tmp_path: Path) -> OnnxScorer:
    return load(make_release(tmp_path / "r"), TRUSTED, catalogue.FEATURES, "EUR")


def fake(_: Path) -> FakeScorer:
    return FakeScorer()


def onnx_failing(tmp_path: Path, count: Count = uncounted) -> Scorer:
    folder = make_release(tmp_path / "r")
    manifest = decode_manifest((folder / "manifest.json").read_bytes())
    columns = [catalogue.INDEX[name] for name in FEATURES]
    groups = {f.name: f.group for f in catalogue.FEATURES}
    return OnnxScorer(manifest, make_model(rows_fixed_to=3), columns, groups, count)


def fake_failing(_: Path) -> Scorer:
    scorer = FakeScorer()
    scorer.down = True
    return scorer


def committed(_: Path) -> OnnxScorer:
    trusted = read_trust(Path("policies/trust"))
    return load(Path("models/releases/current"), trusted, catalogue.FEATURES, "EUR")


MAKERS = {"onnx": onnx, "committed": committed, "fake": fake}
FAILING = {"onnx": onnx_failing, "fake": fake_failing}


@pytest.fixture(params=MAKERS.values(), ids=MAKERS.keys())
def scorer(request: pytest.FixtureRequest, tmp_path: Path) -> Scorer:
    make: Callable[[Path], Scorer] = request.param
    return make(tmp_path)


def rows(n: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    size = np.exp(rng.normal(4, 3, (n, catalogue.N))).astype(np.int64)
    return size * rng.integers(-1, 2, (n, catalogue.N))


def test_a_row_gets_the_same_score_alone_and_in_any_batch(scorer: Scorer) -> None:
    features = rows(513)
    alone = np.concatenate([scorer.score(features[i : i + 1]).ppm for i in range(513)])
    assert len(np.unique(alone)) > 20
    for n in range(2, 514):
        first = (n * 7) % (514 - n)
        together = scorer.score(features[first : first + n]).ppm
        assert together.tolist() == alone[first : first + n].tolist(), n


def test_a_score_is_a_whole_number_of_ppm_and_names_its_release(scorer: Scorer) -> None:
    scores = scorer.score(rows(40))
    assert scores.ppm.shape == (40,)
    assert scores.ppm.dtype == np.int64
    assert scores.ppm.min() >= 0
    assert scores.ppm.max() <= 1_000_000
    assert scores.release == scorer.release


def test_no_rows_get_no_scores(scorer: Scorer) -> None:
    assert scorer.score(rows(0)).ppm.shape == (0,)


def test_rows_of_another_width_are_refused(scorer: Scorer) -> None:
    with pytest.raises(IndexError):
        scorer.score(np.zeros((1, 1), np.int64))


def test_reasons_are_known_codes_of_the_model_and_the_same_each_time(scorer: Scorer) -> None:
    for row in rows(20):
        codes = scorer.reasons(row)
        assert len(set(codes)) == len(codes)
        assert {BY_CODE[code].source for code in codes} <= {"model"}
        assert scorer.reasons(row) == codes


@pytest.mark.parametrize("make", [onnx, fake], ids=["onnx", "fake"])
def test_nothing_speaks_for_the_row_that_others_are_compared_with(
    make: Callable[[Path], Scorer], tmp_path: Path
) -> None:
    assert make(tmp_path).reasons(np.zeros(catalogue.N, np.int64)) == []


@pytest.mark.parametrize("make", FAILING.values(), ids=FAILING.keys())
def test_a_model_that_cannot_run_is_unavailable(
    make: Callable[[Path], Scorer], tmp_path: Path
) -> None:
    with pytest.raises(Unavailable):
        make(tmp_path).score(rows(2))


def test_a_run_that_fails_is_counted(tmp_path: Path) -> None:
    counted = Counted()
    with pytest.raises(Unavailable):
        onnx_failing(tmp_path, counted).score(rows(2))
    assert counted == {"sluice_decider_scorer_failures_total runtime": 1}


TAKEN = decode_manifest(Path("models/releases/current/manifest.json").read_bytes()).names


@pytest.mark.parametrize(
    ("make", "width"), [(onnx, len(FEATURES)), (committed, len(TAKEN))], ids=["onnx", "committed"]
)
def test_the_runtime_gives_a_row_the_same_bits_whatever_its_place(
    make: Callable[[Path], OnnxScorer], width: int, tmp_path: Path
) -> None:
    scorer = make(tmp_path)
    table = rows(513)[:, :width]
    alone = np.concatenate([scorer.probability(table[i : i + 1]) for i in range(513)])
    for n in range(2, 514):
        first = (n * 7) % (514 - n)
        together = scorer.probability(table[first : first + n])
        assert together.tobytes() == alone[first : first + n].tobytes(), n


def test_more_rows_than_one_run_takes_score_as_they_would_alone(tmp_path: Path) -> None:
    scorer = onnx(tmp_path)
    features = np.tile(rows(513), (17, 1))
    assert scorer.score(features).ppm.tolist() == scorer.score(features[:513]).ppm.tolist() * 17


def test_the_group_that_moves_the_score_is_the_first_reason(tmp_path: Path) -> None:
    scorer = onnx(tmp_path)
    moved = set()
    for name in FEATURES:
        row = np.zeros(catalogue.N, np.int64)  # like the reference row, but for this feature
        row[catalogue.INDEX[name]] = 1_000
        group = catalogue.FEATURES[catalogue.INDEX[name]].group
        beyond = scorer.score(row[None]).ppm[0] > 562_177  # a logit of 0.25
        assert scorer.reasons(row) == ([MODEL_CODES[group]] if beyond else [])
        moved.add(bool(beyond))
    assert moved == {True, False}
