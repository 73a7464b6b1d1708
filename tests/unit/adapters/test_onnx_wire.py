import onnx
import pytest

from sluice.adapters.onnx.scorer import graph_of
from sluice.adapters.onnx.wire import named, opset_of
from sluice.errors import Misconfigured
from sluice.testing.release import FEATURES, OPSET, make_model


def test_the_opset_is_that_of_the_default_domain_wherever_it_stands() -> None:
    assert opset_of(make_model()) == OPSET
    model = onnx.load_from_string(make_model())
    first = onnx.helper.make_opsetid("ai.onnx.ml", 5)
    model.opset_import.insert(0, first)
    assert opset_of(model.SerializeToString()) == OPSET


def test_columns_are_named_as_the_onnx_package_would_read_them() -> None:
    model = onnx.load_from_string(make_model())
    del model.metadata_props[:]
    bare = model.SerializeToString()
    with pytest.raises(Misconfigured, match="does not name its columns"):
        graph_of(bare)
    many = [*FEATURES, "x" * 200]  # longer than one byte of length can say
    again = onnx.load_from_string(named(bare, many))
    assert {p.key: p.value for p in again.metadata_props} == {"sluice.features": ",".join(many)}
    assert graph_of(named(bare, FEATURES)).features == list(FEATURES)


@pytest.mark.parametrize("raw", [b"", b"\xff" * 12, b"\x42\x7f", make_model()[:-3], b"hello world"])
def test_what_is_no_onnx_file_is_refused_and_not_read_past_its_end(raw: bytes) -> None:
    with pytest.raises(Misconfigured):
        opset_of(raw[:40])
