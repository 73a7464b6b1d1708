"""Columns for a flat record, from the types of its fields: a new field has its column."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

import msgspec
import pyarrow as pa

from sluice.domain.records.texts import base_types


def arrow_types(record: type[msgspec.Struct]) -> dict[str, pa.DataType]:
    """Column type of each field of a flat record, in its order; ``v`` is no column.

    Raises AssertionError naming a field that fits into no column.
    """
    return {
        name: _arrow_type(f"{record.__name__}.{name}", kind)
        for name, kind in base_types(record).items()
        if name != "v"
    }


def _arrow_type(where: str, kind: Any) -> pa.DataType:
    values = get_args(kind) if get_origin(kind) is Literal else ()
    if kind is bool:
        return pa.bool_()
    if kind is int:
        return pa.int64()
    if (values and all(isinstance(value, str) for value in values)) or (
        isinstance(kind, type) and issubclass(kind, str)
    ):
        return pa.string()
    raise AssertionError(f"{where} is of type {kind!r}, for which no column is known")
