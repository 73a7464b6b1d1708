"""The two things that packing needs of an ONNX file and onnxruntime does not tell: its opset, and
a place for the names of its columns. Read and written as protobuf's wire format, without the onnx
package (20 MB, and the image does not have it)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sluice.domain.release import FEATURES_KEY
from sluice.errors import Misconfigured

_OPSET_IMPORT, _METADATA_PROPS = 8, 14
"""Fields of ModelProto (onnx.proto); of OperatorSetIdProto: domain 1, version 2; of
StringStringEntryProto: key 1, value 2."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
VARINT_MAX = 10
"""Bytes of one."""


def opset_of(model: bytes) -> int:
    """Version of the default domain's operators. Raises Misconfigured for what is no ONNX file."""
    for number, value in _fields(model):
        if number == _OPSET_IMPORT and isinstance(value, bytes):
            entry = dict(_fields(value))
            if entry.get(1, b"") in {b"", b"ai.onnx"} and isinstance(entry.get(2), int):
                return int(entry[2])
    raise Misconfigured("the model does not say its opset", fix="export it again")


def named(model: bytes, columns: Sequence[str]) -> bytes:
    """The same model with its columns by name in its metadata; it must not name any yet. Two parts
    of one message may follow one another, so nothing of it is written anew."""
    entry = _bytes(1, FEATURES_KEY.encode()) + _bytes(2, ",".join(columns).encode())
    return model + _bytes(_METADATA_PROPS, entry)


def _bytes(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _fields(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of a message's fields, in order."""
    at = 0
    while at < len(raw):
        tag, at = _read(raw, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _read(raw, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = _read(raw, at)
        elif kind in {_FIXED64, _FIXED32}:
            size = 8 if kind == _FIXED64 else 4
        else:
            raise Misconfigured("no ONNX file")
        if at + size > len(raw):
            raise Misconfigured("the ONNX file ends too early")
        yield number, raw[at : at + size]
        at += size


def _read(raw: bytes, at: int) -> tuple[int, int]:
    value = 0
    for i in range(VARINT_MAX):
        if at + i >= len(raw):
            break
        value |= (raw[at + i] & 0x7F) << 7 * i
        if raw[at + i] < 0x80:
            return value, at + i + 1
    raise Misconfigured("no ONNX file")
