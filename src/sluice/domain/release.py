"""A release: a model with everything needed to trust it, in one folder.

``model.onnx``, ``card.md``, ``manifest.json`` and ``manifest.sig``; from version 3 of the manifest
maybe ``model.int8.onnx``, ``reference.json`` and ``certificate.json``. The manifest names the
digests of the other files and of what the model was made from, the features in order with a digest
of what each one means, and rows with the scores they must give. It knows nothing of other features,
nor of the store. The signature covers the manifest's exact bytes, so one signature covers all.
Pure: bytes in, a checked manifest or an error out.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Final, Literal, Protocol

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Meta

from sluice.domain.clock import from_datetime, to_datetime
from sluice.domain.records.authorization import Currency, MicrosUtc
from sluice.domain.records.decision import Entrypoint
from sluice.domain.records.entity import EntityKind
from sluice.errors import Corrupt, Misconfigured

MODEL: Final = "model.onnx"
CARD, MANIFEST, SIGNATURE = "card.md", "manifest.json", "manifest.sig"
MODEL_INT8: Final = "model.int8.onnx"
REFERENCE, CERTIFICATE = "reference.json", "certificate.json"
NEEDED = (MODEL, CARD, MANIFEST, SIGNATURE)
OPTIONAL = (MODEL_INT8, REFERENCE, CERTIFICATE)
"""Of a manifest of version 3, each by its digest in ``files``."""
FILES = (*NEEDED, *OPTIONAL)
MAX_BYTES = {
    **{MODEL: 32 << 20, MODEL_INT8: 32 << 20},
    **{CARD: 1 << 20, MANIFEST: 1 << 20, REFERENCE: 1 << 20, CERTIFICATE: 1 << 20},
    SIGNATURE: 4096,
}
"""Of each file. A model: far above the largest that answers within its budget; onnxruntime takes a
copy, in which no other thread of Python runs: 25 ms."""
FEATURES_KEY = "sluice.features"
"""Metadata of the ONNX file: its columns by name, joined by commas. The manifest must agree."""
OPSETS = range(17, 24)
"""Opsets of the ONNX default domain that we exported, loaded and compared."""

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}$")]
"""First 16 hex digits of a SHA-256: tells two apart, where the signature keeps forgers out."""
Ppm = Annotated[int, Meta(ge=0, le=1_000_000)]
RELEASE_ID = r"^[a-z0-9][a-z0-9.-]{0,63}$"
ReleaseId = Annotated[str, Meta(pattern=RELEASE_ID)]
Value = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
"""Of a feature."""
Step = Literal["challenge", "review", "decline"]
"""What a threshold on the score leads to."""
Graph = Literal["model.onnx", "model.int8.onnx"]
"""A variant of the model: in single precision, or quantised to eight bits."""


class FeatureLike(Protocol):
    """What a release needs of a :class:`sluice.domain.features.catalogue.Feature`."""

    @property
    def name(self) -> str:  # noqa: D102
        ...

    @property
    def group(self) -> str:  # noqa: D102
        ...

    @property
    def definition(self) -> str:  # noqa: D102
        ...

    @property
    def meaning(self) -> str:  # noqa: D102
        ...


class UsedFeature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A column of the model, and what it must be wherever the model is served.

    definition: digest of what the catalogue says of it. meaning: digest of what the kernel
    computes for it, the versions of its registers.
    """

    name: str
    definition: Digest
    meaning: Digest


