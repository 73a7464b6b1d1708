from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from sluice.adapters.onnx import Description
from sluice.bootstrap.verbs import champion_in
from sluice.cli import main
from sluice.domain.features import catalogue
from sluice.domain.reference import make_reference
from sluice.domain.release import decode_manifest
from sluice.errors import Corrupt, Misconfigured
from sluice.testing.release import FEATURES, make_model, make_release


def make_key(tmp_path: Path) -> tuple[str, str]:
    path = tmp_path / "release.key"
    assert main(["release", "keygen", "--out", str(path)]) == 0
    return str(path), f"{path}.pub"


def test_a_release_signed_with_a_new_key_verifies_with_its_public_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, public = make_key(tmp_path)
    folder = str(make_release(tmp_path / "r"))
    assert main(["release", "verify", folder, "--trust", public]) == 1
    assert "is not trusted" in capsys.readouterr().err
    assert main(["release", "sign", folder, "--key", key]) == 0
    assert main(["release", "verify", folder, "--trust", public]) == 0
    assert "test-1 is whole" in capsys.readouterr().out


def test_a_private_key_is_for_its_owner_alone_and_never_overwritten(tmp_path: Path) -> None:
    key, _ = make_key(tmp_path)
    assert Path(key).stat().st_mode & 0o077 == 0
    before = Path(key).read_bytes()
    assert main(["release", "keygen", "--out", key]) == 78
    assert Path(key).read_bytes() == before


def test_a_manifest_is_not_signed_over_files_that_it_does_not_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, _ = make_key(tmp_path)
    folder = make_release(tmp_path / "r")
    (folder / "card.md").write_text("# Another\n")
    signature = (folder / "manifest.sig").read_bytes()
    assert main(["release", "sign", str(folder), "--key", key]) == 1
    assert "card.md" in capsys.readouterr().err
    assert (folder / "manifest.sig").read_bytes() == signature


def test_what_is_no_key_is_refused_without_repeating_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "k"
    wrong.write_text("hunter2")
    assert main(["release", "sign", str(make_release(tmp_path / "r")), "--key", str(wrong)]) == 78
    assert "hunter2" not in capsys.readouterr().err


def test_show_says_what_a_release_is_and_that_it_was_not_verified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["release", "show", str(make_release(tmp_path / "r"))]) == 0
    said = capsys.readouterr().out
    assert "test-1: random weights" in said
    assert "thresholds  none\n" in said or " ppm, where its frauds cost least" in said
    assert "not verified" in said


def test_a_folder_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["release", "show", str(tmp_path / "none")]) == 78
    assert "manifest.json" in capsys.readouterr().err


def describe(folder: Path, **changes: object) -> str:
    """A description that makes the manifest of this folder again, but for its changes."""
    manifest = msgspec.json.decode((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").unlink()
    (folder / "manifest.sig").unlink()
    kept = {key: manifest[key] for key in Description.__struct_fields__}
    kept["warm_up"] = [vector["features"] for vector in manifest["warm_up"]]
    path = folder.with_suffix(".yaml")
    path.write_bytes(msgspec.yaml.encode(kept | changes))
    return str(path)


def test_a_model_with_a_card_becomes_a_release(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, public = make_key(tmp_path)
    rows = np.zeros((1000, len(FEATURES)), np.int64)
    where: Any = {"data": "0" * 64, "split": "test", "since": 0, "until": 1}
    reference = msgspec.json.encode(make_reference(rows, rows[:, 0], **where))
    others = {"model.int8.onnx": make_model(seed=2), "reference.json": reference}
    folder = make_release(tmp_path / "r", others=others, variants={"stream": "model.int8.onnx"})
    made = (folder / "manifest.json").read_bytes()
    said = describe(folder)
    assert main(["release", "pack", str(folder), "--description", said]) == 0
    assert "5 features, 5 warm-up rows; not signed" in capsys.readouterr().out
    assert decode_manifest((folder / "manifest.json").read_bytes()) == decode_manifest(made)
    assert main(["release", "sign", str(folder), "--key", key]) == 0
    assert main(["release", "verify", str(folder), "--trust", public]) == 0
    by = ["--key", key, "--who", "a", "--why", "b"]
    assert main(["release", "activate", str(folder), *by]) == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mood": "good"}, "unknown field `mood`"),
        ({"reference_row": [0]}, "the graph's 5 columns"),
        ({"warm_up": [[1, 2]]}, "the graph's 5 columns"),
        ({"opset": 12}, "opset 12"),
        ({"id": "No Name"}, "id"),
        ({"tolerates": ["weather"]}, "weather"),
    ],
)
def test_a_description_that_does_not_fit_leaves_no_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object], says: str
) -> None:
    folder = make_release(tmp_path / "r")
    said = describe(folder, **change)
    assert main(["release", "pack", str(folder), "--description", said]) == 78
    assert says in capsys.readouterr().err
    assert not (folder / "manifest.json").exists()


def test_variants_of_other_columns_and_a_reference_of_other_inputs_are_not_packed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_release(tmp_path / "r")
    said = describe(folder)
    (folder / "model.int8.onnx").write_bytes(make_model(FEATURES[:4]))
    assert main(["release", "pack", str(folder), "--description", said]) == 78
    assert "model.int8.onnx" in capsys.readouterr().err
    (folder / "model.int8.onnx").unlink()
    (folder / "reference.json").write_text("{}")
    assert main(["release", "pack", str(folder), "--description", said]) == 78
    assert "reference.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (make_model([*FEATURES[:4], "card_mood"]), "no feature card_mood"),
        (make_model([""] * 5), "does not name its columns"),
        (b"not a model", "cannot load the model"),
    ],
    ids=["unknown", "unnamed", "none"],
)
def test_a_graph_that_cannot_be_bound_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], model: bytes, says: str
) -> None:
    folder = make_release(tmp_path / "r")
    said = describe(folder)
    (folder / "model.onnx").write_bytes(model)
    assert main(["release", "pack", str(folder), "--description", said]) == 78
    assert says in capsys.readouterr().err


