"""The one way in which we read YAML: mappings, settings, clients, policies, releases, simulations.

A key given twice is refused, where a YAML library would silently take the last. What lies in a file
may have been written by anyone, so it is read within limits of depth, number and length.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
import yaml

from sluice.errors import Misconfigured

MAX_DEPTH = 20
"""Brackets in brackets; our schemas have 6. libyaml's stack ends at some ten thousand."""
MAX_NODES = 20_000
"""Keys and values of one file; 62 rules and every currency are 2,000."""
MAX_SCALAR = 1_000
"""Characters of one of them; PyYAML makes numbers of very long ones in quadratic time."""
TOO_DEEP, TOO_LARGE = "too_deep", "too_large"
"""Codes of a refusal."""

T = TypeVar("T")


class _Loader(yaml.CSafeLoader):
    """Safe YAML that refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value} is given twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def decode(raw: bytes, where: str, *, nodes_max: int = MAX_NODES) -> Any:
    """What a file holds, as lists, dicts, texts and numbers; None where it is empty.

    where: names the file in an error. Raises Misconfigured with the place: no YAML, a key given
    twice, an alias, anything past a limit.
    """
    try:
        text = raw.decode("utf-8-sig")
        _look_over(text, where, nodes_max)
        return yaml.load(text, _Loader)
    except (Misconfigured, MemoryError):
        raise
    except Exception as exc:  # a bad date, a list for a key: its errors share no base
        raise Misconfigured(f"not YAML: {exc}", where=where) from exc


def decode_as(kind: type[T], raw: bytes, where: str, *, fix: str, nodes_max: int = MAX_NODES) -> T:
    """The same as a type of ours. fix: where its keys are listed. Raises Misconfigured with the
    key."""
    tree = decode(raw, where, nodes_max=nodes_max)
    try:
        return msgspec.convert(tree, kind)
    except msgspec.ValidationError as exc:
        raise Misconfigured(str(exc), where=where, fix=fix) from exc


def _look_over(text: str, where: str, nodes_max: int) -> None:
    """Read what it is made of, and build nothing. Raises Misconfigured, or YAML's own errors."""
    depth = nodes = 0
    for event in yaml.parse(text, yaml.CSafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise Misconfigured(
                "an alias (*) is not read, for it can stand for any amount",
                where=f"{where}:{event.start_mark.line + 1}",
                fix="write out what it stands for",
            )
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > MAX_SCALAR:
            raise Misconfigured(
                f"a value of over {MAX_SCALAR:,} characters",
                where=f"{where}:{event.start_mark.line + 1}",
                code=TOO_LARGE,
            )
        nodes += isinstance(event, yaml.NodeEvent)
        if nodes > nodes_max:
            raise Misconfigured(f"over {nodes_max:,} keys and values", where=where, code=TOO_LARGE)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise Misconfigured(
                    f"brackets or indents over {MAX_DEPTH} deep", where=where, code=TOO_DEEP
                )
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
