"""A container of an image in buildah's store, by runc: what a restricted pod may do, not more."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

IMAGE = "localhost/sluice:test"
_KEPT_FROM_VIEW = ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware")


def buildah(folder: Path, *words: str) -> str:
    """Run buildah on the store in folder. Returns what it printed."""
    store = ["--root", str(folder / "store"), "--runroot", str(folder / "run")]
    command = ["buildah", *store, "--storage-driver", "overlay", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def why_not() -> str:
    """What this machine lacks to build and run the image; "" if nothing."""
    missing = [tool for tool in ("buildah", "runc", "debootstrap") if shutil.which(tool) is None]
    if missing:
        return f"apt-get install {' '.join(missing)}"
    return "" if os.geteuid() == 0 else "debootstrap and runc need root"


def specification(
    image: Mapping[str, Any], rootfs: str, environment: Mapping[str, str], binds: Mapping[str, Path]
) -> dict[str, Any]:
    """The OCI runtime's config.json: the image's user, command and variables, a read-only root, an
    empty /tmp, the host's network. binds: further folders, read-only.
    """
    uid, gid = (int(number) for number in image["User"].split(":"))

    def mount(where: str, kind: str, *options: str, source: str = "") -> dict[str, Any]:
        return {
            "destination": where,
            "type": kind,
            "source": source or kind,
            "options": list(options),
        }

    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": uid, "gid": gid},
            "args": [*image["Entrypoint"], *image["Cmd"]],
            "env": [*image["Env"], *(f"{k}={v}" for k, v in environment.items())],
            "cwd": image["WorkingDir"],
            "capabilities": {},
            "noNewPrivileges": True,
        },
        "root": {"path": rootfs, "readonly": True},
        "mounts": [
            mount("/proc", "proc"),
            mount("/dev", "tmpfs", "nosuid", "mode=755", "size=64k"),
            # As each container runtime gives it: processes share semaphores there.
            mount("/dev/shm", "tmpfs", "nosuid", "nodev", "noexec", "mode=1777", "size=64m"),
            mount("/tmp", "tmpfs", "nosuid", "nodev", "mode=1777", "size=64m"),
            *(mount(where, "bind", "rbind", "ro", source=str(p)) for where, p in binds.items()),
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")],
            "maskedPaths": list(_KEPT_FROM_VIEW),
        },
    }


@dataclass
class Container:
    """A running one."""

    process: subprocess.Popen[bytes]
    log: Path
    _runc: Sequence[str]
    _name: str

    def alive(self) -> bool:
        """True while it runs."""
        return self.process.poll() is None

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A further command inside."""
        words = [*self._runc, "exec", self._name, *command]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    @property
    def pid(self) -> int:
        """Of its first process, as this machine counts."""
        state = subprocess.run([*self._runc, "state", self._name], check=True, capture_output=True)
        number: int = json.loads(state.stdout)["pid"]
        return number

    def terminate(self) -> int:
        """SIGTERM, and wait. Returns its exit status."""
        subprocess.run([*self._runc, "kill", self._name, "TERM"], check=True)
        return self.process.wait(30)


@contextmanager
def running(
    folder: Path,
    environment: Mapping[str, str],
    binds: Mapping[str, Path],
    scratch: Path,
    *,
    tag: str = IMAGE,
    command: Sequence[str] | None = None,
) -> Iterator[Container]:
    """Start an image's command, or another; ends and removes the container. scratch: for its files
    here."""
    name = f"sluice-test-{uuid.uuid4().hex[:8]}"
    runc = ["runc", "--root", str(scratch / "runc")]
    working = buildah(folder, "from", "--pull-never", tag)
    log = scratch / "log"
    process = None
    try:
        rootfs = buildah(folder, "mount", working)
        described = json.loads(buildah(folder, "inspect", "--type", "image", tag))
        image = described["OCIv1"]["config"]
        if command is not None:
            image |= {"Entrypoint": [], "Cmd": [*command]}
        (scratch / "config.json").write_text(
            json.dumps(specification(image, rootfs, environment, binds))
        )
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*runc, "run", "--bundle", str(scratch), name], stdout=out, stderr=out
            )
        yield Container(process, log, runc, name)
    finally:
        subprocess.run([*runc, "delete", "--force", name], check=False, capture_output=True)
        if process is not None:
            process.wait(30)
        with suppress(subprocess.CalledProcessError):
            buildah(folder, "umount", working)
        buildah(folder, "rm", working)
