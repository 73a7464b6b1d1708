"""Open Inference Protocol v2 over REST, with Triton's binary tensor extension.

Two inputs are understood, one a request: ``features`` INT64 [n, f] gives ``score_ppm`` INT64 [n];
``authorizations`` BYTES [n] gives ``answer`` BYTES [n]. Sources: the protocol's
required_api.md, and Triton's extension_binary_data.md.

A stranger's numbers are counted and typed before a list or an array is made of them: numpy makes
64 bytes a character of the longest text of an array of texts, gigabytes from one request.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from sluice.domain.records.repeated_keys import repeats_a_key
from sluice.errors import Rejected

T = TypeVar("T")
MAX_INFER_BYTES = 4 * 1024 * 1024
"""512 rows of 60 features take 250 KB in binary and about 2 MB in JSON."""
MAX_ROWS = 512
NESTED_MAX_PER_ROW, MEMBERS_MAX_PER_ROW = 8, 64
"""Lists and objects of a request, and commas besides those of features, for each of MAX_ROWS: a row
has one object of at most 17 members."""
MAX_ID = 256
"""Characters of a request's id, which the response repeats."""
FEATURES, AUTHORIZATIONS, SCORES, ANSWERS = "features", "authorizations", "score_ppm", "answer"
JSON_LENGTH_HEADER = b"inference-header-content-length"
Input = Literal["features", "authorizations"]
_SERVED_BY: dict[str, str] = {
    FEATURES: "rows of features are scored on service.admin_port",
    AUTHORIZATIONS: "authorizations are decided on decider.port",
}
_DATATYPES = {FEATURES: "INT64", AUTHORIZATIONS: "BYTES"}
_KNOWN = {
    *("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
    *("FP16", "FP32", "FP64", "BF16", "BYTES"),
}
"""Datatypes of the protocol: only these are named in an error."""
_ABSENT = (b"", b"null")


class _Parameters(msgspec.Struct, frozen=True):
    """Those we know; others are passed over."""

    binary_data_size: Annotated[int, Meta(ge=0, le=MAX_INFER_BYTES)] | None = None
    binary_data: bool = False
    binary_data_output: bool = False


class _Tensor(msgspec.Struct):
    name: str
    shape: Annotated[list[int], Meta(max_length=2)]
    datatype: str
    data: msgspec.Raw = msgspec.Raw()
    parameters: _Parameters = _Parameters()


class _Wanted(msgspec.Struct):
    name: str
    parameters: _Parameters = _Parameters()


class _Request(msgspec.Struct):
    inputs: list[_Tensor]
    id: Annotated[str, Meta(max_length=MAX_ID)] = ""
    outputs: list[_Wanted] = []
    parameters: _Parameters = _Parameters()


class _Instances(msgspec.Struct):
    instances: list[msgspec.Raw]


class Inference(msgspec.Struct):
    """A request understood: exactly one of features (n, f) and authorizations (n,) is set."""

    id: str
    features: npt.NDArray[np.int64] | None
    authorizations: list[bytes] | None
    binary_output: bool


_Integer = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_decoder = msgspec.json.Decoder(_Request)
_flat_decoder = msgspec.json.Decoder(list[_Integer])
_rows_decoder = msgspec.json.Decoder(list[list[_Integer]])
_texts_decoder = msgspec.json.Decoder(list[str])
_instances_decoder = msgspec.json.Decoder(_Instances)
_encoder = msgspec.json.Encoder()


def _wrong(what: str) -> Rejected:
    return Rejected(what, code="invalid_inference")


def _read(decoder: msgspec.json.Decoder[T], text: bytes | msgspec.Raw, what: str) -> T:
    """Raises Rejected with ``what``: a decoder's own message may repeat a value."""
    try:
        return decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _wrong(what) from None


def decode(body: bytes, json_length: int | None, *, columns: int, served: Input) -> Inference:
    """Read one request. json_length: value of the header for binary data, None without it.
    served: the input that this port takes.

    Raises Rejected (invalid_inference, too_large, not_on_this_port); the error never repeats a
    value.
    """
    if json_length is not None and not 0 < json_length <= len(body):
        raise _wrong("inference-header-content-length does not fit the body")
    header, blob = (body, b"") if json_length is None else (body[:json_length], body[json_length:])
    request = _read(_decoder, header, "the body is not an inference request")
    if len(request.inputs) != 1:
        raise _wrong("send one input tensor")
    tensor = request.inputs[0]
    if tensor.name in _SERVED_BY and tensor.name != served:
        raise Rejected(_SERVED_BY[tensor.name], code="not_on_this_port")
    wanted = SCORES if tensor.name == FEATURES else ANSWERS
    if any(output.name != wanted for output in request.outputs):
        raise _wrong(f"the output of this input is {wanted}")
    binary = request.parameters.binary_data_output or any(
        output.parameters.binary_data for output in request.outputs
    )
    if tensor.shape and tensor.shape[0] > MAX_ROWS:
        raise Rejected(f"at most {MAX_ROWS} rows are judged at once", code="too_large")
    expected = _DATATYPES.get(tensor.name)
    if expected not in (None, tensor.datatype):
        sent = tensor.datatype if tensor.datatype in _KNOWN else "one unknown to the protocol"
        raise _wrong(f"the datatype of {tensor.name} is {expected}, not {sent}")
    raw = _blob(tensor, blob)
    understood = _understood(request, tensor, raw, columns, binary)
    _no_key_twice(header, columns)
    return understood


def _understood(
    request: _Request, tensor: _Tensor, raw: bytes | None, columns: int, binary: bool
) -> Inference:
    if tensor.name == FEATURES and tensor.datatype == "INT64":
        return Inference(request.id, _features(tensor, raw, columns), None, binary)
    if tensor.name == AUTHORIZATIONS and tensor.datatype == "BYTES":
        return Inference(request.id, None, _texts(tensor, raw), binary)
    raise _wrong(f"the input is {FEATURES} INT64 [n, {columns}] or {AUTHORIZATIONS} BYTES [n]")


def decode_instances(body: bytes) -> list[bytes]:
    """The rows of a request of KServe's V1 protocol, each as it was sent. Raises Rejected."""
    request = _read(_instances_decoder, body, 'the body is not {"instances": [...]}')
    if len(request.instances) > MAX_ROWS:
        raise Rejected(f"at most {MAX_ROWS} rows are judged at once", code="too_large")
    if not request.instances:
        raise _wrong("there are no instances")
    _no_key_twice(body, 0, outermost=True)  # a row that has one is refused by itself
    return [bytes(instance) for instance in request.instances]


def _no_key_twice(text: bytes, columns: int, *, outermost: bool = False) -> None:
    """Refuse an object that has a key twice; and what holds more than a request can need, in fields
    that nobody knows, before objects are made of it."""
    if (
        text.count(b"[") + text.count(b"{") > NESTED_MAX_PER_ROW * MAX_ROWS
        or text.count(b",") > (columns + MEMBERS_MAX_PER_ROW) * MAX_ROWS
    ):
        raise _wrong("the request holds more lists, objects or values than its rows can need")
    if repeats_a_key(text, outermost=outermost):
        raise _wrong("an object of the request has a key twice")


def encode_predictions(answers: list[bytes]) -> bytes:
    """The response of KServe's V1 protocol: answers and problems are JSON already."""
    return _encoder.encode({"predictions": [msgspec.Raw(answer) for answer in answers]})


def _blob(tensor: _Tensor, blob: bytes) -> bytes | None:
    size = tensor.parameters.binary_data_size
    absent = bytes(tensor.data) in _ABSENT
    if size is None:
        if blob or absent:
            raise _wrong("the tensor has neither data nor binary_data_size")
        return None
    if size != len(blob) or not absent:
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
    text = bytes(tensor.data)
    unfit = "the data is not rows of 64-bit integers, or does not fit the shape"
    if text.count(b",") != rows * columns - 1 or text.count(b"[") not in (1, rows + 1):
        raise _wrong(unfit)
    if text.count(b"[") == 1:
        values = _read(_flat_decoder, text, unfit)
    else:
        nested = _read(_rows_decoder, text, unfit)
        if any(len(row) != columns for row in nested):
            raise _wrong(unfit)
        values = [value for row in nested for value in row]
    if len(values) != rows * columns:
        raise _wrong(unfit)
    return np.array(values, np.int64).reshape(rows, columns)


def _texts(tensor: _Tensor, raw: bytes | None) -> list[bytes]:
    if raw is None:
        found = _read(_texts_decoder, tensor.data, "the data is not a list of texts")
        texts = [text.encode() for text in found]
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
