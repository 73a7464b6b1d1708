"""`make pins`: the digest of each image that Dockerfiles and chart name, put beside its tag.

A tag may be pushed anew, a digest not. Asked is the registry, by the tool that this machine has:
docker, skopeo or crane. With `check` nothing is written: it ends with 1 where a pin is missing or
another than the registry's.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sluice.errors import SluiceError, Unavailable

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILES = ("services/Dockerfile", "models/Dockerfile", "benchmarks/cluster/Dockerfile")
VALUES = "charts/sluice/values.yaml"
ASK_MAX_S = 60
TOOLS: Mapping[str, tuple[str, ...]] = {
    "docker": ("buildx", "imagetools", "inspect", "--format", "{{.Manifest.Digest}}"),
    "skopeo": ("inspect", "--format", "{{.Digest}}"),
    "crane": ("digest",),
}
"""What each is asked by, the image last. Of an image for several architectures each answers with
the digest of its index."""
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_BASE = re.compile(r"^(ARG BASE=)([^@\s]+)(@sha256:[0-9a-f]{64})?$", re.MULTILINE)
_IMAGE = re.compile(
    r"^(?P<head>(?P<pad> +)repository: (?P<name>\S+)\n(?: +#.*\n)*(?P=pad)tag: (?P<tag>\S+)\n"
    r'(?: +#.*\n)*(?P=pad)digest: )(?P<digest>""|sha256:[0-9a-f]{64})$',
    re.MULTILINE,
)
"""In the chart's values. The services' own image has no tag there: whoever builds it pins it."""


@dataclass(frozen=True)
class Pin:
    """An image as a file names it. digest: "" where none stands beside its tag. at: of the digest
    in the file's text, from and to."""

    file: str
    image: str
    digest: str
    at: tuple[int, int]
    written: str
    """What is put there, but for the digest: {}."""


def pins(root: Path = ROOT) -> Iterator[Pin]:
    """All of them."""
    for file in DOCKERFILES:
        for found in _BASE.finditer((root / file).read_text()):
            digest = (found[3] or "").removeprefix("@")
            yield Pin(file, found[2], digest, (found.end(2), found.end()), "@{}")
    for found in _IMAGE.finditer((root / VALUES).read_text()):
        if found["tag"] != '""':
            digest = found["digest"].strip('"')
            image = f"{found['name']}:{found['tag']}"
            yield Pin(VALUES, image, digest, found.span("digest"), "{}")


def write(digests: Mapping[str, str], root: Path = ROOT) -> list[Pin]:
    """Put these digests, by image, where they belong. Returns what was another before."""
    changed = [pin for pin in pins(root) if digests.get(pin.image, pin.digest) != pin.digest]
    for pin in sorted(changed, key=lambda pin: pin.at, reverse=True):  # later places first
        path = root / pin.file
        text = path.read_text()
        begin, end = pin.at
        path.write_text(text[:begin] + pin.written.format(digests[pin.image]) + text[end:])
    return changed


def resolve(images: Sequence[str]) -> dict[str, str]:
    """Digests by image, from their registries. Raises Unavailable."""
    tool = next((name for name in TOOLS if shutil.which(name)), None)
    if tool is None:
        raise Unavailable(
            f"none of {', '.join(TOOLS)} is installed",
            where="make pins",
            fix="install one of them where the registries can be reached",
        )
    return {image: _digest(tool, image) for image in images}


def _digest(tool: str, image: str) -> str:
    named = f"docker://{image}" if tool == "skopeo" else image
    try:
        done = subprocess.run(
            [tool, *TOOLS[tool], named],
            capture_output=True,
            text=True,
            timeout=ASK_MAX_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"no answer within {ASK_MAX_S} s", where=f"{tool}, {image}") from None
    said = done.stdout.strip()
    if done.returncode or not _DIGEST.fullmatch(said):
        raise Unavailable(
            f"no digest: {(done.stderr.strip() or said)[-400:]}",
            where=f"{tool}, {image}",
            fix="is the registry reachable from here, and is the tag there?",
        )
    return said


def main(words: Sequence[str]) -> int:
    """Print each image and its digest; write, or with `check` compare."""
    images = sorted({pin.image for pin in pins()})
    try:
        digests = resolve(images)
    except SluiceError as error:
        print(f"make pins: {error}; nothing was changed", file=sys.stderr)
        return 1
    if list(words) == ["check"]:
        wrong = [pin for pin in pins() if pin.digest != digests[pin.image]]
        for pin in wrong:
            print(f"{pin.file}: {pin.image} has {pin.digest or 'no digest'}", file=sys.stderr)
        return 1 if wrong else 0
    for image in images:
        print(f"{image} {digests[image]}")
    for pin in write(digests):
        print(f"{pin.file}: {pin.image}, it had {pin.digest or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
