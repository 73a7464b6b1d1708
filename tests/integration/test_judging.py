"""From a training set and a run to a judgement, a verdict and a certificate, by the verbs; and
what is planted in a run is refused for what it is."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from sluice.application.judging.certificate import read_certificate
from sluice.application.judging.judgement import Judgement
from sluice.application.judging.verdict import Verdict
from sluice.application.sign_release import make_key, read_manifest
from sluice.bootstrap.archive_root import place
from sluice.bootstrap.copies import making
from sluice.cli import main
from sluice.domain.features import catalogue
from sluice.domain.release import parse_trust, public_line
from sluice.errors import Corrupt
from sluice.settings import load
from sluice.testing.release import KEY, make_release
from tests.support.feature_log import write_log
from tests.support.judged import (
    FEATURES,
    Part,
    fit,
    make_world,
    named,
    run_graph,
    to_int8,
    to_onnx,
    with_columns,
    write_dataset,
    write_run,
)
from tests.support.s3_server import BUCKET

pytestmark = pytest.mark.integration

WORLD = make_world()
LIMITS = "{newly_stopped_per_100k: 5000, newly_approved_per_100k: 5000, int8_flips_per_100k: 600,\
 latency_1_us: 1000000, latency_512_us: 1000000}"
"""Twelve thousand rows: one changed decision is eight of 100,000; and no test waits for a quiet
machine."""


def write_archive(root: Path) -> Path:
    """The feature log that WORLD was built from."""
    parts = list(WORLD.values())
    x = np.concatenate([part.x for part in parts])
    features = np.zeros((len(x), catalogue.N), np.int64)
    features[:, [catalogue.INDEX[name] for name in FEATURES]] = x
    columns = {
        name: np.concatenate([np.asarray(part.columns[name]) for part in parts])
        for name in ("authorization_id", "event_at", "card_token")
    }
    same = {"catalogue": [catalogue.DIGEST] * len(x), "features": features.tolist()}
    write_log(root, "history", columns | same)
    return root


class Bench:
    """A folder with a training set, graphs, a champion and a key."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.dataset = write_dataset(root / "dataset", WORLD)
        self.archive = write_archive(root / "archive")
        train = WORLD["train"]
        self.graph = to_onnx(fit(train.x, train.fraud, seed=2))
        frauds = np.flatnonzero(train.fraud)
        enriched = np.r_[frauds, np.random.default_rng(1).choice(len(train.x), 1_500)]
        self.int8 = to_int8(self.graph, train.x[enriched], root)
        self.int8_of_ten = to_int8(self.graph, train.x[np.flatnonzero(~train.fraud)[:10]], root)
        self.champion = make_release(
            root / "releases" / "champion-1",
            id="champion-1",
            model=to_onnx(fit(train.x, train.fraud)),
            features=FEATURES,
        )
        self.trust = root / "champion.pub"
        self.trust.write_text(public_line(KEY.public_key(), "tests"))
        self.key = root / "gate.key"
        self.public = make_key(self.key).public
        self.limits = root / "limits.yaml"
        self.limits.write_text(LIMITS)
        self._runs = 0

    def run(self, graphs: dict[str, bytes] | None = None, **given: Any) -> Path:
        self._runs += 1
        graphs = graphs or {"student": self.graph, "student_int8": self.int8}
        dataset = given.pop("dataset", self.dataset)
        world = given.pop("world", WORLD)
        return write_run(self.root / f"run-{self._runs}", dataset, world, graphs, **given)

    def gate(self, run: Path, *more: str, out: Path, champion: bool = True) -> int:
        given = ["--champion", str(self.champion)] if champion else ["--no-champion"]
        return main(
            ["gate", "--run", str(run), "--dataset", str(self.dataset), "--out", str(out), "--key",
             str(self.key), "--trust", str(self.trust), "--limits", str(self.limits), "--archive",
             str(self.archive), *given, *more]
        )  # fmt: skip


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("judging"))


def verdict_in(out: Path) -> Verdict:
    return msgspec.json.decode((out / "verdict.json").read_bytes(), type=Verdict)


