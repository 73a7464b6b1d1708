"""Acts on what decides: somebody signs that a release or a policy may take effect, and why."""

from __future__ import annotations

from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sluice.domain.activation import (
    Act,
    Activation,
    SignedActivation,
    What,
    decode,
    statement_of,
)
from sluice.domain.clock import Clock
from sluice.domain.release import key_id
from sluice.errors import Misconfigured


class ActivationStore(Protocol):
    """Where the activation of a folder lies."""

    def read(self) -> SignedActivation | None:
        """The one that lies there, None without one. Raises Misconfigured."""
        ...

    def write(self, signed: SignedActivation) -> None:
        """Put one there, whole. Raises Misconfigured."""
        ...


def act(
    store: ActivationStore,
    key: Ed25519PrivateKey,
    clock: Clock,
    *,
    what: What,
    name: str,
    digest: str,
    kind: Act,
    who: str,
    why: str,
) -> Activation:
    """Sign a new activation over whichever lies there. Its epoch is now, so it is above all before.

    Raises Misconfigured for a who or why that is empty, too long or of control characters.
    """
    activation = Activation(
        what=what, id=name, digest=digest, epoch=clock.now_us(), act=kind, who=who, why=why
    )
    unsigned = statement_of(activation)
    decode(unsigned.statement)
    store.write(unsigned.approved(key))
    return activation


def approve(
    store: ActivationStore, key: Ed25519PrivateKey, *, what: What, digest: str
) -> tuple[Activation, int]:
    """Add a signature to the activation that lies there. Returns it, and how many it has.

    Raises Misconfigured if there is none, it is of something else, or the key signed already.
    """
    signed = store.read()
    if signed is None:
        raise Misconfigured("there is no activation to approve", fix=f"sluice {what} activate")
    activation = decode(signed.statement)
    if activation.what != what or activation.digest != digest:
        raise Misconfigured(
            f"the activation is of {activation.id}, the folder holds something else",
            fix=f"sluice {what} activate, for what is there now",
        )
    mine = key_id(key.public_key()).encode()
    if any(line.split()[1:2] == [mine] for line in signed.approvals):
        raise Misconfigured("this key has approved it already", fix="ask somebody else")
    approved = signed.approved(key)
    store.write(approved)
    return activation, len(approved.approvals)
