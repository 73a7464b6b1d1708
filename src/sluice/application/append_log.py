"""The one writer of a log: entries become durable at once, and provable with the next checkpoint.

An append goes to a write-ahead file: one write and one fsync for the batch. A checkpoint writes the
tiles that the tree has gained, publishes the signed tree head where the next writer looks for it
(:class:`Published`), and only then shows it in the folder. So whatever was published, in either
place, is made of what that file or a tile holds, and a start goes on from there
(docs/decisions/0050).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sluice.audit.checkpoints import Checkpoint, open_checkpoint
from sluice.audit.errors import Malformed, Refuted
from sluice.audit.merkle import HASH_BYTES, Complete, Frontier, leaf_hash, root_of
from sluice.audit.notes import LOG, Key, Note, sign, signer
from sluice.audit.tiles import (
    ENTRY_MAX_BYTES,
    HEIGHT,
    WIDTH,
    Tile,
    pack_entries,
    read_entries,
    read_tile,
    reader,
)
from sluice.errors import Corrupt, Misconfigured, Unavailable
from sluice.faultpoints import kill_at

CHECKPOINT = "checkpoint"
"""The newest, below the log's folder."""
HELD_MAX_BYTES = 32 * 1024 * 1024
"""Of whole tiles and bundles that wait for a checkpoint; past it they are written before."""
RUNBOOK = "docs/runbooks/compliance-log.md"
File = tuple[str, bytes]
"""Path below the log's folder, with slashes, and all its bytes."""


class LogStore(Protocol):
    """Where a log's files lie: a folder, or a bucket."""

    def read(self, path: str) -> bytes:
        """All of a file. Raises FileNotFoundError where there is none, Unavailable, and Corrupt
        for what no log holds: a link, a folder, more than a bundle can have."""
        ...

    def write(self, files: Iterable[File]) -> None:
        """Write each file whole or not at all, over one of its name; all durable on return.

        Raises Unavailable: then any of them may be there.
        """
        ...


class WriteAhead(Protocol):
    """Entries that are in no tile yet. For one process at a time. ``forget`` may run beside the
    others."""

    torn: bool
    """Whether ``open`` cut something off."""

    def open(self, size: int) -> list[bytes]:
        """The entries from index ``size`` on, durable; whatever follows the last whole one is cut.

        Raises Unavailable; Misconfigured if another process has it open.
        """
        ...

    def append(self, first: int, entries: Sequence[bytes]) -> None:
        """Add entries, the first of them with this index; durable on return.

        Raises Unavailable: any of them may be there, and it must be opened again.
        """
        ...

    def rotate(self, size: int) -> None:
        """What is appended from here on, from index ``size``, can be kept when the entries before
        it are forgotten. Raises Unavailable, as ``append``."""
        ...

    def forget(self, size: int) -> None:
        """Entries before index ``size`` are in tiles, under a checkpoint: they may go. Raises
        Unavailable."""
        ...

    def close(self) -> None:
        """Let another process have it."""
        ...


class Published(Protocol):
    """The second place of checkpoints: one that the log's disk is not lost or set back with."""

    def last(self) -> bytes | None:
        """The newest signed checkpoint of this log; None if there was none. Raises Unavailable."""
        ...

    def publish(self, signed: bytes) -> None:
        """Keep a checkpoint, durably. Raises Unavailable: it may be there or not; Corrupt with
        code FENCED if another writer has taken the log over."""
        ...


FENCED = "fenced"
"""Code of a Corrupt: another process writes this log now."""
BEHIND = "log_behind"
"""Code of a Corrupt: the disk lacks entries, or holds others, than a published checkpoint has."""


Cosign = Callable[[bytes, Complete], bytes]
"""A signed checkpoint, and the reader of its tree, to the same with witnesses' cosignatures."""


class Pending(NamedTuple):
    """A checkpoint that was begun. files: what its tree has gained."""

    made: Checkpoint
    files: Sequence[File]


def _uncosigned(signed: bytes, _: Complete) -> bytes:
    return signed