def test_a_judgement_is_one_page_that_fetches_nothing_and_the_same_as_json(bench, tmp_path, capsys):
    truth = tmp_path / "truth.parquet"
    import pyarrow as pa
    import pyarrow.parquet as pq

    ids = [i for part in WORLD.values() for i in part.columns["authorization_id"]]
    pq.write_table(pa.table({"authorization_id": ids, "kind": ["testing"] * len(ids)}), truth)
    status = main(
        ["judge", "--run", str(bench.run()), "--release", f"in force={bench.champion}", "--dataset",
         str(bench.dataset), "--out", str(tmp_path / "out"), "--trust", str(bench.trust),
         "--truth", str(truth), "--title", "A <b>bank</b>"]
    )  # fmt: skip
    assert status == 0, capsys.readouterr().err
    found = msgspec.json.decode((tmp_path / "out/judgement.json").read_bytes(), type=Judgement)
    assert [m.name for m in found.models] == ["student", "student_int8", "in force"]
    student = found.models[0]
    assert student.naive["average_precision"].windows == 2
    assert set(student.delays) == {"1", "7", "14", "30"}
    assert {s.by for s in student.segments} == {"channel", "region", "amount", "card", "campaign"}
    assert {e.what for e in student.examples} == {"caught", "missed", "false alarm"}
    assert student.costed is not None
    page = (tmp_path / "out/report.html").read_text()
    assert "A &lt;b&gt;bank&lt;/b&gt;" in page
    assert not re.search(r"<script|<link|<img|src=|href=|url\(|https?:", page)
    assert page.count("<svg") == 6
    text = json.dumps(json.loads((tmp_path / "out/judgement.json").read_text()))
    assert "NaN" not in text


def test_it_is_the_same_where_the_set_and_a_release_are_in_a_bucket(bench, tmp_path, s3, capsys):
    sets, releases = f"s3://{BUCKET}/judged/set", f"s3://{BUCKET}/judged/releases"
    for url, folder in ((sets, bench.dataset), (f"{releases}/champion", bench.champion)):
        with making(place(load()[0], url), print) as made:
            shutil.copytree(folder, made)
    run = bench.run({"student": bench.graph})
    for dataset, release, out in (
        (bench.dataset, bench.champion, "here"),
        (sets, f"{releases}/champion", "there"),
    ):
        words = ["judge", "--run", run, "--release", f"now={release}", "--dataset", dataset]
        words += ["--out", tmp_path / out, "--trust", bench.trust]
        assert main([*map(str, words)]) == 0
    here, there = (
        msgspec.json.decode((tmp_path / out / "judgement.json").read_bytes(), type=Judgement).models
        for out in ("here", "there")
    )
    assert [(model.name, model.naive) for model in there] == [(m.name, m.naive) for m in here]
    made = f"{releases}/made"
    assert (
        main(["release", "pack", made, "--run", str(run), "--dataset", sets, "--id", "made"]) == 0
    )
    assert verified(bench, made, bench.key, bench.public) == 0
    more = ["release", "reference", made, "--dataset", sets, "--split", "calibration"]
    assert main(more) == 0
    capsys.readouterr()
    assert main(["release", "verify", made, "--trust", str(bench.public)]) == 78, "not signed"
    assert f"at {made}/manifest.sig" in capsys.readouterr().err
    assert verified(bench, made, bench.key, bench.public) == 0
    assert pack(bench, made, "--run", str(run)) == 78, "there is one already"


def test_two_runs_of_other_seeds_are_one_model_with_two_seeds(bench, tmp_path):
    train = WORLD["train"]
    again = bench.run({"student": to_onnx(fit(train.x, train.fraud, seed=5))}, seed=5)
    status = main(
        ["judge", "--run", str(bench.run({"student": bench.graph})), "--run", str(again),
         "--dataset", str(bench.dataset), "--out", str(tmp_path)]
    )  # fmt: skip
    assert status == 0
    found = msgspec.json.decode((tmp_path / "judgement.json").read_bytes(), type=Judgement)
    assert [(m.name, m.seeds) for m in found.models] == [("student", 2)]


