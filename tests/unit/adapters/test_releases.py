import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sluice.adapters.onnx import ReleaseDirectory, load, read_trust, release, verify
from sluice.adapters.other_process import TOO_SLOW
from sluice.adapters.regular_files import NOT_REGULAR, TOO_LARGE
from sluice.adapters.trustfiles import TrustFolder
from sluice.domain.clock import SystemClock
from sluice.domain.features import catalogue
from sluice.domain.reference import Distribution, Reference, Segment, make_reference
from sluice.domain.release import (
    FEATURES_KEY,
    MAX_BYTES,
    key_id,
    parse_trust,
    public_line,
    sign,
    used,
)
from sluice.errors import Corrupt, Misconfigured, SluiceError
from sluice.testing.release import FEATURES, KEY, OPSET, TRUSTED, make_model, make_release

OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes([1] * 32))


def changed(reference: Reference, key: str, value: Any) -> Reference:
    return msgspec.structs.replace(reference, **{key: value})


def load_it(folder: Path) -> Any:
    return load(folder, TRUSTED, catalogue.FEATURES, "EUR")


def columns(*names: str) -> list[dict[str, str]]:
    """Features as a manifest names them; one that does not exist is called like one that does."""
    real = (catalogue.FEATURES[catalogue.INDEX.get(name, 0)] for name in names)
    return [
        msgspec.to_builtins(used(f)) | {"name": name} for f, name in zip(real, names, strict=True)
    ]


def resign(folder: Path, change: dict[str, Any]) -> None:
    """Change the manifest and sign it again, as its owner by mistake would."""
    manifest = msgspec.json.decode((folder / "manifest.json").read_bytes()) | change
    raw = msgspec.json.encode(manifest)
    (folder / "manifest.json").write_bytes(raw)
    (folder / "manifest.sig").write_bytes(sign(raw, KEY))


