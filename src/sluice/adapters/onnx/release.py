"""Release folders: read, verified in every respect, loaded; and followed when they change.

A graph can take any time and memory, whoever signed it. One that comes while a process runs is
loaded by another one first (:mod:`sluice.adapters.other_process`); what took too long there never
gets to where it would hold up answers.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from sluice.adapters.onnx.scorer import PAD, OnnxScorer
from sluice.adapters.other_process import NOT_STARTED, TOO_SLOW, apart
from sluice.adapters.regular_files import Stamp, read_regular, stamp
from sluice.application.ports import Count, Ints, uncounted
from sluice.domain.clock import SystemClock
from sluice.domain.policy.reasons import MODEL_CODES
from sluice.domain.records.decision import Entrypoint
from sluice.domain.reference import decode_reference
from sluice.domain.release import (
    FILES,
    MANIFEST,
    MAX_BYTES,
    NEEDED,
    OPTIONAL,
    REFERENCE,
    SIGNATURE,
    FeatureLike,
    Graph,
    Manifest,
    Trusted,
    TrustedKeys,
    check_features,
    check_files,
    check_reference,
    check_signature,
    decode_manifest,
    parse_trust,
)
from sluice.errors import Corrupt, Misconfigured, SluiceError, Unavailable

LOAD_MAX_S = 1.0
"""Of processor time to make a session of the graph. Other threads go on meanwhile (20,000 nodes
take 0.4 s and hold them up for 4 ms), but on the same core."""
ROWS_MAX_S = 0.01
"""Of processor time to score one row, or PAD of them: a fifth of the usual deadline."""
TRUST_MAX_BYTES = 65_536
"""Of one file of public keys."""
TRIES = 3
"""The fastest of so many counts: a busy machine slows some."""

Signature = tuple[str, str, tuple[tuple[str, Stamp], ...]]


def read_files(folder: Path) -> dict[str, bytes]:
    """The files that every release has. Raises Misconfigured naming the one that cannot be read."""
    return {name: read_file(folder / name) for name in NEEDED}


def read_optional(folder: Path, manifest: Manifest) -> dict[str, bytes]:
    """The files that this one has besides. Raises Misconfigured naming the one that cannot be
    read."""
    return {name: read_file(folder / name) for name in OPTIONAL if name in manifest.files}


def read_file(path: Path) -> bytes:
    """One file of a release. Raises Misconfigured: it is not there, no regular file, too large."""
    return read_regular(
        path, MAX_BYTES[path.name], f"a release is a folder with {', '.join(NEEDED)}"
    )


def read_trust(path: Path) -> TrustedKeys:
    """Public keys of one file, or of all ``*.pub`` in a folder, as they are trusted now. Raises
    Misconfigured."""
    return read_trust_of_any_time(path).at(SystemClock().now_us())


def read_trust_of_any_time(path: Path) -> TrustedKeys:
    """The same, with those whose trust has ended meanwhile: what they signed did decide. Raises
    Misconfigured."""
    files = sorted(path.glob("*.pub")) if path.is_dir() else [path]
    try:
        text = "\n".join(read_regular(file, TRUST_MAX_BYTES).decode() for file in files)
    except UnicodeDecodeError as exc:
        raise Misconfigured(f"cannot read trusted keys: {exc}", where=str(path)) from exc
    return parse_trust(text, str(path))


def verify(folder: Path, trusted: Trusted) -> tuple[Manifest, dict[str, bytes], str]:
    """Signature and digests of a release; (manifest, files, id of the signing key).

    The signature comes first: nothing is parsed that nobody vouches for. Raises Corrupt or
    Misconfigured, saying what differs.
    """
    files = read_files(folder)
    signer = check_signature(files[MANIFEST], files[SIGNATURE], trusted)
    manifest = decode_manifest(files[MANIFEST], str(folder / MANIFEST))
    files |= read_optional(folder, manifest)
    check_files(manifest, files)
    return manifest, files, signer


def load(
    folder: Path,
    trusted: Trusted,
    features: Sequence[FeatureLike],
    reference: str,
    count: Count = uncounted,
    *,
    entrypoint: Entrypoint | None = None,
    first_apart: bool = False,
) -> OnnxScorer:
    """A scorer from a release that passed every check, warm-up included.

    features: the catalogue's. reference: currency that the policy converts amounts to. count: of
    the scorer's failures. entrypoint: whose variant scores; model.onnx for none. first_apart: try
    the graph in a process of its own before. Raises Corrupt or Misconfigured, saying what differs;
    Unavailable with code NOT_STARTED if no process could be started.
    """
    manifest, files, signer = verify(folder, trusted)
    columns = check_features(manifest, features)
    check_reference(manifest, reference)
    population = None
    if REFERENCE in files:
        where = str(folder / REFERENCE)
        population = decode_reference(files[REFERENCE], len(manifest.features), where)
    graph = manifest.graph(entrypoint)
    if first_apart:
        given = msgspec.msgpack.encode((files[MANIFEST], files[graph], graph))
        apart(try_graph, given, f"release {manifest.id}")
    groups = {f.name: f.group for f in features}
    scorer = _begin(manifest, files[graph], columns, groups, count, graph)
    scorer.digest, scorer.signer = hashlib.sha256(files[MANIFEST]).hexdigest(), signer
    scorer.reference = population
    return scorer


def try_graph(request: bytes) -> bytes:
    """For a process of its own: a manifest and its model, loaded and scored within limits. Raises
    Corrupt, Misconfigured."""
    raw, model, graph = msgspec.msgpack.decode(request, type=tuple[bytes, bytes, Graph])
    manifest = decode_manifest(raw)
    any_group = dict.fromkeys(manifest.names, next(iter(MODEL_CODES)))
    _begin(manifest, model, range(len(manifest.names)), any_group, uncounted, graph)
    return b""


def _begin(
    manifest: Manifest,
    model: bytes,
    columns: Sequence[int],
    groups: Mapping[str, str],
    count: Count,
    graph: Graph,
) -> OnnxScorer:
    """Load a graph, and see that it scores as the manifest says, in the time that there is."""
    where = f"release {manifest.id}"
    began = time.thread_time()
    scorer = OnnxScorer(manifest, model, columns, groups, count)
    took_s = time.thread_time() - began
    if took_s > LOAD_MAX_S:
        raise Misconfigured(
            f"loading the graph took {took_s:.2f} s of processor time, at most {LOAD_MAX_S} fit",
            where=where,
            fix="release a smaller graph",
            code=TOO_SLOW,
        )
    try:
        scorer.warm_up(manifest, graph)
        rows = np.array([v.features for v in manifest.warm_up][:PAD], np.int64)
        took_s = min(_seconds(scorer, rows) for _ in range(TRIES))
    except Unavailable as exc:  # not for now: it would fail again
        raise Corrupt(exc.what, where=where) from exc
    if took_s > ROWS_MAX_S:
        raise Misconfigured(
            f"scoring {len(rows)} rows took {took_s * 1000:.1f} ms of processor time, at most "
            f"{ROWS_MAX_S * 1000:.0f} fit",
            where=where,
            fix="release a smaller graph, or distil it",
            code=TOO_SLOW,
        )
    return scorer


def _seconds(scorer: OnnxScorer, rows: Ints) -> float:
    began = time.thread_time()
    scorer.probability(rows)
    return time.thread_time() - began


class ReleaseDirectory:
    """Follows a release folder (or a link to one, which is how a release is swapped at once).

    A wrong release never replaces a good one.
    """

    def __init__(
        self,
        folder: Path,
        trusted: Trusted,
        features: Sequence[FeatureLike],
        reference: str,
        count: Count = uncounted,
        *,
        entrypoint: Entrypoint | None = None,
        named: Callable[[], str | None] = lambda: None,
        first_apart: bool = False,
    ) -> None:
        """features, reference, count, entrypoint: as of :func:`load`. named: where the folder is
        one of releases, which of them is meant; raises a SluiceError where that cannot be said.
        first_apart: whether the first one is tried in a process of its own too."""
        self._count = count
        self._entrypoint = entrypoint
        self._named = named
        self._first_apart = first_apart
        self._folder = folder
        self._trusted = trusted
        self._features = features
        self._reference = reference
        self._scorer: OnnxScorer | None = None
        self._seen: tuple[Signature, frozenset[str] | None] | None = None
        """Of the files, and of the keys by which they were refused."""
        self.refused: SluiceError | None = None
        """Why what lies in the folder is not what scores; None while it is."""

    def current(self) -> OnnxScorer | None:
        """The last good release; None before the first one was loaded."""
        return self._scorer

    def look(self) -> OnnxScorer | None:
        """Look for a change, and load it. Returns what could score from now on, None if nothing
        changed.

        The first call loads what is there; later ones try it in a process of its own before, may
        take half a minute, and hold up no other thread. A wrong release raises Corrupt or
        Misconfigured once; the reason stays in ``refused`` until the folder changes again, or who
        is trusted. Raises Unavailable if it could not be looked at now. Costs seven stats while
        nothing changes.
        """
        folder, unsaid = self._place()
        before = self._signature(folder, unsaid)
        if (before, frozenset(self._trusted.keys) if self.refused else None) == self._seen:
            return None
        try:
            if unsaid is not None:
                raise unsaid
            fresh = load(
                folder,
                self._trusted,
                self._features,
                self._reference,
                self._count,
                entrypoint=self._entrypoint,
                first_apart=self._first_apart or self._seen is not None,
            )
        except SluiceError as error:
            if error.code == NOT_STARTED:
                raise
            if self._seen is not None and self._signature(*self._place()) != before:
                return None  # caught in the middle of a copy: look again at the next poll
            self._seen, self.refused = (before, frozenset(self._trusted.keys)), error
            raise
        self._seen, self.refused = (before, None), None
        return fresh

    def take(self, fresh: OnnxScorer) -> None:
        """Let score what ``look`` gave."""
        self._scorer = fresh

    def poll(self) -> OnnxScorer | None:
        """Both. Returns the new scorer, None if none is."""
        fresh = self.look()
        if fresh is not None:
            self.take(fresh)
        return fresh

    def _place(self) -> tuple[Path, SluiceError | None]:
        """Where the release lies, and why nobody can say where."""
        if stamp(self._folder / MANIFEST) is not None:
            return self._folder, None
        try:
            name = self._named()
        except SluiceError as error:
            return self._folder, error
        return self._folder if name is None else self._folder / name, None

    @staticmethod
    def _signature(folder: Path, unsaid: SluiceError | None) -> Signature:
        found = [(name, at) for name in FILES if (at := stamp(folder / name))]
        return str(folder), str(unsaid or ""), tuple(found)
