"""Keys, and signatures of releases: who may say that a model is the one that was measured."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sluice.domain.features import catalogue
from sluice.domain.release import (
    MANIFEST,
    SIGNATURE,
    Manifest,
    check_features,
    check_files,
    decode_manifest,
    key_id,
    public_line,
    sign,
)
from sluice.errors import Misconfigured


class KeyPair(NamedTuple):
    """A key that was made. public: the file that deciders are to trust."""

    key_id: str
    public: Path


class Signed(NamedTuple):
    """A release that was signed. manifest_sha256: of the bytes that the signature is over."""

    release: str
    key_id: str
    manifest_sha256: str


def make_key(out: Path) -> KeyPair:
    """Write a new private key to a new file, for its owner alone, and its public part beside it.

    Raises Misconfigured if the file is there already or cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    try:
        handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as exc:
        raise Misconfigured(f"cannot write the key: {exc.strerror}", where=str(out)) from exc
    with os.fdopen(handle, "wb") as file:
        file.write(private)
    public = out.with_name(out.name + ".pub")
    public.write_text(public_line(key.public_key(), out.name))
    return KeyPair(key_id(key.public_key()), public)


def sign_release(folder: Path, key_file: Path) -> Signed:
    """Sign a release folder. Refuses a manifest whose files are not the ones it names.

    Raises Corrupt for such a one, Misconfigured for what cannot be read.
    """
    raw = _read(folder / MANIFEST)
    manifest = decode_manifest(raw, str(folder / MANIFEST))
    check_files(manifest, {name: _read(folder / name) for name in manifest.files})
    key = read_private_key(key_file)
    (folder / SIGNATURE).write_bytes(sign(raw, key))
    return Signed(manifest.id, key_id(key.public_key()), hashlib.sha256(raw).hexdigest())


def read_manifest(folder: Path) -> Manifest:
    """What a release says of itself; nothing is verified. Raises Misconfigured, Corrupt."""
    return decode_manifest(_read(folder / MANIFEST), str(folder / MANIFEST))


def differences(before: Manifest, after: Manifest) -> dict[str, tuple[str, str]]:
    """In what two manifests differ, by dotted names; ``none`` where one says nothing."""
    one, other = _told(before), _told(after)
    return {
        name: (one.get(name, "none"), other.get(name, "none"))
        for name in dict.fromkeys([*one, *other])
        if one.get(name) != other.get(name)
    }


def _told(manifest: Manifest) -> dict[str, str]:
    """What a manifest says, by dotted names; of rows and columns only what a person compares."""
    said: dict[str, str] = {}

    def tell(name: str, value: object) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                tell(f"{name}.{key}", inner)
        else:
            said[name] = str(value)

    for name, value in msgspec.to_builtins(manifest).items():
        if name not in {"features", "warm_up", "reference_row"}:
            tell(name, value)
    said |= {f"features.{f.name}": f"{f.definition} {f.meaning}" for f in manifest.features}
    return said


def fit(manifest: Manifest) -> str:
    """Whether this build has the features of a release as it was trained on them; what differs."""
    try:
        check_features(manifest, catalogue.FEATURES)
    except Misconfigured as error:
        return error.what
    return "all as in this build"


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """A PEM file as make_key writes it. Raises Misconfigured; the error holds nothing of the
    key."""
    try:
        key = serialization.load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError):
        raise Misconfigured("not a private key in PEM", where=str(path)) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise Misconfigured("not an Ed25519 key", where=str(path), fix="sluice release keygen")
    return key


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise Misconfigured(f"cannot read the file: {exc.strerror}", where=str(path)) from exc