def test_what_others_test_with_ships_no_key_and_needs_no_onnx_before_it_makes_a_model() -> None:
    code = (
        "import sys; sys.modules['onnx'] = None\n"
        "from sluice.testing.release import KEY; from sluice.domain.release import key_id\n"
        "print(key_id(KEY.public_key()))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(said.stdout.strip()) == len(key_id(KEY.public_key()))
    assert said.stdout.strip() != key_id(KEY.public_key())


def test_a_whole_release_loads(tmp_path: Path) -> None:
    scorer = load_it(make_release(tmp_path / "r"))
    assert scorer.release == "test-1"
    assert scorer.tolerates == {"device"}


@pytest.mark.parametrize("name", ["model.onnx", "card.md", "manifest.json", "manifest.sig"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = make_release(tmp_path / "r")
    (folder / name).unlink()
    with pytest.raises(Misconfigured, match=name):
        load_it(folder)


@pytest.mark.parametrize("name", ["model.onnx", "card.md", "manifest.json"])
def test_every_flipped_byte_is_caught(tmp_path: Path, name: str) -> None:
    folder = make_release(tmp_path / "r")
    good = (folder / name).read_bytes()
    for at in range(0, len(good), max(1, len(good) // 40)):
        (folder / name).write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises(Corrupt):
            verify(folder, TRUSTED)


def test_a_file_that_was_exchanged_is_named_with_both_digests(tmp_path: Path) -> None:
    folder = make_release(tmp_path / "r")
    (folder / "card.md").write_text("# Better\n")
    found = hashlib.sha256(b"# Better\n").hexdigest()[:12]
    with pytest.raises(Corrupt, match=rf"card.md has the digest {found}"):
        load_it(folder)


def test_a_key_that_is_not_trusted_is_refused_by_id(tmp_path: Path) -> None:
    with pytest.raises(Corrupt, match="is not trusted"):
        load_it(make_release(tmp_path / "r", key=OTHER_KEY))


@pytest.mark.parametrize("signature", [b"", b"ed25519 x", b"\xff", b"ed25519 x !!", b"rsa a AAAA"])
def test_a_malformed_signature_is_refused(tmp_path: Path, signature: bytes) -> None:
    folder = make_release(tmp_path / "r")
    (folder / "manifest.sig").write_bytes(signature)
    with pytest.raises(Corrupt, match="signature"):
        load_it(folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"v": 1}, "v"),
        ({"catalogue": "0123"}, "unknown field `catalogue`"),
        ({"plan": "0" * 64}, "unknown field `plan`"),
        ({"features": list(FEATURES)}, "features"),
        ({"features": columns("amount_minor", "card_mood", *FEATURES[2:])}, "feature card_mood"),
        ({"features": columns(*FEATURES[:4], "is_ecom")}, "named twice"),
        ({"features": columns(*FEATURES[:4])}, "does not have 4 features"),
        ({"reference_currency": "USD"}, "trained on amounts in USD, the policy converts them to"),
        ({"opset": 12}, "opset 12"),
        ({"input": "x"}, "the manifest says x"),
        ({"output": "y"}, "and y"),
        ({"files": {}}, "files must name"),
        ({"mood": "good"}, "unknown field `mood`"),
        ({"tolerates": ["weather"]}, "weather"),
        ({"tolerance_ppm": 2}, "tolerance_ppm"),
        ({"variants": {"batch": "model.onnx"}}, "batch"),
        ({"variants": {"sync": "model.tflite"}}, "model.tflite"),
        ({"variants": {"sync": "model.int8.onnx"}}, "sync scores with model.int8.onnx, which is"),
        ({"warm_up": [{"features": [0] * 5, "score_ppm": 1, "int8_ppm": 1}]}, "1 of 1 rows have"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    folder = make_release(tmp_path / "r")
    resign(folder, change)
    with pytest.raises(Misconfigured, match=says):
        load_it(folder)


INT8 = "model.int8.onnx"


def with_int8(folder: Path, **changes: Any) -> Path:
    """model.onnx of seed 1, and in the other file's place a graph of seed 2."""
    return make_release(folder, others={INT8: make_model(seed=2)}, **changes)


def test_each_entrypoint_scores_with_its_variant(tmp_path: Path) -> None:
    folder = with_int8(tmp_path / "r", variants={"stream": INT8})
    rows = np.arange(8 * catalogue.N).reshape(8, -1)

    def by(entrypoint: Any) -> list[int]:
        scorer = load(folder, TRUSTED, catalogue.FEATURES, "EUR", entrypoint=entrypoint)
        return [int(ppm) for ppm in scorer.score(rows).ppm]

    assert by("sync") == by(None) != by("stream")
    directory = ReleaseDirectory(folder, TRUSTED, catalogue.FEATURES, "EUR", entrypoint="stream")
    fresh = directory.poll()
    assert fresh is not None
    assert fresh.score(rows).ppm.tolist() == by("stream")


def test_an_optional_file_is_covered_by_its_digest_like_the_rest(tmp_path: Path) -> None:
    folder = with_int8(tmp_path / "r")
    (folder / INT8).write_bytes(make_model(seed=3))
    with pytest.raises(Corrupt, match=f"{INT8} has the digest"):
        verify(folder, TRUSTED)
    (folder / INT8).unlink()
    with pytest.raises(Misconfigured, match=INT8):
        verify(folder, TRUSTED)


def test_a_variant_with_other_weights_is_caught_by_its_own_warm_up(tmp_path: Path) -> None:
    folder = make_release(
        tmp_path / "r", others={INT8: make_model(seed=9)}, variants={"sync": INT8}
    )
    assert load_it(folder).release == "test-1"
    with pytest.raises(Corrupt, match="warm-up row 0 scores"):
        load(folder, TRUSTED, catalogue.FEATURES, "EUR", entrypoint="sync")


def test_a_manifest_of_version_2_is_read_and_has_none_of_what_came_later(tmp_path: Path) -> None:
    old = make_release(tmp_path / "old", v=2)
    assert load(old, TRUSTED, catalogue.FEATURES, "EUR", entrypoint="stream").reference is None
    with pytest.raises(Misconfigured, match=r"files must name model.onnx and card.md alone"):
        verify(with_int8(tmp_path / "r", v=2), TRUSTED)


def reference(width: int = len(FEATURES)) -> Reference:
    rows = np.random.default_rng(1).integers(0, 50, (1000, width))
    return make_reference(rows, rows[:, 0], data="0" * 64, split="test", since=0, until=1)


def test_a_release_knows_the_population_it_was_made_for(tmp_path: Path) -> None:
    said = reference()
    folder = make_release(tmp_path / "r", others={"reference.json": msgspec.json.encode(said)})
    assert load_it(folder).reference == said
    assert load_it(make_release(tmp_path / "without")).reference is None


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (reference(4), "it has 4 inputs, the release 5"),
        (changed(reference(), "score", Distribution([3, 3], [0, 0, 1])), "do not rise"),
        (changed(reference(), "score", Distribution([3], [1])), "2"),
        (changed(reference(), "score", Distribution([3], [1, 1, 1])), "one share more"),
        (changed(reference(), "segments", [Segment(by="channel", value="ecom", rows=1,
         share_ppm=1, features=[], score=[1, 1])]), "channel ecom"),
        (changed(reference(), "rows", 1), "rows"),
    ],
    ids=range(6),
)  # fmt: skip
def test_a_reference_that_does_not_fit_is_refused(
    tmp_path: Path, wrong: Reference, says: str
) -> None:
    folder = make_release(tmp_path / "r", others={"reference.json": msgspec.json.encode(wrong)})
    with pytest.raises(Misconfigured, match=says):
        load_it(folder)


def test_shuffled_columns_are_refused_by_name(tmp_path: Path) -> None:
    folder = make_release(tmp_path / "r")
    resign(folder, {"features": columns(FEATURES[1], FEATURES[0], *FEATURES[2:])})
    with pytest.raises(Misconfigured, match=r"column 0 of the graph is amount_minor"):
        load_it(folder)


def test_a_graph_that_does_not_name_its_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="column 0 of the graph is not named"):
        load_it(make_release(tmp_path / "r", model=make_model([""] * len(FEATURES))))


def test_other_weights_are_caught_by_the_warm_up(tmp_path: Path) -> None:
    with pytest.raises(Corrupt, match="warm-up row 0 scores"):
        load_it(make_release(tmp_path / "r", model=make_model(seed=9)))


def test_a_model_of_another_width_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"not \(n, 5\) floats"):
        load_it(make_release(tmp_path / "r", model=make_model(FEATURES[:4])))


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="cannot load the model"):
        load_it(make_release(tmp_path / "r", model=b"not a model"))