def used(feature: FeatureLike) -> UsedFeature:
    """A catalogue's feature as a manifest names it."""
    return UsedFeature(feature.name, _digest(feature.definition), _digest(feature.meaning))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Vector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row, in the order of the manifest's features, and the score that it must get.

    int8_ppm: the one that ``model.int8.onnx`` must give, where there is one.
    """

    features: list[Value]
    score_ppm: Ppm
    int8_ppm: Ppm | None = None


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the model was made from.

    data: SHA-256 of the training table's files. code: of the training package's sources. kind:
    what was trained. prior_correction_milli: what was taken off the logit for the negatives
    left out, in thousandths; it is already inside the graph.
    """

    kind: str
    data: Sha256
    code: Sha256
    trained_from: MicrosUtc
    trained_until: MicrosUtc
    rows: int
    frauds: int
    prior_correction_milli: int
    seed: int


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``manifest.json``.

    files: SHA-256 by name, of model.onnx, card.md and those of OPTIONAL that there are. features:
    the columns, in order. variants: which graph an entrypoint scores with, model.onnx where it is
    not named. reference_currency: what amounts are in. tolerates: views that may be missing
    (degradation level D1). reference_row: medians, what a group of features is set to when its
    weight is asked. tolerance_ppm: how far a warm-up score may be off, for the last bit differs
    between makes of processor; int8_tolerance_ppm: the same of model.int8.onnx, where that bit may
    move an activation by a step. metrics: integers, unit in the name. thresholds_ppm: suggestion to
    the policy pack.
    """

    v: Literal[2, 3] = 3
    id: ReleaseId
    created_at: MicrosUtc
    files: dict[str, Sha256]
    features: Annotated[list[UsedFeature], Meta(min_length=1)]
    variants: dict[Entrypoint, Graph] = {}
    reference_currency: Currency
    input: str
    output: str
    opset: int
    tolerates: list[EntityKind]
    reference_row: list[Value]
    warm_up: Annotated[list[Vector], Meta(min_length=1, max_length=64)]
    tolerance_ppm: Annotated[int, Meta(ge=0, le=1)] = 1
    int8_tolerance_ppm: Annotated[int, Meta(ge=0, le=10_000)] = 1_000
    provenance: Provenance
    metrics: dict[str, int]
    thresholds_ppm: dict[Step, Ppm]
    signature: Literal["ed25519"] = "ed25519"

    @property
    def names(self) -> list[str]:
        """The columns by name."""
        return [feature.name for feature in self.features]

    def graph(self, entrypoint: Entrypoint | None) -> Graph:
        """The file that an entrypoint scores with; model.onnx for none."""
        return MODEL if entrypoint is None else self.variants.get(entrypoint, MODEL)


class Trusted(Protocol):
    """Who may sign, now."""

    @property
    def keys(self) -> Mapping[str, Ed25519PublicKey]:
        """Public keys by id."""
        ...

    @property
    def withdrawn(self) -> Mapping[str, str]:
        """Keys that may not sign any more, and why, by id."""
        ...


@dataclass(frozen=True, slots=True)
class TrustedKeys:
    """Public keys by id, from files of lines ``ed25519 BASE64 comment [not_after=DATE]`` and
    ``revoked ID why``.

    keys: those that are trusted. withdrawn: those that are not any more, and why. not_after: when
    a key's trust ends, microseconds UTC, of those that have an end.
    """

    keys: Mapping[str, Ed25519PublicKey]
    withdrawn: Mapping[str, str] = field(default_factory=dict)
    not_after: Mapping[str, int] = field(default_factory=dict)

    def at(self, now_us: int) -> TrustedKeys:
        """The same at a moment: what has ended by then is withdrawn."""
        ended = {
            key: f"whose trust ended on {to_datetime(end):%Y-%m-%d %H:%M} UTC"
            for key, end in self.not_after.items()
            if end <= now_us and key in self.keys
        }
        keys = {key: public for key, public in self.keys.items() if key not in ended}
        return TrustedKeys(keys, {**ended, **self.withdrawn}, self.not_after)


def key_id(public: Ed25519PublicKey) -> str:
    """First 16 hex digits of the SHA-256 of the 32 raw bytes."""
    return hashlib.sha256(public.public_bytes_raw()).hexdigest()[:16]


def public_line(public: Ed25519PublicKey, comment: str) -> str:
    """The line by which a key is trusted."""
    return f"ed25519 {base64.b64encode(public.public_bytes_raw()).decode()} {comment}\n"


def _public_key(scheme: str, encoded: str) -> Ed25519PublicKey:
    if scheme != "ed25519":
        raise ValueError(scheme)
    return Ed25519PublicKey.from_public_bytes(base64.b64decode(encoded, validate=True))


NO_KEYS = "no_keys"
"""Code of a trust folder that trusts nobody."""


def parse_trust(text: str, where: str) -> TrustedKeys:
    """Read public keys, one a line, ``#`` a comment. Raises Misconfigured with the line.

    A key's line may hold ``not_after=DATE``, a day (its first moment, UTC) or a moment with its
    zone. A line ``revoked ID why`` takes a key back, wherever else its own line stands.
    """
    keys: dict[str, Ed25519PublicKey] = {}
    not_after: dict[str, int] = {}
    revoked: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            if words[0] == "revoked":
                revoked[_key_id(words[1])] = "which was revoked: " + (
                    " ".join(words[2:]) or "it does not say why"
                )
                continue
            public = _public_key(*words[:2])
            name = key_id(public)
            keys[name] = public
            for word in words[2:]:
                if word.startswith(_NOT_AFTER):
                    end = _moment(word.removeprefix(_NOT_AFTER))
                    not_after[name] = min(end, not_after.get(name, end))
        except (TypeError, ValueError, IndexError, OverflowError) as exc:
            raise Misconfigured(
                "not a public key, nor a revoked one",
                where=f"{where}:{number}",
                fix="write lines of: ed25519 BASE64 comment not_after=2027-01-31, or: revoked ID "
                "why",
            ) from exc
    if not keys:
        raise Misconfigured("no public key in it", where=where, code=NO_KEYS)
    keys = {name: public for name, public in keys.items() if name not in revoked}
    return TrustedKeys(keys, revoked, not_after)


_NOT_AFTER = "not_after="


def _key_id(text: str) -> str:
    if re.fullmatch("[0-9a-f]{16}", text) is None:
        raise ValueError(text)
    return text


def _moment(text: str) -> int:
    """A day or a moment in ISO 8601, to microseconds UTC; a day begins at midnight UTC."""
    moment = datetime.fromisoformat(text)
    if len(text) == len("2027-01-31"):
        moment = moment.replace(tzinfo=UTC)
    return from_datetime(moment)


def sign(manifest: bytes, key: Ed25519PrivateKey) -> bytes:
    """``manifest.sig``: one line of scheme, key id and signature over the exact bytes."""
    signature = base64.b64encode(key.sign(manifest)).decode()
    return f"ed25519 {key_id(key.public_key())} {signature}\n".encode()


def decode_manifest(raw: bytes, where: str = MANIFEST) -> Manifest:
    """Parse a manifest, strictly, and check that its parts fit. Raises Misconfigured."""
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except msgspec.DecodeError as exc:
        raise Misconfigured(str(exc), where=where, fix="docs/reference/release.md") from exc
    width = len(manifest.features)
    rows = [manifest.reference_row, *(v.features for v in manifest.warm_up)]
    if any(len(row) != width for row in rows):
        raise Misconfigured(f"a row does not have {width} features", where=where)
    if len(set(manifest.names)) != width:
        raise Misconfigured("a feature is named twice", where=where)
    _check_files_named(manifest, where)
    if manifest.opset not in OPSETS:
        raise Misconfigured(
            f"opset {manifest.opset} is not in {OPSETS.start} to {OPSETS.stop - 1}", where=where
        )
    return manifest


def _check_files_named(manifest: Manifest, where: str) -> None:
    """Raise Misconfigured if files are named that there cannot be, or graphs that are not named."""
    optional = OPTIONAL if manifest.v > _WITHOUT_OPTIONAL else ()
    named = set(manifest.files)
    if not {MODEL, CARD} <= named <= {MODEL, CARD, *optional}:
        besides = f", and of the rest only {', '.join(optional)}" if optional else " alone"
        raise Misconfigured(f"files must name {MODEL} and {CARD}{besides}", where=where)
    for entrypoint, graph in manifest.variants.items():
        if graph not in named:
            raise Misconfigured(
                f"{entrypoint} scores with {graph}, which is not among files",
                where=f"{where}, variants",
            )
    scored = sum(vector.int8_ppm is not None for vector in manifest.warm_up)
    if scored != (len(manifest.warm_up) if MODEL_INT8 in named else 0):
        raise Misconfigured(
            f"{scored} of {len(manifest.warm_up)} rows have an int8_ppm: all must with "
            f"{MODEL_INT8}, and none without",
            where=f"{where}, warm_up",
        )


_WITHOUT_OPTIONAL = 2
"""Version of the manifests that had no optional files."""

KEY_WITHDRAWN = "key_withdrawn"
"""Code of a signature by a key that was revoked, or whose trust has ended."""


def check_signature(
    manifest: bytes, signature: bytes, trusted: Trusted, where: str = SIGNATURE
) -> str:
    """Return the id of the key that signed. Raises Corrupt: malformed, unknown key, no match; with
    code KEY_WITHDRAWN for a key that is not trusted any more."""
    try:
        scheme, signer, encoded = signature.decode("ascii").split()
        raw = base64.b64decode(encoded, validate=True)
    except ValueError as exc:  # of the words, the ASCII and the base64 alike
        raise Corrupt("the signature is malformed", where=where) from exc
    if scheme != "ed25519":
        raise Corrupt(f"unknown signature scheme {scheme}", where=where)
    public = trusted.keys.get(signer)
    if public is None and (why := trusted.withdrawn.get(signer)):
        raise Corrupt(
            f"signed by {signer}, {why}",
            where=where,
            fix="sign it with a key that is trusted, if you still vouch for it",
            code=KEY_WITHDRAWN,
        )
    if public is None:
        raise Corrupt(
            f"signed by {signer}, which is not trusted",
            where=where,
            fix="add its public key to the trust folder if you know whose it is",
        )
    try:
        public.verify(raw, manifest)
    except InvalidSignature as exc:
        raise Corrupt("the signature does not match the manifest", where=where) from exc
    return signer


def check_files(manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """Raise Corrupt naming the file whose digest is not the manifest's."""
    for name, expected in manifest.files.items():
        found = hashlib.sha256(files[name]).hexdigest()
        if found != expected:
            raise Corrupt(
                f"{name} has the digest {found[:12]}…, the manifest says {expected[:12]}…",
                where=name,
            )


