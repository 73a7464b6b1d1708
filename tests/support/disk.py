"""A small disk of its own that a test fills, breaks, or makes read-only: ext4 on zram, a block
device in memory. Needs root and a kernel with zram.

It breaks as a disk does: zram is given no more memory, so that each block that is written ends in
an I/O error, and the pages that were to be written count as clean from then on.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType

import pytest

CONTROL = Path("/sys/class/zram-control")
MIB = 1 << 20
SIZE_MIB = 24
BUSY_MAX_S = 10.0
_PROGRAMS = ("mkfs.ext4", "mount", "umount")


def needs_disks() -> None:
    """Skip the test where there can be none; in CI it goes on, and fails."""
    lacking = [name for name in _PROGRAMS if shutil.which(name) is None]
    if os.geteuid() != 0:
        why = "to mount a disk takes root"
    elif not CONTROL.exists():
        why = "the kernel has no zram"
    else:
        why = f"not installed: {', '.join(lacking)}" if lacking else ""
    if why and os.environ.get("CI") != "true":
        pytest.skip(why)


class Disk:
    """Mounted at ``root`` while it is open."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._number = ""

    def __enter__(self) -> Disk:
        self.root.mkdir(parents=True, exist_ok=True)
        self._number = (CONTROL / "hot_add").read_text().strip()
        self._set("disksize", SIZE_MIB * MIB)
        # No log of its own: with one it would make itself read-only at the first error.
        _run("mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", self._device)
        self._mount()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._set("mem_limit", 0)
        _run("umount", "--lazy", str(self.root))
        until = time.monotonic() + BUSY_MAX_S
        while True:  # who had a file open, and was killed, has let go in a moment
            try:
                (CONTROL / "hot_remove").write_text(self._number)
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)
            else:
                return

    @contextmanager
    def full(self) -> Iterator[None]:
        """Not a block is free."""
        filler = self.root / "filler"
        with filler.open("wb", buffering=0) as file:
            for step in (MIB, 4096, 1):
                try:
                    while True:
                        file.write(bytes(step))
                except OSError as exc:
                    if exc.errno != errno.ENOSPC:
                        raise
            os.fsync(file.fileno())
        try:
            yield
        finally:
            filler.unlink()

    @contextmanager
    def broken(self) -> Iterator[None]:
        """Nothing can be written to it."""
        self._set("mem_limit", os.sysconf("SC_PAGE_SIZE"))
        try:
            yield
        finally:
            self._set("mem_limit", 0)

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """No file can be opened to be written; one that is open goes on."""
        _run("mount", "--bind", str(self.root), str(self.root))
        _run("mount", "-o", "remount,bind,ro", str(self.root))
        try:
            yield
        finally:
            _run("umount", "--lazy", str(self.root))

    def fails(self) -> None:
        """The kernel makes it read-only, until it is mounted again."""
        _run("mount", "-o", "remount,errors=remount-ro", str(self.root))
        Path(f"/sys/fs/ext4/zram{self._number}/trigger_fs_error").write_text("a test")

    def mount_again(self) -> None:
        """What only memory had is gone. Nobody may have a file of it open."""
        _run("umount", str(self.root))
        self._mount()

    @property
    def _device(self) -> str:
        return f"/dev/zram{self._number}"

    def _mount(self) -> None:
        _run("mount", "-t", "ext4", "-o", "errors=continue", self._device, str(self.root))

    def _set(self, name: str, value: int) -> None:
        Path(f"/sys/block/zram{self._number}/{name}").write_text(str(value))


Fault = Callable[[Disk], AbstractContextManager[None]]
FAULTS: tuple[Fault, ...] = (Disk.full, Disk.broken, Disk.read_only)


def _run(*words: str) -> None:
    """Raises RuntimeError with what it said."""
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise RuntimeError(f"{' '.join(words)}: {ran.stderr.strip()}")