def test_a_feature_more_or_elsewhere_in_the_catalogue_changes_nothing(tmp_path: Path) -> None:
    folder = make_release(tmp_path / "r")
    rows = np.arange(2 * catalogue.N).reshape(2, -1)
    before = load_it(folder).score(rows).ppm
    fresh = replace(catalogue.FEATURES[0], name="card_mood", description="Mood of the card")
    grown = (fresh, *catalogue.FEATURES)
    wider = np.hstack([np.full((2, 1), 7), rows])
    assert (load(folder, TRUSTED, grown, "EUR").score(wider).ppm == before).all()
    few = [f for f in catalogue.FEATURES if f.name in FEATURES]
    fewer = rows[:, [catalogue.INDEX[f.name] for f in few]]
    assert (load(folder, TRUSTED, few, "EUR").score(fewer).ppm == before).all()


@pytest.mark.parametrize(
    "change",
    [{"operation": catalogue.MEAN}, {"a": "card.count.6h"}, {"window": "6h"}, {"unit": "flag"},
     {"default": 1}, {"entity": "context"}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_a_feature_that_is_defined_otherwise_is_named(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    folder = make_release(tmp_path / "r")
    at = catalogue.INDEX["card_count_1h"]
    features = list(catalogue.FEATURES)
    features[at] = replace(features[at], **change)
    with pytest.raises(Misconfigured, match="card_count_1h is defined otherwise: here it is") as no:
        load(folder, TRUSTED, features, "EUR")
    assert features[at].definition in str(no.value)


def test_a_feature_is_called_and_grouped_as_one_likes(tmp_path: Path) -> None:
    renamed = [replace(f, description="Another word", group="place") for f in catalogue.FEATURES]
    assert load(make_release(tmp_path / "r"), TRUSTED, renamed, "EUR").release == "test-1"


def test_a_feature_that_the_kernel_computes_otherwise_is_named_with_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_release(tmp_path / "r")
    monkeypatch.setitem(catalogue.VERSIONS, "tile.frauds", 2)
    says = (
        "terminal_frauds_7d is computed by another version of the kernel: "
        "here it is terminal.frauds.7d version 2 window_s 604800; at"
    )
    with pytest.raises(Misconfigured, match=says):
        load_it(folder)
    monkeypatch.setitem(catalogue.VERSIONS, "card.count", 2)
    with pytest.raises(Misconfigured, match=r"card_count_1h .* and 1 more differ"):
        load_it(folder)


def test_a_register_that_no_column_uses_may_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_release(tmp_path / "r")
    monkeypatch.setitem(catalogue.VERSIONS, "card.speed_kmh", 2)
    assert load_it(folder).release == "test-1"


def test_trust_is_a_file_or_a_folder_of_keys(tmp_path: Path) -> None:
    folder = tmp_path / "trust"
    folder.mkdir()
    (folder / "a.pub").write_text("# ours\n" + public_line(KEY.public_key(), "a"))
    (folder / "b.pub").write_text(public_line(OTHER_KEY.public_key(), "b"))
    assert len(read_trust(folder).keys) == 2
    assert len(read_trust(folder / "a.pub").keys) == 1


@pytest.mark.parametrize("text", ["", "ed25519", "ed25519 AAAA x", "rsa AAAA x", "ed25519 ** x"])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(Misconfigured, match="key"):
        parse_trust(text, "trust")


def swap(folder: Path, fresh: Path) -> None:
    shutil.rmtree(folder)
    fresh.rename(folder)


def test_a_directory_follows_its_folder_and_keeps_the_last_good_release(tmp_path: Path) -> None:
    folder = make_release(tmp_path / "current")
    directory = ReleaseDirectory(folder, TRUSTED, catalogue.FEATURES, "EUR")
    assert directory.current() is None
    first = directory.poll()
    assert first is directory.current()
    assert directory.poll() is None

    swap(folder, make_release(tmp_path / "bad", id="bad", key=OTHER_KEY))
    with pytest.raises(Corrupt, match="not trusted"):
        directory.poll()
    assert directory.poll() is None
    assert directory.current() is first
    assert "not trusted" in str(directory.refused)

    swap(folder, make_release(tmp_path / "next", id="next", seed=2))
    second = directory.poll()
    assert second is directory.current()
    assert second is not None
    assert second.release == "next"
    assert directory.refused is None


def test_a_release_that_nobody_vouched_for_is_looked_at_again_when_its_key_is_trusted(
    tmp_path: Path,
) -> None:
    trust = tmp_path / "trust"
    trust.mkdir()
    (trust / "a.pub").write_text(public_line(KEY.public_key(), "a"))
    trusted = TrustFolder(trust, read_trust, SystemClock())
    folder = make_release(tmp_path / "r", key=OTHER_KEY)
    directory = ReleaseDirectory(folder, trusted, catalogue.FEATURES, "EUR")
    with pytest.raises(Corrupt, match="not trusted"):
        directory.poll()
    assert directory.poll() is None
    (trust / "b.pub").write_text(public_line(OTHER_KEY.public_key(), "b"))
    assert trusted.poll()
    found = directory.poll()
    assert found is not None
    assert (found.signer, len(found.digest)) == (key_id(OTHER_KEY.public_key()), 64)
    (trust / "b.pub").unlink()
    assert trusted.poll()
    assert directory.poll() is None, "what scores is not looked at again"


def test_a_link_swaps_a_release_at_once(tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(make_release(tmp_path / "one", id="one"))
    directory = ReleaseDirectory(link, TRUSTED, catalogue.FEATURES, "EUR")
    directory.poll()
    fresh = tmp_path / "fresh"
    fresh.symlink_to(make_release(tmp_path / "two", id="two"))
    fresh.replace(link)
    second = directory.poll()
    assert second is not None
    assert second.release == "two"


def test_without_a_first_release_the_reason_is_raised_once(tmp_path: Path) -> None:
    directory = ReleaseDirectory(tmp_path / "none", TRUSTED, catalogue.FEATURES, "EUR")
    with pytest.raises(SluiceError, match=r"model\.onnx"):
        directory.poll()
    assert directory.poll() is None
    assert directory.current() is None
    make_release(tmp_path / "none")
    assert directory.poll() is directory.current()


def graph(*nodes: tuple[str, list[str], list[str]], **constants: Any) -> bytes:
    """An ONNX model from ``features`` to ``probability`` over constants by name."""
    from onnx import TensorProto, helper, numpy_helper

    made = helper.make_graph(
        [helper.make_node(*node) for node in nodes],
        "test",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", len(FEATURES)])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(made, opset_imports=opsets, ir_version=9)
    helper.set_model_props(model, {FEATURES_KEY: ",".join(FEATURES)})
    raw: bytes = model.SerializeToString()
    return raw


MEMORY_EATER = graph(
    ("ConstantOfShape", ["shape"], ["large"]),
    ("ReduceMax", ["large"], ["most"]),
    ("ReduceSum", ["features", "axis"], ["sum"]),
    ("Add", ["most", "sum"], ["probability"]),
    shape=np.array([1 << 29], np.int64),
    axis=np.array([1], np.int64),
)
ONE_FOR_ALL = graph(("ReduceMean", ["features"], ["mean"]), ("Sigmoid", ["mean"], ["probability"]))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (MEMORY_EATER, "cannot load the model|onnxruntime failed|too much memory"),
        (ONE_FOR_ALL, "gave 1 numbers for 8 rows"),
    ],
)
def test_a_signed_graph_that_does_harm_is_refused_and_the_last_good_one_stays(
    tmp_path: Path, model: bytes, says: str
) -> None:
    folder = make_release(tmp_path / "current")
    directory = ReleaseDirectory(folder, TRUSTED, catalogue.FEATURES, "EUR")
    good = directory.poll()
    swap(folder, make_release(tmp_path / "bad", id="bad", model=model))
    with pytest.raises(SluiceError, match=says):
        directory.look()
    assert directory.look() is None
    assert directory.current() is good
    assert directory.refused is not None


def test_a_graph_that_takes_too_long_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_release(tmp_path / "r")
    monkeypatch.setattr(release, "ROWS_MAX_S", 0.0)
    with pytest.raises(Misconfigured, match="scoring 5 rows took") as caught:
        load_it(folder)
    assert caught.value.code == TOO_SLOW
    monkeypatch.setattr(release, "LOAD_MAX_S", 0.0)
    with pytest.raises(Misconfigured, match="loading the graph took") as caught:
        load_it(folder)
    assert caught.value.code == TOO_SLOW


@pytest.mark.parametrize("change", [{"reference_row": [2**63] * 5}, {"reference_row": [-(2**70)]}])
def test_a_number_that_no_column_can_hold_is_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    folder = make_release(tmp_path / "r")
    resign(folder, change)
    with pytest.raises(Misconfigured, match="reference_row"):
        load_it(folder)


@pytest.mark.parametrize("name", ["model.onnx", "card.md", "manifest.json", "manifest.sig"])
def test_what_is_no_file_or_too_large_is_refused_and_not_read(tmp_path: Path, name: str) -> None:
    folder = make_release(tmp_path / "r")
    os.truncate(folder / name, MAX_BYTES[name] + 1)
    with pytest.raises(Misconfigured, match=f"bytes; at .*{name}") as caught:
        load_it(folder)
    assert caught.value.code == TOO_LARGE
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(Misconfigured, match=f"no regular file; at .*{name}") as caught:
        load_it(folder)
    assert caught.value.code == NOT_REGULAR


def test_a_key_file_that_is_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.pub")
    with pytest.raises(Misconfigured, match="no regular file"):
        read_trust(tmp_path)


# ---------------------------------------------------------------- a folder of releases


def test_of_a_folder_of_releases_the_named_one_is_followed(tmp_path: Path) -> None:
    make_release(tmp_path / "test-1")
    make_release(tmp_path / "test-2", seed=2)
    named: list[str | SluiceError] = ["test-1"]

    def name() -> str:
        if isinstance(named[0], SluiceError):
            raise named[0]
        return named[0]

    folder = ReleaseDirectory(tmp_path, TRUSTED, catalogue.FEATURES, "EUR", named=name)
    first = folder.poll()
    assert first is not None
    assert first.release == "test-1"
    assert folder.poll() is None
    named[0] = Corrupt("nobody signed it")
    with pytest.raises(Corrupt, match="nobody signed it"):
        folder.poll()
    assert folder.poll() is None  # said once
    assert folder.refused is not None
    assert folder.current() is first
    named[0] = "test-2"
    second = folder.poll()
    assert second is not None
    assert second.release == "test-2"
    assert folder.refused is None