def test_show_says_which_feature_another_build_has_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(make_release(tmp_path / "r"))
    assert main(["release", "show", folder]) == 0
    assert "features    5, all as in this build" in capsys.readouterr().out
    monkeypatch.setitem(catalogue.VERSIONS, "now.amount", 2)
    assert main(["release", "show", folder]) == 0
    assert "amount_minor is computed by another version" in capsys.readouterr().out


# ---------------------------------------------------------------- beside others


@pytest.fixture
def releases(tmp_path: Path) -> Path:
    """A folder of two releases, the second one made later."""
    folder = tmp_path / "releases"
    make_release(folder / "test-1")
    make_release(folder / "test-2", seed=2, created_at=1_780_000_000_000_001)
    return folder


def step(releases: Path, verb: str, *words: str, key: str) -> int:
    said = ["--key", key, "--who", "ann", "--why", "a test"]
    return main(["release", verb, str(releases), *words, *said])


def test_a_folder_of_releases_is_listed_with_what_each_is(
    tmp_path: Path, releases: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, _ = make_key(tmp_path)
    assert main(["release", "list", str(releases)]) == 0
    assert "no activation" in capsys.readouterr().out
    assert step(releases, "promote", "test-1", key=key) == 0
    assert step(releases, "shadow", "test-2", key=key) == 0
    assert main(["release", "list", str(releases)]) == 0
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.split()[:2] == ["shadow", "test-2"]
    assert second.split()[:2] == ["champion", "test-1"]
    assert "shadow of" in last
    assert "by ann (a test)" in last
    assert step(releases, "canary", "test-2", "--share-ppm", "5000", key=key) == 0
    (releases / "test-3").mkdir()
    (releases / "test-3" / "manifest.json").write_text("{")
    assert main(["release", "list", str(releases)]) == 0
    out = capsys.readouterr().out
    assert "canary 5000      test-2" in out
    assert main(["release", "list", str(releases), "--json"]) == 0
    said = msgspec.json.decode(capsys.readouterr().out)
    assert {r["id"]: r["is"] for r in said["releases"]} == {
        "test-1": "champion",
        "test-2": "canary 5000",
    }
    assert said["activation"]["canary"]["share_ppm"] == 5000
    assert [*said["broken"]] == ["test-3"]
    assert "broken           test-3" in out
    assert step(releases, "rollback", key=key) == 0
    assert main(["release", "list", str(releases)]) == 0
    assert "canary" not in capsys.readouterr().out


def test_a_step_over_another_note_than_was_looked_at_is_refused(
    tmp_path: Path, releases: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, _ = make_key(tmp_path)
    assert step(releases, "promote", "test-1", "--expect", "0", key=key) == 0
    before = (releases / "activation.note").read_bytes()
    assert step(releases, "shadow", "test-2", "--expect", "0", key=key) == 78
    assert "somebody went a step in between" in capsys.readouterr().err
    assert (releases / "activation.note").read_bytes() == before


def test_a_second_person_approves_a_step(tmp_path: Path, releases: Path) -> None:
    key, _ = make_key(tmp_path)
    other = str(tmp_path / "other.key")
    assert main(["release", "keygen", "--out", other]) == 0
    assert step(releases, "promote", "test-1", key=key) == 0
    assert main(["release", "approve", str(releases), "--key", other]) == 0
    note = (releases / "activation.note").read_bytes()
    assert note.count(b"ed25519 ") == 2


def test_a_step_of_one_release_and_of_one_that_is_not_whole_is_refused(
    tmp_path: Path, releases: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, _ = make_key(tmp_path)
    assert step(releases / "test-1", "promote", "test-1", key=key) == 78
    assert "one release, not a folder" in capsys.readouterr().err
    (releases / "test-2" / "card.md").write_text("# Another")
    assert step(releases, "promote", "test-2", key=key) == 1
    assert "card.md" in capsys.readouterr().err
    (releases / "test-1").rename(releases / "renamed")
    assert step(releases, "promote", "renamed", key=key) == 78
    assert "name the folder by its id" in capsys.readouterr().err
    assert not (releases / "activation.note").exists()


def test_a_difference_of_two_releases_is_told_by_name(
    releases: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["release", "diff", str(releases / "test-1"), str(releases / "test-1")]) == 0
    assert capsys.readouterr().out == ""
    assert main(["release", "diff", str(releases / "test-1"), str(releases / "test-2")]) == 1
    out = capsys.readouterr().out
    assert "id: test-1 -> test-2" in out
    assert "provenance.seed: 1 -> 2" in out
    assert "reference_currency" not in out


def test_the_champion_of_a_folder_of_releases_is_found_if_someone_trusted_signed_it(
    tmp_path: Path, releases: Path
) -> None:
    key, public = make_key(tmp_path)
    assert champion_in(releases / "test-2", tmp_path) == releases / "test-2"
    with pytest.raises(Misconfigured, match="no release is the champion yet"):
        champion_in(releases, Path(public))
    assert step(releases, "promote", "test-1", key=key) == 0
    assert champion_in(releases, Path(public)) == releases / "test-1"
    stranger = tmp_path / "stranger.key"
    assert main(["release", "keygen", "--out", str(stranger)]) == 0
    with pytest.raises(Corrupt, match="not trusted"):
        champion_in(releases, stranger.with_name("stranger.key.pub"))
