"""A policy pack is a folder: ``policy.yaml``, ``fx.yaml`` and the lists that it names.

What lies there may have been written by anyone. It is read within limits of size, depth and number,
by :func:`read_policy`; a pack that comes while a process runs is read by another one first
(:mod:`sluice.adapters.other_process`), which hands over what it understood.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import msgspec

from sluice.adapters.other_process import NOT_STARTED, apart
from sluice.adapters.regular_files import TOO_LARGE, read_regular, stamp
from sluice.domain.features import catalogue
from sluice.domain.policy.fx import Fx
from sluice.domain.policy.members import Block, Members
from sluice.domain.policy.policy import MAX_LIST_ENTRIES, Pack, Policy, digest_of
from sluice.domain.policy.rules import FeatureLike
from sluice.domain.records.card_numbers import holds_card_number
from sluice.errors import Misconfigured, SluiceError
from sluice.yaml_files import decode_as

MAX_LIST_BYTES = 100_000_000
"""Of all lists of a pack: a million identifiers of 64 bytes, with room for comments."""
MAX_YAML_BYTES = 1_000_000
"""Of policy.yaml and of fx.yaml: fifty times the shipped ones."""
MAX_LISTS = 64
_MAX_ENTRY = 64
_FIX = "a policy pack is a folder with policy.yaml, fx.yaml and its lists"

T = TypeVar("T")
Signature = tuple[tuple[str, int, int, int], ...]


class Prepared(msgspec.Struct, frozen=True, array_like=True):
    """A pack that was read and found good, as it travels from the process that read it. name: the
    folder's. digest: see :func:`sluice.domain.policy.policy.digest_of`."""

    name: str
    pack: Pack
    fx: Fx
    lists: dict[str, Block]
    digest: str

    def policy(self, features: Sequence[FeatureLike]) -> Policy:
        """Compile it. Milliseconds, whatever the lists hold. Raises Misconfigured."""
        lists = {file: Members(block) for file, block in self.lists.items()}
        return Policy(self.name, self.pack, self.fx, lists, features, digest=self.digest)


def read_policy(folder: Path, features: Sequence[FeatureLike]) -> Policy:
    """Read and compile the pack in a folder; its name is the folder's.

    Raises Misconfigured with file, place and reason: a missing or unreadable file, wrong YAML, an
    unknown key, a wrong type, an unknown feature or reason, a list entry that is no identifier,
    anything past a limit.
    """
    return _prepare(folder).policy(features)


def prepare(request: bytes) -> bytes:
    """The same for a process of its own: a folder's path to Prepared, found good. Raises
    Misconfigured."""
    prepared = _prepare(Path(request.decode()))
    prepared.policy(catalogue.FEATURES)
    return msgspec.msgpack.encode(prepared)


def _prepare(folder: Path) -> Prepared:
    pack = _read(folder / "policy.yaml", Pack)
    fx = _read(folder / "fx.yaml", Fx)
    if len(pack.lists) > MAX_LISTS:
        raise Misconfigured(
            f"{len(pack.lists)} lists, at most {MAX_LISTS} fit", where=str(folder / "policy.yaml")
        )
    left, entries = MAX_LIST_BYTES, {}
    for spec in pack.lists:
        path = folder / spec.file
        raw = read_regular(path, left, _FIX)
        left -= len(raw)
        entries[spec.file] = _entries(raw, path)
    blocks = {file: Members.of(some).block for file, some in entries.items()}
    return Prepared(folder.resolve().name, pack, fx, blocks, digest_of(pack, fx, entries))


def _read(path: Path, kind: type[T]) -> T:
    raw = read_regular(path, MAX_YAML_BYTES, _FIX)
    return decode_as(kind, raw, str(path), fix="docs/reference/policy.md lists every key")


def _entries(raw: bytes, path: Path) -> list[str]:
    """Identifiers of a list. An error never repeats an entry: it may be a card number."""
    try:
        raw.decode()
    except UnicodeDecodeError as exc:
        raise Misconfigured("not UTF-8", where=str(path)) from exc
    entries: list[str] = []
    for number, line in enumerate(BytesIO(raw), 1):
        word = line.partition(b"#")[0].strip()
        if not word:
            continue
        entry = word.decode("ascii", "replace") if len(word) <= _MAX_ENTRY else ""
        if not entry or not entry.isascii() or not entry.isprintable() or " " in entry:
            raise Misconfigured("not an identifier", where=f"{path}:{number}")
        if holds_card_number(entry):
            raise Misconfigured(
                "the entry looks like a card number",
                where=f"{path}:{number}",
                fix="list the card's token; numbers never enter",
            )
        if len(entries) >= MAX_LIST_ENTRIES:
            raise Misconfigured(
                f"over {MAX_LIST_ENTRIES:,} entries",
                where=f"{path}:{number}",
                fix="what is longer belongs in a feature",
                code=TOO_LARGE,
            )
        entries.append(entry)
    return entries


class PolicyFiles:
    """A pack that follows its folder.

    :meth:`current` is always a whole, checked pack; :meth:`take` swaps it in one assignment.
    """

    def __init__(
        self,
        folder: Path,
        features: Sequence[FeatureLike],
        check: Callable[[Policy], None] = lambda _policy: None,
    ) -> None:
        """Read the pack now. check: what else it must hold here; raises Misconfigured. Raises
        Misconfigured: nothing starts on a broken pack."""
        self._folder = folder
        self._features = features
        self._check = check
        self._seen = self._signature()
        self._policy = read_policy(folder, features)
        check(self._policy)
        self.refused: SluiceError | None = None
        """Why the pack now on disk is not the one in use; None while it is."""

    def current(self) -> Policy:
        """The policy in force."""
        return self._policy

    def look(self) -> Policy | None:
        """Look for a change, and load it. Returns what could be in force, None if nothing changed.

        Changes nothing; may take half a minute, and holds up no other thread. A broken pack, or one
        of another reference currency, raises Misconfigured once; the reason stays in ``refused``
        until the files change again. Raises Unavailable if it could not be looked at now. Costs a
        stat of each file while nothing changes.
        """
        before = self._signature()
        if before == self._seen:
            return None
        try:
            where = str(self._folder)
            read = apart(prepare, where.encode(), where)
            fresh = msgspec.msgpack.decode(read, type=Prepared).policy(self._features)
            self._check_reference(fresh)
            self._check(fresh)
        except SluiceError as error:
            if error.code == NOT_STARTED:
                raise
            if self._signature() != before:
                return None  # caught in the middle of a write: look again at the next poll
            self._seen, self.refused = before, error
            raise
        if self._signature() != before:
            return None
        self._seen, self.refused = before, None
        return None if fresh.digest == self._policy.digest else fresh

    def take(self, fresh: Policy) -> None:
        """Put in force what ``look`` gave."""
        self._policy = fresh

    def poll(self) -> Policy | None:
        """Both. Returns the new policy, or None if it stays."""
        fresh = self.look()
        if fresh is not None:
            self.take(fresh)
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
        return tuple(
            (str(path), *found)
            for path in sorted(self._folder.rglob("*"))
            if path.suffix in {".yaml", ".txt"} and (found := stamp(path))
        )
