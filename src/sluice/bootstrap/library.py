"""Policies and releases that once decided, as folders hold them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from sluice.adapters.onnx.release import load, read_trust_of_any_time
from sluice.adapters.policyfiles.files import read_policy
from sluice.adapters.regular_files import stamp
from sluice.application.ports import Scorer
from sluice.application.rejudge import NO_POLICY, NO_RELEASE
from sluice.application.sign_release import read_manifest
from sluice.domain.features import catalogue
from sluice.domain.policy.policy import Policy
from sluice.domain.records.decision import Entrypoint
from sluice.domain.release import MANIFEST, TrustedKeys
from sluice.errors import Misconfigured, Rejected, SluiceError

FOLDERS_MAX = 1_000
"""Packs, or releases, below the folders that are named: more is another folder than was meant."""
POLICIES_MAX = 64
SCORERS_MAX = 16
"""Kept in memory, the last used: a release of either entrypoint takes some MB."""
POLICY = "policy.yaml"

K = TypeVar("K")
T = TypeVar("T")
Stamps = tuple[object, ...]


class FolderLibrary:
    """See :class:`sluice.application.rejudge.Library`.

    policies: packs, or folders of packs; a pack is known by its digest, whatever its folder is
    called. releases: releases, or folders of them, each by the id in its manifest; signed by a key
    of trust, be it that its time has ended since. What was read once is kept, so that a process
    that runs while a pack is replaced still holds the one before.
    """

    def __init__(
        self,
        policies: Sequence[Path],
        releases: Sequence[Path],
        trust: Path,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        """before: called before releases are looked for, which may be copies of a URL's."""
        self._before = before
        self._policy_folders = list(policies)
        self._release_folders = list(releases)
        self._trust = trust
        self._policies: OrderedDict[str, Policy] = OrderedDict()
        self._scorers: OrderedDict[tuple[str, Entrypoint], Scorer] = OrderedDict()
        self._looked: dict[Path, Stamps] = {}
        self._refused: dict[Path, str] = {}

    def look(self) -> None:
        """Read packs that are new or another than before."""
        for folder in folders_with(POLICY, self._policy_folders):
            now = tuple(
                (str(path), stamp(path))
                for path in sorted(folder.rglob("*"))
                if path.suffix in {".yaml", ".txt"}
            )
            if self._looked.get(folder) == now:
                continue
            self._looked[folder] = now
            self._refused.pop(folder, None)
            try:
                policy = read_policy(folder, catalogue.FEATURES)
            except SluiceError as error:
                self._refused[folder] = error.what
            else:
                _keep(self._policies, policy.digest[:12], policy, POLICIES_MAX)

    def trusted(self) -> TrustedKeys:
        """The keys by which releases are trusted. Raises Misconfigured."""
        return read_trust_of_any_time(self._trust)

    def policy(self, id: str) -> Policy:
        """See the port."""
        digest = id.rpartition("@")[2]
        if digest not in self._policies:
            self.look()
        if digest not in self._policies:
            raise Rejected(
                f"no pack here has the digest of {id}",
                where=_named(self._policy_folders),
                fix="name folders that hold it: --policies DIR; packs are kept in version control"
                + "".join(f"; {folder}: {why}" for folder, why in self._refused.items()),
                code=NO_POLICY,
            )
        self._policies.move_to_end(digest)
        return self._policies[digest]

    def scorer(self, release: str, entrypoint: Entrypoint) -> Scorer:
        """See the port."""
        held = self._scorers.get((release, entrypoint))
        if held is None:
            held = self._load(release, entrypoint)
            _keep(self._scorers, (release, entrypoint), held, SCORERS_MAX)
        self._scorers.move_to_end((release, entrypoint))
        return held

    def _load(self, release: str, entrypoint: Entrypoint) -> Scorer:
        why = ""
        self._before()
        for folder in folders_with(MANIFEST, self._release_folders):
            try:
                manifest = read_manifest(folder)
                if manifest.id != release:
                    continue
                return load(
                    folder,
                    self.trusted(),
                    catalogue.FEATURES,
                    manifest.reference_currency,
                    entrypoint=entrypoint,
                )
            except SluiceError as error:
                why = f"; {folder}: {error}"
        raise Rejected(
            f"no release here is {release}{why}",
            where=_named(self._release_folders),
            fix="name folders that hold it: --releases DIR",
            code=NO_RELEASE,
        )


def folders_with(name: str, folders: Sequence[Path]) -> list[Path]:
    """The folders themselves and those right below them that hold a file of this name. Raises
    Misconfigured for more than FOLDERS_MAX."""
    found: list[Path] = []
    for folder in folders:
        if (folder / name).is_file():
            found.append(folder)
        found += sorted(path.parent for path in folder.glob(f"*/{name}"))
        if len(found) > FOLDERS_MAX:
            raise Misconfigured(
                f"over {FOLDERS_MAX:,} folders with a {name} lie there", where=str(folder)
            )
    return found


def _keep(held: OrderedDict[K, T], key: K, value: T, most: int) -> None:
    held[key] = value
    held.move_to_end(key)
    while len(held) > most:
        held.popitem(last=False)


def _named(folders: Sequence[Path]) -> str:
    return ", ".join(map(str, folders)) or "no folder"
