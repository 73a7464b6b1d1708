"""The parts of ``sluice report``: logs, the keystore and the archive joined with the documents."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import msgspec

from sluice.adapters.regular_files import read_regular
from sluice.adapters.report import document_page
from sluice.adapters.storage import AnyPath
from sluice.application.judging.certificate import read_certificate, unverified
from sluice.application.open_record import Found, opened
from sluice.application.read_log import Order
from sluice.application.reports import chargeback, customer, model_change
from sluice.application.reports.document import Pack
from sluice.application.reports.evidence import Log, Progress
from sluice.application.reports.of_authorization import Access, Personal
from sluice.application.reports.psd2 import psd2
from sluice.application.reports.receipt import erasure_receipt
from sluice.audit.notes import Key
from sluice.bootstrap import verbs
from sluice.bootstrap.keystore import granted, keystore
from sluice.bootstrap.library import FolderLibrary, folders_with
from sluice.bootstrap.log import log_files
from sluice.domain.clock import SystemClock
from sluice.domain.records.decision import Decision
from sluice.domain.records.log_record import DecisionRecord
from sluice.domain.release import (
    CERTIFICATE,
    MANIFEST,
    SIGNATURE,
    TrustedKeys,
    check_signature,
    decode_manifest,
)
from sluice.errors import Corrupt, Misconfigured, Rejected, Unavailable
from sluice.settings import Settings
from sluice.shown import ascii_json

PAGE, DATA = "report.html", "report.json"
RELEASE_FILE_MAX_BYTES = 4 << 20
"""Of a manifest, a card or a certificate; the largest is a manifest with its warm-up rows."""


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


def explanation(
    settings: Settings,
    held: Sequence[Log],
    progress: Progress,
    authorization_id: str,
    *,
    grant: Path,
    audience: customer.Audience,
    archive: AnyPath,
    library: FolderLibrary,
    warn: Callable[[str], None],
) -> Pack:
    """See :func:`sluice.application.reports.customer.explain_to_customer`. warn: is told why there
    is no counterfactual. Raises Rejected for a grant that does not hold, besides."""
    with _access(settings, grant, authorization_id) as access:
        return customer.explain_to_customer(
            held,
            authorization_id,
            access,
            audience=audience,
            now_us=SystemClock().now_us(),
            instead=lambda header, personal: _instead(archive, library, header, personal, warn),
            progress=progress,
        )


def disputed(
    settings: Settings,
    held: Sequence[Log],
    progress: Progress,
    authorization_id: str,
    *,
    grant: Path | None,
) -> Pack:
    """See :func:`sluice.application.reports.chargeback.chargeback`."""
    with nullcontext() if grant is None else _access(settings, grant, authorization_id) as access:
        now = SystemClock().now_us()
        return chargeback.chargeback(held, authorization_id, access, now_us=now, progress=progress)


def changed_model(
    held: Sequence[Log],
    progress: Progress,
    release: str,
    *,
    before: str | None,
    releases: Sequence[Path],
    trusted: Callable[[], TrustedKeys],
) -> Pack:
    """See :func:`sluice.application.reports.model_change.model_change`. releases: folders, or
    folders of them. trusted: is asked where there is one. Raises Misconfigured, Corrupt for a
    release that cannot be read."""

    def find(name: str) -> model_change.Folder | None:
        for folder in folders_with(MANIFEST, releases):
            raw = read_regular(folder / MANIFEST, RELEASE_FILE_MAX_BYTES)
            manifest = decode_manifest(raw, str(folder / MANIFEST))
            digest = hashlib.sha256(raw).hexdigest()
            if name in (manifest.id, digest):
                return _release(folder, raw, trusted())
        return None

    now = SystemClock().now_us()
    return model_change.model_change(held, release, before, find, now_us=now, progress=progress)


def _release(folder: Path, raw: bytes, trusted: TrustedKeys) -> model_change.Folder:
    files = {
        name: read_regular(folder / name, RELEASE_FILE_MAX_BYTES)
        for name in model_change.RELEASE_FILES
        if (folder / name).exists()
    }
    signer, why, gate_signer = "", "", ""
    try:
        signer = check_signature(raw, files.get(SIGNATURE, b""), trusted)
    except Corrupt as error:
        why = error.what
    gate = None
    if CERTIFICATE in files:
        try:
            gate, gate_signer = read_certificate(files[CERTIFICATE], trusted)
        except Corrupt:
            gate = unverified(files[CERTIFICATE])
    return model_change.Folder(
        manifest=decode_manifest(raw, str(folder / MANIFEST)),
        digest=hashlib.sha256(raw).hexdigest(),
        signer=signer,
        why=why,
        gate=gate,
        gate_signer=gate_signer,
        files=files,
    )


@contextmanager
def _access(settings: Settings, note: Path, authorization_id: str) -> Iterator[Access]:
    raw, given = granted(settings, note, authorization_id)
    with keystore(settings) as store:

        def open_sealed(found: Found) -> bytes:
            ((_, text),) = opened(iter([found]), authorization_id, raw, given, store)
            return text

        yield Access(given.who, given.case, open_sealed)


def _instead(
    archive: AnyPath,
    library: FolderLibrary,
    header: DecisionRecord,
    personal: Personal,
    warn: Callable[[str], None],
) -> customer.Instead:
    authorization_id = personal.authorization.authorization_id

    def nothing(why: str, detail: str = "") -> customer.Instead:
        warn(f"no counterfactual: {detail or why}")
        return customer.Instead((), why)

    if isinstance(archive, Path) and not archive.is_dir():
        return nothing(
            "The decision was not computed again: its archive was not at hand.",
            f"there is no archive at {archive}; --archive DIR",
        )
    try:
        again = verbs.replay_one(archive, library, authorization_id, flips=True)
    except Rejected as error:
        return nothing("The decision could not be computed again here.", str(error))
    if again is None:
        return nothing("The decision could not be computed again: its archive does not hold it.")
    (first, *_) = verbs.find_decisions(archive, authorization_id)
    same = _said(first.decision) == (
        personal.authorization,
        personal.features,
        header.emitter,
        header.sequence,
        header.body.decided_at,
        header.body.policy.id,
        header.body.model and header.body.model.release,
        header.body.score_ppm,
        header.body.outcome,
        header.body.reasons,
    )
    if again.result != "equal" or not same or again.counterfactual is None:
        return nothing(
            "The decision could not be computed again to the same bits, so nothing is said of what "
            "would have been.",
            f"the archive's record differs from the log's: sluice replay {authorization_id}",
        )
    return customer.Instead(again.counterfactual.flips or (), "")


def _said(d: Decision) -> tuple[object, ...]:
    """Of a record, what the log's record of it says too."""
    return (
        d.authorization,
        d.features,
        d.emitter,
        d.sequence,
        d.decided_at,
        d.policy,
        d.release,
        d.score_ppm,
        d.outcome,
        d.reasons,
    )


def quarter(held: Sequence[Log], progress: Progress, name: str, tenants: Sequence[str]) -> Pack:
    """See :func:`sluice.application.reports.psd2.psd2`."""
    return psd2(held, name, now_us=SystemClock().now_us(), tenants=tenants, progress=progress)
