"""The parts of ``sluice report``: logs, the keystore and the archive joined with the documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from sluice.adapters.report import document_page
from sluice.application.read_log import Order
from sluice.application.reports.document import Pack
from sluice.application.reports.evidence import Log, Progress
from sluice.application.reports.psd2 import psd2
from sluice.application.reports.receipt import erasure_receipt
from sluice.audit.notes import Key
from sluice.bootstrap.keystore import keystore
from sluice.bootstrap.log import log_files
from sluice.domain.clock import SystemClock
from sluice.errors import Misconfigured, Unavailable
from sluice.settings import Settings
from sluice.shown import ascii_json

PAGE, DATA = "report.html", "report.json"


def logs(folders: Sequence[Path], keys: Sequence[Key], order: Callable[[Key], Order]) -> list[Log]:
    """Of each folder, by the key in the same place."""
    return [Log(log_files(folder), order(key)) for folder, key in zip(folders, keys, strict=True)]


def check_new(out: Path) -> None:
    """That a report overwrites nothing, least of all another one. Raises Misconfigured."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Misconfigured("something lies there", where=str(out), fix="name a new folder")


def write_pack(out: Path, pack: Pack) -> list[Path]:
    """All files of a report, in a folder of its own. Raises Unavailable."""
    data = ascii_json(msgspec.json.format(msgspec.json.encode(pack.document), indent=2).decode())
    files = {
        PAGE: document_page(pack.document).encode(),
        DATA: data.encode() + b"\n",
        **pack.files,
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, raw in files.items():
            (out / name).write_bytes(raw)
    except OSError as exc:
        raise Unavailable(f"cannot be written: {exc.strerror}", where=str(out)) from exc
    return [out / name for name in files]


def receipt(
    settings: Settings, held: Sequence[Log], progress: Progress, request: str, *, look: bool
) -> Pack:
    """See :func:`sluice.application.reports.receipt.erasure_receipt`. look: into the keystore of
    the settings. Raises Misconfigured, Unavailable, Corrupt for a keystore that cannot be opened.
    """
    now = SystemClock().now_us()
    if not look:
        return erasure_receipt(held, request, now_us=now, progress=progress)
    with keystore(settings) as store:
        return erasure_receipt(held, request, now_us=now, progress=progress, keys=store)


def quarter(held: Sequence[Log], progress: Progress, name: str, tenants: Sequence[str]) -> Pack:
    """See :func:`sluice.application.reports.psd2.psd2`."""
    return psd2(held, name, now_us=SystemClock().now_us(), tenants=tenants, progress=progress)