class AppendLog:
    """One log. ``open`` first, and again after any error but those of arguments.

    origin: names the log in its checkpoints; also its key's name. private: signs them. retired:
    keys that signed them before. cosign: asks the witnesses, after a checkpoint was published and
    before it is shown.

    ``finish`` may run in another thread while appends go on; everything else is for one thread.
    """

    def __init__(
        self,
        store: LogStore,
        ahead: WriteAhead,
        published: Published,
        *,
        origin: str,
        private: Ed25519PrivateKey,
        retired: Sequence[Key] = (),
        cosign: Cosign = _uncosigned,
    ) -> None:
        """Raises Misconfigured for a key that signs and is retired."""
        self._cosign = cosign
        self._store = store
        self._ahead = ahead
        self._published = published
        self._private = private
        self.origin = origin
        self.key = Key(origin, LOG, private.public_key())
        if self.key in retired or any(key.name != origin for key in retired):
            raise Misconfigured(
                "a retired key is this log's, and another than the one that signs now",
                where="auditor.retired_keys_file",
                fix=f"the lines of keys that signed {origin} before: {RUNBOOK}",
            )
        self._retired = list(retired)
        self.signed_by = ""
        """Of the newest checkpoint that was found: name and id of its key. "" without one."""
        self._reset(Frontier())

    def _reset(self, tree: Frontier) -> None:
        self._tree = tree
        self._edges: list[list[bytes]] = []
        """By level of tiles, the hashes of the one that is not whole yet."""
        self._bundle: list[bytes] = []
        """The entries of the one that is not whole yet."""
        self._whole: list[File] = []
        self._whole_bytes = 0
        self._signed = Checkpoint(self.origin, tree.size, tree.root())
        self._opened = False

    @property
    def size(self) -> int:
        """Entries that are durable."""
        return self._tree.size

    @property
    def signed(self) -> Checkpoint:
        """The newest checkpoint."""
        return self._signed

    @property
    def cut(self) -> bool:
        """Whether ``open`` cut off what a process that died had not written whole."""
        return self._ahead.torn

    def is_beginning(self, size: int, root: str) -> bool:
        """Whether the tree of so many entries, of those that a checkpoint shows, has this root, in
        hexadecimal digits. Raises Corrupt, Unavailable."""
        if not 0 <= size <= self._signed.size:
            return False
        try:
            return root_of(size, reader(self._signed.size, self._store.read)).hex() == root
        except (Malformed, FileNotFoundError) as exc:
            raise _damaged(self.origin, str(exc)) from exc

    def entries(self, first: int, until: int) -> Iterator[bytes]:
        """Entries that a checkpoint shows, from the tiles. Raises Corrupt, Unavailable."""
        size = self._signed.size
        for index in range(first // WIDTH, (until + WIDTH - 1) // WIDTH):
            tile = Tile(0, index, min(WIDTH, size - index * WIDTH))
            try:
                held = read_entries(self._store.read, tile)
            except (Malformed, FileNotFoundError) as exc:
                raise _damaged(self.origin, str(exc)) from exc
            at = index * WIDTH
            yield from held[max(0, first - at) : until - at]

    def open(self) -> list[bytes]:
        """Read what lies there, and finish what a process that died began.

        Returns the entries behind the folder's checkpoint. Raises Corrupt with code BEHIND if a
        checkpoint was published that the disk does not lead to, Corrupt for tiles that are not the
        checkpoint's, Misconfigured if another process has it open, Unavailable.
        """
        self._opened = False
        self.signed_by = ""
        there = self._checkpoint(self._published.last(), "the published checkpoint")
        shown = self._checkpoint(self._read_checkpoint(), "the folder's checkpoint")
        size = shown.size if shown else 0
        unsigned = self._ahead.open(size)
        self._restore(shown)
        if there is not None and there.size <= size:
            self._same(there, root_of(there.size, reader(size, self._store.read)))
        for entry in unsigned:
            self._take(entry)
            if there is not None and self.size == there.size:
                self._same(there, self._tree.root())
        if there is not None and self.size < there.size:
            raise _behind(there, f"the disk has {self.size} entries")
        self._opened = True
        return unsigned

    def append(self, entries: Sequence[bytes]) -> int:
        """Add entries, each of at most ENTRY_MAX_BYTES. Returns the size: all are durable.

        Raises ValueError for one that is too long, Unavailable: then ``open`` says what is there.
        """
        for entry in entries:
            if len(entry) > ENTRY_MAX_BYTES:
                raise ValueError(f"an entry of {len(entry)} bytes: at most {ENTRY_MAX_BYTES}")
        with self._or_closed():
            kill_at("auditor.before_ahead")
            self._ahead.append(self.size, entries)
            kill_at("auditor.after_ahead")
            for entry in entries:
                self._take(entry)
            if self._whole_bytes > HELD_MAX_BYTES:
                self._store.write(self._whole)
                self._whole, self._whole_bytes = [], 0
        return self.size

    def checkpoint(self) -> bytes | None:
        """Make all entries provable. Returns the signed checkpoint, None if nothing is new.

        Raises Unavailable, and Corrupt with code FENCED.
        """
        pending = self.begin()
        return None if pending is None else self.finish(pending)

    def begin(self) -> Pending | None:
        """The next checkpoint, None if nothing is new; to be finished before another is begun.
        Raises Unavailable."""
        with self._or_closed():
            if self.size == self._signed.size:
                return None
            self._ahead.rotate(self.size)
            files = [*self._whole, *self._partial()]
            self._whole, self._whole_bytes = [], 0
            return Pending(Checkpoint(self.origin, self.size, self._tree.root()), files)

    def finish(self, pending: Pending) -> bytes:
        """Write, sign, publish and show what was begun. Returns the signed checkpoint.

        Raises Unavailable, and Corrupt with code FENCED.
        """
        made = pending.made
        with self._or_closed():
            self._store.write(pending.files)
            kill_at("auditor.after_tiles")
            signed = bytes(Note(made.text, [sign(made.text, self.origin, self._private)]))
            self._published.publish(signed)
            kill_at("auditor.after_publish")
            signed = self._cosign(signed, reader(made.size, self._store.read))
            self._store.write([(CHECKPOINT, signed)])
            kill_at("auditor.after_checkpoint")
            self._ahead.forget(made.size)
            kill_at("auditor.after_forget")
            self._signed = made
        return signed

    def close(self) -> None:
        """Let another process write the log."""
        self._opened = False
        self._ahead.close()

    @contextmanager
    def _or_closed(self) -> Iterator[None]:
        """After an error nobody knows what is on the disk before it is read."""
        if not self._opened:
            raise Unavailable("the log is not open", where=self.origin, code="log_closed")
        try:
            yield
        except BaseException:
            self._opened = False
            raise

    def _take(self, entry: bytes) -> None:
        """Into the tree, and the tiles that it completes."""
        self._bundle.append(entry)
        for level, index, root in self._tree.append(leaf_hash(entry)):
            above, inside = divmod(level, HEIGHT)
            if inside:
                continue
            if above == len(self._edges):
                self._edges.append([])
            edge = self._edges[above]
            edge.append(root)
            if len(edge) == WIDTH:
                tile = Tile(above, index // WIDTH)
                self._hold(tile.path, b"".join(edge))
                edge.clear()
                if above == 0:
                    self._hold(tile.entries_path, pack_entries(self._bundle))
                    self._bundle.clear()

    def _hold(self, path: str, raw: bytes) -> None:
        self._whole.append((path, raw))
        self._whole_bytes += len(raw)

    def _partial(self) -> list[File]:
        files = []
        for level, edge in enumerate(self._edges):
            if edge:
                tile = Tile(level, (self.size >> HEIGHT * level) // WIDTH, len(edge))
                files.append((tile.path, b"".join(edge)))
                if level == 0:
                    files.append((tile.entries_path, pack_entries(self._bundle)))
        return files

    def _read_checkpoint(self) -> bytes | None:
        try:
            return self._store.read(CHECKPOINT)
        except FileNotFoundError:
            return None

    def _checkpoint(self, raw: bytes | None, what: str) -> Checkpoint | None:
        if raw is None:
            return None
        try:
            keys = [self.key, *self._retired]
            key = signer(raw, keys) or self.key
            found = open_checkpoint(raw, self.origin, key).checkpoint
        except (Malformed, Refuted) as exc:
            raise Corrupt(
                f"{what} is not this log's: {exc}",
                where=self.origin,
                fix=f"is it the right key, and the right folder? {RUNBOOK}",
            ) from exc
        self.signed_by = key.short
        return found

    def _restore(self, shown: Checkpoint | None) -> None:
        """The folder's tree, with the hashes and entries of its last tiles. Raises Corrupt."""
        size = shown.size if shown else 0
        edges: list[list[bytes]] = []
        bundle: list[bytes] = []
        try:
            tree = Frontier(size, reader(size, self._store.read))
            level = 0
            while (here := size >> HEIGHT * level) > 0:
                edges.append([])
                if here % WIDTH:
                    raw = read_tile(self._store.read, Tile(level, here // WIDTH, here % WIDTH))
                    edges[-1] += [raw[i : i + HASH_BYTES] for i in range(0, len(raw), HASH_BYTES)]
                level += 1
            if size % WIDTH:
                bundle = read_entries(self._store.read, Tile(0, size // WIDTH, size % WIDTH))
        except (Malformed, FileNotFoundError) as exc:
            raise _damaged(self.origin, str(exc)) from exc
        if shown is not None and tree.root() != shown.root:
            raise _damaged(self.origin, f"the tiles are not those of the checkpoint of {size}")
        if bundle and [leaf_hash(entry) for entry in bundle] != edges[0]:
            raise _damaged(self.origin, "the last entries are not those of the last hashes")
        self._reset(tree)
        self._edges, self._bundle = edges, bundle

    def _same(self, there: Checkpoint, root: bytes) -> None:
        if root != there.root:
            raise _behind(there, "the disk's tree of that size is another one")


def _behind(there: Checkpoint, why: str) -> Corrupt:
    return Corrupt(
        f"a checkpoint of {there.size} entries was published, and {why}",
        where=there.origin,
        fix=f"bring the disk or its copy back, and write nothing meanwhile: {RUNBOOK}",
        code=BEHIND,
    )


def _damaged(origin: str, why: str) -> Corrupt:
    return Corrupt(
        f"the log's files are damaged: {why}",
        where=origin,
        fix=f"bring the copy back: {RUNBOOK}",
        code="log_damaged",
    )
