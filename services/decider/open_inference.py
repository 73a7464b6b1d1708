"""Open Inference Protocol v2 over REST, with Triton's binary tensor extension.

Two inputs are understood, one a request: ``features`` INT64 [n, f] gives ``score_ppm`` INT64 [n];
``authorizations`` BYTES [n] gives ``answer`` BYTES [n]. Sources: the protocol's
required_api.md, and Triton's extension_binary_data.md.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from sluice.errors import Rejected

MAX_INFER_BYTES = 4 * 1024 * 1024
"""512 rows of 60 features take 250 KB in binary and about 2 MB in JSON."""
MAX_ROWS = 512
FEATURES, AUTHORIZATIONS, SCORES, ANSWERS = "features", "authorizations", "score_ppm", "answer"
JSON_LENGTH_HEADER = b"inference-header-content-length"

_Parameters = dict[str, Any]


class _Tensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: Literal["INT64", "BYTES"]
    data: list[Any] | None = None
    parameters: _Parameters = {}


class _Wanted(msgspec.Struct):
    name: str
    parameters: _Parameters = {}


class _Request(msgspec.Struct):
    inputs: list[_Tensor]
    id: str = ""
    outputs: list[_Wanted] = []
    parameters: _Parameters = {}


class Inference(msgspec.Struct):
    """A request understood: exactly one of features (n, f) and authorizations (n,) is set."""

    id: str
    features: npt.NDArray[np.int64] | None
    authorizations: list[bytes] | None
    binary_output: bool


_decoder = msgspec.json.Decoder(_Request)
_encoder = msgspec.json.Encoder()


def _wrong(what: str) -> Rejected:
    return Rejected(what, code="invalid_inference")


def decode(body: bytes, json_length: int | None, *, columns: int) -> Inference:
    """Read one request. json_length: value of the header for binary data, None without it.

    Raises Rejected (invalid_inference, too_large); the error never repeats a value.
    """
    if json_length is not None and not 0 < json_length <= len(body):
        raise _wrong("inference-header-content-length does not fit the body")
    header, blob = (body, b"") if json_length is None else (body[:json_length], body[json_length:])
    try:
        request = _decoder.decode(header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _wrong("the body is not an inference request") from None
    if len(request.inputs) != 1:
        raise _wrong("send one input tensor")
    tensor = request.inputs[0]
    raw = _blob(tensor, blob)
    wanted = SCORES if tensor.name == FEATURES else ANSWERS
    if any(output.name != wanted for output in request.outputs):
        raise _wrong(f"the output of this input is {wanted}")
    binary = request.parameters.get("binary_data_output") is True or any(
        output.parameters.get("binary_data") is True for output in request.outputs
    )
    if tensor.shape and tensor.shape[0] > MAX_ROWS:
        raise Rejected(f"at most {MAX_ROWS} rows are judged at once", code="too_large")
    if tensor.name == FEATURES and tensor.datatype == "INT64":
        return Inference(request.id, _features(tensor, raw, columns), None, binary)
    if tensor.name == AUTHORIZATIONS and tensor.datatype == "BYTES":
        return Inference(request.id, None, _texts(tensor, raw), binary)
    raise _wrong(f"the input is {FEATURES} INT64 [n, {columns}] or {AUTHORIZATIONS} BYTES [n]")


def _blob(tensor: _Tensor, blob: bytes) -> bytes | None:
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        if blob or tensor.data is None:
            raise _wrong("the tensor has neither data nor binary_data_size")
        return None
    if size != len(blob) or tensor.data is not None:
        raise _wrong("binary_data_size does not fit the body")
    return blob


def _features(tensor: _Tensor, raw: bytes | None, columns: int) -> npt.NDArray[np.int64]:
    rows = tensor.shape[0] if tensor.shape else 0
    if tensor.shape != [rows, columns] or rows < 1:
        raise _wrong(f"the shape of {FEATURES} is [n, {columns}]")
    if raw is not None:
        if len(raw) != rows * columns * 8:
            raise _wrong("the shape does not fit the binary data")
        return np.frombuffer(raw, "<i8").reshape(rows, columns).astype(np.int64)
    try:
        values = np.array(tensor.data)
    except ValueError:
        raise _wrong("the data is ragged") from None
    if values.dtype.kind != "i" or values.size != rows * columns:
        raise _wrong("the data is not rows of 64-bit integers, or does not fit the shape")
    return values.astype(np.int64).reshape(rows, columns)


def _texts(tensor: _Tensor, raw: bytes | None) -> list[bytes]:
    if raw is None:
        texts = [t.encode() for t in tensor.data or () if isinstance(t, str)]
    else:
        texts, at = [], 0
        while at + 4 <= len(raw) and len(texts) <= MAX_ROWS:
            end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
            texts.append(raw[at + 4 : end])
            at = end
        if at != len(raw):
            raise _wrong("the binary data is not length-prefixed texts")
    if not texts or tensor.shape not in ([len(texts)], [len(texts), 1]):
        raise _wrong(f"{AUTHORIZATIONS} holds n texts in shape [n]")
    return texts


def encode(
    request: Inference, result: npt.NDArray[np.int64] | list[bytes], *, model: str, version: str
) -> tuple[bytes, int | None]:
    """The response's body, and the length of its JSON part if binary data follows.

    result: (n,) scores or answers.
    """
    scores = isinstance(result, np.ndarray)
    output: dict[str, Any] = {
        "name": SCORES if scores else ANSWERS,
        "datatype": "INT64" if scores else "BYTES",
        "shape": [len(result)],
    }
    blob = b""
    if request.binary_output:
        if isinstance(result, np.ndarray):
            blob = result.astype("<i8").tobytes()
        else:
            blob = b"".join(len(text).to_bytes(4, "little") + text for text in result)
        output["parameters"] = {"binary_data_size": len(blob)}
    else:
        output["data"] = (
            result.tolist() if isinstance(result, np.ndarray) else [t.decode() for t in result]
        )
    response = {"model_name": model, "model_version": version, "outputs": [output]}
    if request.id:
        response["id"] = request.id
    text = _encoder.encode(response)
    return (text + blob, len(text)) if request.binary_output else (text, None)
