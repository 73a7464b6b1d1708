"""A policy pack is a folder: ``policy.yaml``, ``fx.yaml`` and the lists that it names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from sluice.domain.policy.fx import Fx
from sluice.domain.policy.policy import Pack, Policy
from sluice.domain.policy.rules import FeatureLike
from sluice.domain.records.card_numbers import holds_card_number
from sluice.errors import Misconfigured

MAX_FILE_BYTES = 100_000_000
"""The longest list that fits, a million identifiers of 64 bytes, with room for comments."""
_MAX_ENTRY = 64

T = TypeVar("T")
Signature = tuple[tuple[str, int, int, int], ...]


class _Loader(yaml.CSafeLoader):
    """Safe YAML that refuses a key given twice; PyYAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value} is given twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_policy(folder: Path, features: Sequence[FeatureLike]) -> Policy:
    """Read and compile the pack in a folder; its name is the folder's.

    Raises Misconfigured with file, place and reason: a missing or unreadable file, wrong YAML, an
    unknown key, a wrong type, an unknown feature or reason, a list entry that is no identifier.
    """
    pack = _read(folder / "policy.yaml", Pack)
    fx = _read(folder / "fx.yaml", Fx)
    lists = {spec.file: _entries(folder / spec.file) for spec in pack.lists}
    return Policy(folder.resolve().name, pack, fx, lists, features)


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise Misconfigured(f"the file is over {MAX_FILE_BYTES} bytes", where=str(path))
        return path.read_bytes()
    except OSError as exc:
        raise Misconfigured(
            f"cannot read the file: {exc.strerror}",
            where=str(path),
            fix="a policy pack is a folder with policy.yaml, fx.yaml and its lists",
        ) from exc


def _read(path: Path, kind: type[T]) -> T:
    try:
        loaded = yaml.load(_bytes(path).decode(), _Loader)
        return msgspec.convert(loaded, kind)
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise Misconfigured(f"not YAML: {exc}", where=str(path)) from exc
    except msgspec.ValidationError as exc:
        raise Misconfigured(
            str(exc), where=str(path), fix="docs/reference/policy.md lists every key"
        ) from exc


def _entries(path: Path) -> list[str]:
    """Identifiers of a list. An error never repeats an entry: it may be a card number."""
    try:
        lines = _bytes(path).decode().splitlines()
    except UnicodeDecodeError as exc:
        raise Misconfigured("not UTF-8", where=str(path)) from exc
    entries = []
    for number, line in enumerate(lines, 1):
        entry = line.partition("#")[0].strip()
        if not entry:
            continue
        if (
            len(entry) > _MAX_ENTRY
            or not entry.isascii()
            or not entry.isprintable()
            or " " in entry
        ):
            raise Misconfigured("not an identifier", where=f"{path}:{number}")
        if holds_card_number(entry):
            raise Misconfigured(
                "the entry looks like a card number",
                where=f"{path}:{number}",
                fix="list the card's token; numbers never enter",
            )
        entries.append(entry)
    return entries


class PolicyFiles:
    """A pack that follows its folder.

    :meth:`current` is always a whole, checked pack; :meth:`poll` swaps it in one assignment.
    """

    def __init__(self, folder: Path, features: Sequence[FeatureLike]) -> None:
        """Read the pack now. Raises Misconfigured: nothing starts on a broken pack."""
        self._folder = folder
        self._features = features
        self._seen = self._signature()
        self._policy = read_policy(folder, features)
        self.refused: Misconfigured | None = None
        """Why the pack now on disk is not the one in use; None while it is."""

    def current(self) -> Policy:
        """The policy in force."""
        return self._policy

    def poll(self) -> Policy | None:
        """Look for a change. Returns the new policy, or None if it stays.

        A broken pack, or one of another reference currency, raises Misconfigured once; the last
        good one stays in force and the reason in ``refused`` until the files change again. Costs a
        stat of each file.
        """
        before = self._signature()
        if before == self._seen:
            return None
        try:
            fresh = read_policy(self._folder, self._features)
            self._check_reference(fresh)
        except Misconfigured as error:
            if self._signature() != before:
                return None  # caught in the middle of a write: look again at the next poll
            self._seen, self.refused = before, error
            raise
        if self._signature() != before:
            return None
        self._seen, self.refused = before, None
        if fresh.digest == self._policy.digest:
            return None
        self._policy = fresh
        return fresh

    def _check_reference(self, fresh: Policy) -> None:
        now, then = self._policy.fx.reference, fresh.fx.reference
        if now != then:
            raise Misconfigured(
                f"the reference currency is {then}, this process decides in {now}",
                where=str(self._folder / "fx.yaml"),
                fix="states and the release hold amounts in it: both change with it, and a restart",
            )

    def _signature(self) -> Signature:
        """Name, size, inode and time of every file: changes whenever one is written."""
        found = []
        for path in sorted(self._folder.rglob("*")):
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            if path.suffix in {".yaml", ".txt"}:
                found.append((str(path), stat.st_size, stat.st_ino, stat.st_mtime_ns))
        return tuple(found)