def test_an_accepted_candidate_gets_a_certificate_that_only_its_signer_can_make(bench, tmp_path):
    assert bench.gate(bench.run(), out=tmp_path) == 0
    raw = (tmp_path / "certificate.json").read_bytes()
    trusted = parse_trust(bench.public.read_text(), "gate")
    certified = read_certificate(raw, trusted)
    assert certified.verdict == verdict_in(tmp_path)
    assert certified.verdict.accepted
    assert set(certified.verdict.timings_us) == {"fp32", "int8", "champion"}
    with pytest.raises(Corrupt, match="does not match"):
        read_certificate(raw.replace(b"student", b"studenT"), trusted)
    with pytest.raises(Corrupt, match="not trusted"):
        read_certificate(raw, parse_trust(bench.trust.read_text(), "others"))


def refused(bench: Bench, run: Path, out: Path, *more: str, **given: Any) -> list[str]:
    assert bench.gate(run, *more, out=out, **given) == 1
    assert not (out / "certificate.json").exists()
    return list(verdict_in(out).reasons)


def test_int8_calibrated_on_ten_rows_is_refused_by_its_flips(bench, tmp_path):
    bad = bench.run({"student": bench.graph, "student_int8": bench.int8_of_ten})
    assert refused(bench, bad, tmp_path) == ["int8_flips"]
    assert bench.gate(bad, "--no-int8", out=tmp_path) == 0
    verdict = verdict_in(tmp_path)
    assert (verdict.int8, verdict.int8_flips) == ("", None)


def test_int8_over_the_budget_is_left_out_of_the_release_unless_a_person_named_it(bench, tmp_path):
    run = bench.run({"student": bench.graph, "student_int8": bench.int8_of_ten})
    bench.limits.write_text(LIMITS[:-1] + ", int8_broken_per_100k: 100000}")
    try:
        assert refused(bench, run, tmp_path, "--int8", "student_int8") == ["int8_flips"]
        assert bench.gate(run, out=tmp_path) == 0
    finally:
        bench.limits.write_text(LIMITS)
    found = next(c for c in verdict_in(tmp_path).checks if c.reason == "int8_flips")
    assert found.passed
    assert "left out, the release scores in single precision" in found.found
    out = tmp_path / "release"
    given = ["--run", str(run), "--certificate", str(tmp_path / "certificate.json")]
    assert pack(bench, out, *given) == 0
    manifest = read_manifest(out)
    assert manifest.variants == {}
    assert "model.int8.onnx" not in manifest.files
    assert "left out" in (out / "card.md").read_text()


def test_a_certificate_of_before_does_not_outlive_a_refusal(bench, tmp_path):
    assert bench.gate(bench.run(), out=tmp_path) == 0
    assert (tmp_path / "certificate.json").exists()
    bad = bench.run({"student": bench.graph, "student_int8": bench.int8_of_ten})
    assert refused(bench, bad, tmp_path) == ["int8_flips"]


def test_shuffled_labels_are_refused_as_such(bench, tmp_path):
    train = WORLD["train"]
    shuffled = np.random.default_rng(1).permutation(train.fraud)
    run = bench.run({"student": to_onnx(fit(train.x, shuffled))})
    assert refused(bench, run, tmp_path)[0] == "no_signal"