def check_features(manifest: Manifest, features: Sequence[FeatureLike]) -> list[int]:
    """Columns of the manifest's features in catalogue rows, whatever else the catalogue has.

    Raises Misconfigured naming the features that do not exist; else the first that is defined or
    computed otherwise, with what this build has.
    """
    index = {feature.name: i for i, feature in enumerate(features)}
    if absent := [name for name in manifest.names if name not in index]:
        raise Misconfigured(
            f"the catalogue has no feature {', '.join(absent)}",
            where=MANIFEST,
            fix="run a build that has them, or train a release without them",
        )
    columns = [index[name] for name in manifest.names]
    differ = [
        (wanted, features[i])
        for wanted, i in zip(manifest.features, columns, strict=True)
        if wanted != used(features[i])
    ]
    if differ:
        wanted, found = differ[0]
        what = (
            f"is defined otherwise: here it is {found.definition}"
            if wanted.definition != _digest(found.definition)
            else f"is computed by another version of the kernel: here it is {found.meaning}"
        )
        more = f", and {len(differ) - 1} more differ" if len(differ) > 1 else ""
        raise Misconfigured(
            f"{found.name} {what}{more}",
            where=MANIFEST,
            fix="run the build it was trained with, or train a release with this one",
        )
    return columns


def check_reference(manifest: Manifest, currency: str) -> None:
    """Raise Misconfigured if amounts are converted to another currency than it was trained on."""
    if manifest.reference_currency != currency:
        raise Misconfigured(
            f"trained on amounts in {manifest.reference_currency}, "
            f"the policy converts them to {currency}",
            where=MANIFEST,
            fix="train a release on this currency, or serve it with a policy of its own",
        )
