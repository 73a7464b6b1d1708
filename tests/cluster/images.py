"""The images of the cluster, made here and handed to its containerd: no registry is asked.

One program is written into an archive directly. The services' image is built from their own
Dockerfile by tests/image/build.sh, the one place that stands in for its base.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from sluice.errors import Unavailable
from tests.cluster.node import ROOT, Node
from tests.image.container import IMAGE, buildah

BUILT = ROOT / "var/image"
"""Store of tests/image/build.sh."""
SERVICES, NEXT = "localhost/sluice:1", "localhost/sluice:2"
"""One image by two names: a rollout goes by the name."""
LOADER, LOADER_BUILT = "localhost/sluice-loader:1", "localhost/sluice-loader:test"
BUSYBOX = Path("/bin/busybox")
NOBODY = 65532


def one_program(
    name: str, program: Path, *, arguments: Sequence[str] = (), links: Sequence[str] = ()
) -> tuple[str, bytes]:
    """The tag, and a `docker save` archive, of an image that holds one static program and runs it
    with these arguments. links: further names of it, in /bin. The same bytes for the same input."""
    path = f"bin/{program.name}"
    return of_files(
        name,
        {path: program.read_bytes()},
        links={f"bin/{link}": program.name for link in links},
        command=[f"/{path}", *arguments],
    )


def of_files(
    name: str,
    files: Mapping[str, bytes],
    *,
    links: Mapping[str, str],
    command: Sequence[str] = (),
) -> tuple[str, bytes]:
    """The same of any files. links: path to what it leads to, from there."""
    layer = _tar(files, links)
    digest = hashlib.sha256(layer).hexdigest()
    config = json.dumps(
        {
            "architecture": _architecture(),
            "os": "linux",
            "config": {
                "Entrypoint": [*command],
                "Env": ["PATH=/bin"],
                "User": f"{NOBODY}:{NOBODY}",
            },
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    ).encode()
    named = f"{hashlib.sha256(config).hexdigest()}.json"
    tag = f"localhost/{name}:1"
    manifest = [{"Config": named, "RepoTags": [tag], "Layers": [f"{digest}.tar"]}]
    whole = {f"{digest}.tar": layer, named: config, "manifest.json": json.dumps(manifest).encode()}
    return tag, _tar(whole, {})


def load(node: Node, tag: str, archive: bytes) -> None:
    """Hand an archive to containerd, unless it has it."""
    mark = hashlib.sha256(archive).hexdigest()
    if not _known(node, tag, mark):
        _ctr(node, "images", "import", "-", given=archive)
        _remember(node, tag, mark)


def load_services(node: Node) -> None:
    """Build the services' image where its sources changed, and hand it over under both names."""
    _load_built(node, IMAGE, SERVICES, NEXT)


def load_loader(node: Node) -> None:
    """The same with Locust's, for a benchmark."""
    _load_built(node, LOADER_BUILT, LOADER, what="loader")


def _load_built(node: Node, built: str, tag: str, *further: str, what: str = "") -> None:
    subprocess.run(
        [ROOT / "tests/image/build.sh", BUILT, what], check=True, stdout=subprocess.DEVNULL
    )
    mark = buildah(BUILT, "inspect", "--type", "image", "--format", "{{.FromImageID}}", built)
    if _known(node, tag, mark):
        return
    archive = Path(node.state) / "built.tar"
    archive.unlink(missing_ok=True)
    try:
        buildah(BUILT, "push", "--quiet", built, f"docker-archive:{archive}:{tag}")
        _ctr(node, "images", "import", str(archive))
    finally:
        archive.unlink(missing_ok=True)
    for other in further:
        _ctr(node, "images", "tag", "--force", tag, other)
    _remember(node, tag, mark)


def _known(node: Node, tag: str, mark: str) -> bool:
    return json.loads(_marks(node).read_text()).get(tag) == mark if _marks(node).exists() else False


def _remember(node: Node, tag: str, mark: str) -> None:
    known = json.loads(_marks(node).read_text()) if _marks(node).exists() else {}
    _marks(node).write_text(json.dumps(known | {tag: mark}))


def _marks(node: Node) -> Path:
    """Beside containerd's data, and gone with it."""
    return Path(node.state) / "containerd/imported.json"


def _ctr(node: Node, *words: str, given: bytes | None = None) -> None:
    command = node.inside("ctr", "--namespace", "k8s.io", *words)
    done = subprocess.run(command, input=given, capture_output=True, check=False)
    if done.returncode:
        raise Unavailable(
            f"ctr {' '.join(words)}: {done.stderr.decode(errors='replace')[-1000:]}",
            where=f"{node.state}/log/containerd.log",
            fix="free space? an image takes twice its size",
        )


def _tar(files: Mapping[str, bytes], links: Mapping[str, str]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o755
            tar.addfile(entry, io.BytesIO(data))
        for name, target in links.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return made.getvalue()


def _architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