def test_another_unit_in_the_graph_is_refused_as_such(bench, tmp_path):
    train = WORLD["train"]
    scale = np.where(np.array(FEATURES) == "card_amount_30d_minor", 100, 1)
    run = bench.run({"student": to_onnx(fit(train.x // scale, train.fraud))})
    assert refused(bench, run, tmp_path)[0] == "unit_changed"


def column(name: str, change: Callable[[np.ndarray, Part], np.ndarray], *splits: str) -> Any:
    """WORLD with a column changed in some splits, or in all."""
    return {
        split: with_columns(part, **{name: change(np.asarray(part.columns[name]), part)})
        if not splits or split in splits
        else part
        for split, part in WORLD.items()
    }


PLANTED = {
    "unit in train": ("unit_changed", "card_amount_30d_minor has another unit, 100 times",
                      column("card_amount_30d_minor", lambda x, _: x * 100, "train")),
    "unit throughout": ("unit_changed", "card_amount_30d_minor has another unit, 0.01 times",
                        column("card_amount_30d_minor", lambda x, _: x // 100)),
    "leak": ("leak", "terminal_frauds_7d knows more of fraud than it did then",
             column("terminal_frauds_7d", lambda x, part: x + part.fraud * (x + 1) % 2)),
    "another kernel": ("other_features", "card_count_1h is another in ",
                       column("card_count_1h", lambda x, _: np.maximum(x - 1, 0))),
}  # fmt: skip


@pytest.mark.parametrize("what", PLANTED)
def test_a_set_whose_features_are_not_the_logs_is_refused_by_the_name_of_one(bench, tmp_path, what):
    wanted, said, world = PLANTED[what]
    dataset = write_dataset(tmp_path / "dataset", world)
    graph = to_onnx(fit(world["train"].x, world["train"].fraud, seed=2))
    run = bench.run({"student": graph}, dataset=dataset, world=world)
    out = tmp_path / "out"
    reasons = refused(bench, run, out, "--dataset", str(dataset), champion=False)
    assert reasons[0] == wanted
    found = [check.found for check in verdict_in(out).checks if not check.passed]
    assert any(text.startswith(said) for text in found)


def test_a_unit_that_changed_while_it_learnt_is_refused_without_a_log(bench, tmp_path):
    learnt = WORLD["train"].x * np.where(np.array(FEATURES) == "card_history_span_s", 1_000, 1)
    graph = to_onnx(fit(learnt, WORLD["train"].fraud, seed=2))
    run = bench.run({"student": graph}, learnt=learnt)
    nowhere = ["--archive", str(tmp_path / "nowhere")]
    reasons = refused(bench, run, tmp_path / "out", *nowhere)
    assert {"unit_changed", "other_features"} <= set(reasons)
    found = {check.found for check in verdict_in(tmp_path / "out").checks if not check.passed}
    assert any(f.startswith("card_history_span_s has another unit, 1e+03 times") for f in found)
    assert any(f.startswith("no row of the set lies in the feature log") for f in found)


def test_without_a_log_of_the_settings_that_has_its_rows_the_certificate_says_so(
    bench, tmp_path, monkeypatch
):
    words = ["gate", "--run", str(bench.run()), "--dataset", str(bench.dataset), "--out",
             str(tmp_path), "--limits", str(bench.limits), "--no-champion"]  # fmt: skip
    for root, said in (
        (tmp_path / "nowhere", "no feature log was at hand"),
        (bench.archive, "18,000 rows of the set are the feature log's"),
    ):
        monkeypatch.setenv("SLUICE_ARCHIVER_ROOT", str(root))
        assert main(words) == 0
        checks = verdict_in(tmp_path).checks
        (check,) = (c for c in checks if c.reason == "other_features")
        assert said in check.found


def test_scores_of_rows_that_had_another_unit_are_not_the_graphs(bench, tmp_path):
    scaled = {name: part.x.copy() for name, part in WORLD.items()}
    for x in scaled.values():
        x[:, 0] //= 100
    scores = {name: {"student": run_graph(bench.graph, x)} for name, x in scaled.items()}
    run = bench.run({"student": bench.graph}, scores=scores)
    assert refused(bench, run, tmp_path)[0] == "scores_differ"


def test_a_leak_from_the_future_is_refused_as_such(bench, tmp_path):
    reports = FEATURES.index("terminal_frauds_7d")
    world = {
        name: with_columns(p, terminal_frauds_7d=p.x[:, reports] + 9 * p.fraud)
        for name, p in WORLD.items()
    }
    dataset = write_dataset(tmp_path / "dataset", world)
    graph = to_onnx(fit(world["train"].x, world["train"].fraud))
    run = bench.run({"student": graph}, dataset=dataset, world=world)
    given = ["--dataset", str(dataset)]
    reasons = refused(bench, run, tmp_path / "out", *given, champion=False)
    assert reasons == ["leak", "above_ceiling"]
    found = [c.found for c in verdict_in(tmp_path / "out").checks if c.reason == "leak"]
    assert [text.split()[0] for text in found] == [
        "terminal_frauds_7d"
    ] * 2  # alone, and by the log


def test_an_older_release_replayed_is_refused_as_such(bench, tmp_path):
    make_release(
        bench.root / "releases" / "old-1", id="old-1", model=bench.graph, features=FEATURES
    )
    try:
        reasons = refused(bench, bench.run({"student": bench.graph}), tmp_path)
    finally:
        for path in (bench.root / "releases" / "old-1").iterdir():
            path.unlink()
        (bench.root / "releases" / "old-1").rmdir()
    assert reasons == ["replayed"]
    found = next(c for c in verdict_in(tmp_path).checks if c.reason == "replayed")
    assert "old-1 of 2026-05-28" in found.found


def test_a_feature_that_the_catalogue_lacks_is_refused_as_such(bench, tmp_path):
    strange = named(bench.graph, (*FEATURES[:-1], "card_zodiac"))
    run = bench.run({"student": strange})
    assert refused(bench, run, tmp_path) == ["unknown_feature"]


@pytest.mark.parametrize(
    "what", ["scores", "model", "run", "learnt", "before", "champion", "dataset", "empty"]
)
def test_what_is_damaged_ends_in_a_clear_error_and_leaves_nothing(bench, tmp_path, capsys, what):
    out, more = tmp_path / "out", []
    run = bench.run({"student": bench.graph})
    if what == "scores":
        (run / "scores/test-1.parquet").write_bytes(b"PAR1")
    elif what == "model":
        (run / "models/student.onnx").write_bytes(bench.int8)
    elif what == "run":
        (run / "run.json").write_text("{}")
    elif what == "learnt":
        (run / "learnt.parquet").write_bytes(b"PAR1")
    elif what == "before":
        about = json.loads((run / "run.json").read_bytes())
        (run / "run.json").write_text(json.dumps(about | {"learnt": None}))
    elif what == "champion":
        more = ["--trust", str(bench.public)]
    elif what == "dataset":
        more = ["--dataset", str(tmp_path)]
    else:
        world = WORLD | {
            "calibration": with_columns(
                WORLD["calibration"], is_fraud=np.zeros(len(WORLD["calibration"].fraud), bool)
            )
        }
        dataset = write_dataset(tmp_path / "dataset", world)
        run = bench.run({"student": bench.graph}, dataset=dataset, world=world)
        more = ["--dataset", str(dataset)]
    assert bench.gate(run, *more, out=out) != 0
    said = capsys.readouterr().err
    wanted = {
        "scores": "it has the digest", "model": "it has the digest",
        "learnt": "it has the digest", "before": "does not say what it learnt",
        "run": "no run of training",
        "champion": "which is not trusted", "dataset": "no training set",
        "empty": "no threshold can be found",
    }  # fmt: skip
    assert wanted[what] in said
    assert "Traceback" not in said
    assert not out.exists()


def pack(bench: Bench, out: Path, *given: str) -> int:
    return main(["release", "pack", str(out), "--dataset", str(bench.dataset), *given])


def verified(bench: Bench, release: Path, key: Path, public: Path) -> int:
    status = main(["release", "sign", str(release), "--key", str(key)])
    return status or main(["release", "verify", str(release), "--trust", str(public)])


def test_an_accepted_candidate_becomes_a_release_that_a_decider_loads(bench, tmp_path):
    run, gate = bench.run(), tmp_path / "gate"
    assert bench.gate(run, out=gate) == 0
    judged = ["judge", "--dataset", str(bench.dataset), "--out"]
    assert main([*judged, str(tmp_path / "own"), "--run", str(run), "--title", "Own days"]) == 0
    assert main(
        [*judged, str(tmp_path / "far"), "--release", f"x={bench.champion}", "--trust",
         str(bench.trust), "--title", "Days of another bank"]
    ) == 0  # fmt: skip
    out = tmp_path / "release"
    about = tmp_path / "use.md"
    about.write_text("The demo. **Not for** anything else.")
    assert pack(
        bench, out, "--run", str(run), "--certificate", str(gate / "certificate.json"),
        "--judgement", str(tmp_path / "own/judgement.json"), "--use", str(about),
        "--elsewhere", str(tmp_path / "far/judgement.json"), "--approval", "A. Person, 2026-11-26",
    ) == 0  # fmt: skip
    assert verified(bench, out, bench.key, bench.public) == 0
    manifest = read_manifest(out)
    verdict = verdict_in(gate)
    assert manifest.files["model.onnx"] == verdict.model
    assert manifest.files["model.int8.onnx"] == verdict.int8
    assert {"reference.json", "certificate.json"} <= set(manifest.files)
    assert manifest.thresholds_ppm == verdict.thresholds_ppm
    took = verdict.timings_us
    fastest = {
        batch: min(("fp32", "int8"), key=lambda kind: took[kind][batch]) for batch in ("1", "512")
    }
    graphs = {"fp32": "model.onnx", "int8": "model.int8.onnx"}
    assert manifest.variants == {"sync": graphs[fastest["1"]], "stream": graphs[fastest["512"]]}
    card = (out / "card.md").read_text()
    for text in ("Own days", "Days of another bank", "Not for** anything else", "A. Person",
                 "Accepted beside `champion-1` (", "which it was not trained on"):  # fmt: skip
        assert text in card


def test_the_better_of_a_run_is_tried_and_the_certificate_says_who_is_packed(
    bench, tmp_path, capsys
):
    train = WORLD["train"]
    poor = train.fraud & (np.random.default_rng(6).random(len(train.fraud)) < 0.15)
    weak = to_onnx(fit(train.x, poor, seed=3))
    for graphs, who in (
        ({"lightgbm": bench.graph, "student": weak}, "lightgbm"),
        ({"lightgbm": weak, "student": bench.graph}, "student"),
    ):
        run, gate, out = bench.run(graphs), tmp_path / f"gate-{who}", tmp_path / f"release-{who}"
        bench.gate(run, out=gate, champion=False)
        said = capsys.readouterr().err
        assert f"; {who} is tried" in said
        assert f"next: sluice release pack RELEASE --run {run}" in said
        assert verdict_in(gate).candidate == who
        named = ["--run", str(run), "--certificate", str(gate / "certificate.json")]
        assert pack(bench, out, *named) == 0
        assert (out / "model.onnx").read_bytes() == bench.graph
        assert json.loads((out / "manifest.json").read_bytes())["id"].startswith(who)


def test_a_certificate_of_another_graph_is_not_packed_nor_verified(bench, tmp_path, capsys):
    gate = tmp_path / "gate"
    assert bench.gate(bench.run(), out=gate) == 0
    train = WORLD["train"]
    other = bench.run({"student": to_onnx(fit(train.x, train.fraud, seed=7))})
    out = tmp_path / "release"
    status = pack(bench, out, "--run", str(other), "--certificate", str(gate / "certificate.json"))
    assert status == 1
    assert "the gate saw" in capsys.readouterr().err
    assert not out.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["gate"]


def test_a_certificate_by_a_key_that_is_not_trusted_is_not_verified(bench, tmp_path, capsys):
    gate, out = tmp_path / "gate", tmp_path / "release"
    run = bench.run()
    assert bench.gate(run, out=gate) == 0
    assert pack(bench, out, "--run", str(run), "--certificate", str(gate / "certificate.json")) == 0
    other = tmp_path / "other.key"
    assert verified(bench, out, other, make_key(other).public) == 1
    assert "not trusted" in capsys.readouterr().err


def test_any_onnx_file_becomes_a_release_by_the_names_of_its_columns(bench, tmp_path, capsys):
    import onnx

    bare = onnx.load_from_string(bench.graph)
    del bare.metadata_props[:]
    model = tmp_path / "trees.onnx"
    model.write_bytes(bare.SerializeToString())
    out = tmp_path / "release"
    assert pack(bench, out, "--model", str(model)) == 78
    assert "does not name its columns" in capsys.readouterr().err
    columns = ["--columns", ",".join(FEATURES), "--kind", "Trees of another make"]
    assert pack(bench, out, "--model", str(model), *columns, "--id", "trees-1") == 0
    assert verified(bench, out, bench.key, bench.public) == 0
    manifest = read_manifest(out)
    assert (manifest.id, manifest.names) == ("trees-1", list(FEATURES))
    card = (out / "card.md").read_text()
    assert "Trees of another make" in card
    assert "It has not passed the gate" in card
    wrong = ["--columns", ",".join([*FEATURES[:-1], "card_zodiac"])]
    assert pack(bench, tmp_path / "wrong", "--model", str(model), *wrong) == 78
    assert "card_zodiac" in capsys.readouterr().err
    assert pack(bench, out, "--model", str(model), *columns) == 78  # not over what is there
