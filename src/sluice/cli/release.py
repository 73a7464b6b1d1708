"""Look at, check and sign releases of a model.

sluice release pack DIR --description FILE  write manifest.json beside model.onnx and card.md
sluice release show DIR                     what it is, what it was measured to do
sluice release verify DIR --trust KEYS      signature, digests, features, warm-up; else exit 1
sluice release keygen --out FILE            a key pair: FILE (keep it secret) and FILE.pub
sluice release sign DIR --key FILE          write manifest.sig
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sluice.adapters.policyfiles import read_policy
from sluice.domain.clock import to_datetime
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

DEFAULT_TRUST = Path("policies/trust")
DEFAULT_POLICY = Path("policies/default")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The five sub-verbs."""
    verbs = parser.add_subparsers(
        dest="what", required=True, metavar="pack|show|verify|keygen|sign"
    )
    packing = verbs.add_parser("pack", help="write the manifest of a model")
    packing.add_argument("folder", type=Path, metavar="DIR", help="with model.onnx and card.md")
    packing.add_argument("--description", type=Path, required=True, metavar="FILE")
    show = verbs.add_parser("show", help="print what a release is")
    show.add_argument("folder", type=Path, metavar="DIR")
    verify = verbs.add_parser("verify", help="check a release as a decider does")
    verify.add_argument("folder", type=Path, metavar="DIR")
    verify.add_argument(
        "--trust",
        type=Path,
        default=DEFAULT_TRUST,
        metavar="KEYS",
        help="a file of public keys, or a folder of *.pub (default: %(default)s)",
    )
    verify.add_argument(
        "--policy",
        type=Path,
        default=DEFAULT_POLICY,
        metavar="DIR",
        help="whose reference currency the release must be of (default: %(default)s)",
    )
    keygen = verbs.add_parser("keygen", help="make a key pair")
    keygen.add_argument("--out", type=Path, required=True, metavar="FILE")
    signing = verbs.add_parser("sign", help="sign a release")
    signing.add_argument("folder", type=Path, metavar="DIR")
    signing.add_argument("--key", type=Path, required=True, metavar="FILE")


def run(args: argparse.Namespace) -> int:
    """Dispatch. Errors are ours: 1 for a release that is not whole, 78 for what cannot be read."""
    verbs = {"pack": _pack, "show": _show, "verify": _verify, "keygen": _keygen, "sign": _sign}
    return verbs[args.what](args)


def _pack(args: argparse.Namespace) -> int:
    from sluice.adapters.onnx import Description, write_manifest  # noqa: PLC0415 - an extra

    try:
        description = msgspec.yaml.decode(_read(args.description), type=Description)
    except msgspec.DecodeError as exc:
        raise Misconfigured(
            str(exc), where=str(args.description), fix="docs/reference/release.md"
        ) from exc
    manifest = write_manifest(args.folder, description)
    print(
        f"{manifest.id}: {len(manifest.features)} features, {len(manifest.warm_up)} warm-up rows; "
        f"not signed: sluice release sign {args.folder} --key FILE"
    )
    return 0


def _show(args: argparse.Namespace) -> int:
    manifest = decode_manifest(_read(args.folder / MANIFEST), str(args.folder / MANIFEST))
    made = manifest.provenance
    print(f"{manifest.id}: {made.kind}")
    print(f"  made        {to_datetime(manifest.created_at):%Y-%m-%d %H:%M} UTC")
    print(
        f"  trained on  {made.rows} rows, {made.frauds} frauds, "
        f"{to_datetime(made.trained_from):%Y-%m-%d} to {to_datetime(made.trained_until):%Y-%m-%d}"
    )
    print(f"  features    {len(manifest.features)}, {_fit(manifest)}")
    print(f"  amounts     {manifest.reference_currency}")
    print(f"  tolerates   {', '.join(manifest.tolerates) or 'no missing view'}")
    for name, value in manifest.metrics.items():
        print(f"  {name:<40} {value}")
    print("  not verified: run sluice release verify")
    return 0


def _fit(manifest: Manifest) -> str:
    try:
        check_features(manifest, catalogue.FEATURES)
    except Misconfigured as error:
        return error.what
    return "all as in this build"


def _verify(args: argparse.Namespace) -> int:
    from sluice.adapters.onnx import load, read_trust, verify  # noqa: PLC0415 - an extra

    trusted = read_trust(args.trust)
    manifest, _, signer = verify(args.folder, trusted)
    reference = read_policy(args.policy, catalogue.FEATURES).fx.reference
    load(args.folder, trusted, catalogue.FEATURES, reference)
    print(
        f"{manifest.id} is whole: signed by {signer}, {len(manifest.files)} digests, "
        f"{len(manifest.features)} features, {len(manifest.warm_up)} warm-up rows"
    )
    return 0


def _keygen(args: argparse.Namespace) -> int:
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    try:
        handle = os.open(args.out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as exc:
        raise Misconfigured(f"cannot write the key: {exc.strerror}", where=str(args.out)) from exc
    with os.fdopen(handle, "wb") as file:
        file.write(private)
    public = args.out.with_name(args.out.name + ".pub")
    public.write_text(public_line(key.public_key(), args.out.name))
    print(f"{key_id(key.public_key())}: {args.out} is secret, {public} is to be trusted")
    return 0


def _sign(args: argparse.Namespace) -> int:
    """Refuses to sign a manifest whose files are not the ones it names."""
    raw = _read(args.folder / MANIFEST)
    manifest = decode_manifest(raw, str(args.folder / MANIFEST))
    check_files(manifest, {name: _read(args.folder / name) for name in manifest.files})
    key = read_private_key(args.key)
    (args.folder / SIGNATURE).write_bytes(sign(raw, key))
    print(
        f"{manifest.id} signed by {key_id(key.public_key())}: "
        f"manifest {hashlib.sha256(raw).hexdigest()[:12]}",
        file=sys.stderr,
    )
    return 0


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """A PEM file as keygen writes it. Raises Misconfigured; the error holds nothing of the key."""
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
