"""Release folders: read, verified in every respect, loaded; and followed when they change."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from sluice.adapters.onnx.scorer import OnnxScorer
from sluice.application.ports import Count, uncounted
from sluice.domain.clock import SystemClock
from sluice.domain.release import (
    FILES,
    MANIFEST,
    MAX_FILE_BYTES,
    MODEL,
    SIGNATURE,
    FeatureLike,
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
from sluice.errors import Misconfigured, SluiceError

Signature = tuple[tuple[int, int, int], ...]


def read_files(folder: Path) -> dict[str, bytes]:
    """The four files of a release. Raises Misconfigured naming the one that cannot be read."""
    return {name: read_file(folder / name) for name in FILES}


def read_file(path: Path) -> bytes:
    """One file of a release. Raises Misconfigured: it is not there, or is too large."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise Misconfigured(f"the file is over {MAX_FILE_BYTES} bytes", where=str(path))
        return path.read_bytes()
    except OSError as exc:
        raise Misconfigured(
            f"cannot read the file: {exc.strerror}",
            where=str(path),
            fix=f"a release is a folder with {', '.join(FILES)}",
        ) from exc


def read_trust(path: Path) -> TrustedKeys:
    """Public keys of one file, or of all ``*.pub`` in a folder, as they are trusted now. Raises
    Misconfigured."""
    files = sorted(path.glob("*.pub")) if path.is_dir() else [path]
    try:
        text = "\n".join(file.read_text() for file in files)
    except (OSError, UnicodeDecodeError) as exc:
        raise Misconfigured(f"cannot read trusted keys: {exc}", where=str(path)) from exc
    return parse_trust(text, str(path)).at(SystemClock().now_us())


def verify(folder: Path, trusted: Trusted) -> tuple[Manifest, dict[str, bytes], str]:
    """Signature and digests of a release; (manifest, files, id of the signing key).

    The signature comes first: nothing is parsed that nobody vouches for. Raises Corrupt or
    Misconfigured, saying what differs.
    """
    files = read_files(folder)
    signer = check_signature(files[MANIFEST], files[SIGNATURE], trusted)
    manifest = decode_manifest(files[MANIFEST], str(folder / MANIFEST))
    check_files(manifest, files)
    return manifest, files, signer


def load(
    folder: Path,
    trusted: Trusted,
    features: Sequence[FeatureLike],
    reference: str,
    count: Count = uncounted,
) -> OnnxScorer:
    """A scorer from a release that passed every check, warm-up included.

    features: the catalogue's. reference: currency that the policy converts amounts to. count: of
    the scorer's failures. Raises Corrupt or Misconfigured, saying what differs.
    """
    manifest, files, signer = verify(folder, trusted)
    columns = check_features(manifest, features)
    check_reference(manifest, reference)
    groups = {f.name: f.group for f in features}
    scorer = OnnxScorer(
        manifest,
        files[MODEL],
        columns,
        groups,
        count,
        digest=hashlib.sha256(files[MANIFEST]).hexdigest(),
        signer=signer,
    )
    scorer.warm_up(manifest)
    return scorer


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
    ) -> None:
        """features, reference, count: as of :func:`load`."""
        self._count = count
        self._folder = folder
        self._trusted = trusted
        self._features = features
        self._reference = reference
        self._scorer: OnnxScorer | None = None
        self._seen: Signature | None = None
        self.refused: SluiceError | None = None
        """Why what lies in the folder is not what scores; None while it is."""

    def current(self) -> OnnxScorer | None:
        """The last good release; None before the first one was loaded."""
        return self._scorer

    def poll(self) -> OnnxScorer | None:
        """Look for a change; the first call loads. Returns the new scorer, None if none is.

        A wrong release raises Corrupt or Misconfigured once; the last good one keeps scoring and
        the reason stays in ``refused`` until the folder changes again. Costs four stats, and
        about 20 ms when there is something to load.
        """
        before = self._signature()
        if before == self._seen:
            return None
        try:
            fresh = load(self._folder, self._trusted, self._features, self._reference, self._count)
        except SluiceError as error:
            if self._seen is not None and self._signature() != before:
                return None  # caught in the middle of a copy: look again at the next poll
            self._seen, self.refused = before, error
            raise
        self._seen, self.refused = before, None
        self._scorer = fresh
        return fresh

    def _signature(self) -> Signature:
        found = []
        for name in FILES:
            try:
                stat = (self._folder / name).stat()
            except OSError:
                continue
            found.append((stat.st_size, stat.st_ino, stat.st_mtime_ns))
        return tuple(found)
