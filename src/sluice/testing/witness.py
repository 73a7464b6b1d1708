"""A witness without a disk and without HTTP, and logs that ask it."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sluice.application.cosign import NotCosigned, Witness
from sluice.application.cosigners import Behind
from sluice.audit.checkpoints import Checkpoint
from sluice.audit.merkle import Complete, Frontier, consistency_proof, leaf_hash
from sluice.audit.notes import LOG, Key, Note, sign
from sluice.audit.submissions import Submission
from sluice.errors import Rejected

ORIGIN = "test/eu/0"
OF_LOG = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OF_WITNESS = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
WITNESS_NAME = "witness.example/1"


class MemoryRemembered:
    """The port Remembered, in memory."""

    def __init__(self) -> None:
        self.notes: dict[str, bytes] = {}
        self.forks: list[bytes] = []

    def read(self, origin: str) -> bytes | None:
        """See the port."""
        return self.notes.get(origin)

    def write(self, origin: str, note: bytes) -> None:
        """See the port."""
        self.notes[origin] = note

    def keep_fork(self, origin: str, note: bytes) -> None:
        """See the port."""
        self.forks.append(note)

    def check(self) -> None:
        """See the port."""


class AskedDirectly:
    """The port AsksWitness over a witness of this process, as HTTP would answer."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self.key = witness.key

    def add_checkpoint(self, body: bytes) -> bytes | Behind:
        """See the port."""
        try:
            return self._witness.add_checkpoint(body)
        except NotCosigned as error:
            if error.code in ("behind", "other_root") and error.size is not None:
                return Behind(error.size)
            raise Rejected(str(error), code=error.code) from error


class GrownLog:
    """A log in memory, whose trees of any size are at hand.

    begins: entries that it shares with others; fork: what makes its later entries its own.
    """

    def __init__(
        self,
        size: int,
        *,
        origin: str = ORIGIN,
        private: Ed25519PrivateKey = OF_LOG,
        shares: int = 0,
        fork: str = "",
    ) -> None:
        self.origin = origin
        self.key = Key(origin, LOG, private.public_key())
        self._private = private
        self.complete_roots: dict[tuple[int, int], bytes] = {}
        self.roots = [Frontier().root()]
        tree = Frontier()
        for number in range(size):
            whose = "" if number < shares else fork
            for level, index, root in tree.append(leaf_hash(f"{origin}{whose}{number}".encode())):
                self.complete_roots[level, index] = root
            self.roots.append(tree.root())

    @property
    def complete(self) -> Complete:
        """The roots of its complete subtrees."""
        return lambda level, index: self.complete_roots[level, index]

    def signed(self, size: int, root: bytes | None = None, extension: str = "") -> bytes:
        """Its checkpoint of a size."""
        extensions = (extension,) if extension else ()
        made = Checkpoint(self.origin, size, root or self.roots[size], extensions)
        return bytes(Note(made.text, [sign(made.text, self.origin, self._private)]))

    def proof(self, old: int, new: int) -> Sequence[bytes]:
        """That its tree of ``old`` is a beginning of that of ``new``."""
        return consistency_proof(old, new, self.complete)

    def submission(self, old: int, size: int) -> bytes:
        """A body by which it asks for a cosignature."""
        return bytes(Submission(old, self.proof(old, size), self.signed(size)))
