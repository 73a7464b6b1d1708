"""What an auditor does beside its log: it asks witnesses, copies to a bucket, has time stamped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from sluice import telemetry
from sluice.adapters import tls
from sluice.adapters.regular_files import read_regular
from sluice.adapters.tiles.folder import LogFolder
from sluice.adapters.witness.client import WitnessClient
from sluice.application.append_log import LogStore
from sluice.application.copy_log import LogCopy
from sluice.application.cosigners import Cosigners
from sluice.application.log_keys import Line
from sluice.application.sign_release import read_private_key
from sluice.application.time_stamp import CheckpointStamps
from sluice.audit.notes import LOG, WITNESS, Key
from sluice.bootstrap.witness import KEYS_MAX_BYTES, keys_of_file
from sluice.errors import Misconfigured
from sluice.settings import Settings

STAMP_EVERY_S = 3600


class Task(NamedTuple):
    """Something to do again and again."""

    name: str
    every_s: float
    work: Callable[[], None]


def cosigners(settings: Settings) -> Cosigners:
    """The witnesses that the auditor asks; none without a file. Raises Misconfigured."""
    files = tls.Files("auditor", settings.auditor.ca_file)
    return Cosigners(
        [WitnessClient(line.key, line.rest, files) for line in witnesses(settings)],
        count=telemetry.METRICS.count,
    )


def witnesses(settings: Settings) -> list[Line]:
    """Keys and addresses of the witnesses. Raises Misconfigured."""
    path = settings.auditor.witnesses_file
    return keys_of_file(path, WITNESS) if path else []


def retired(settings: Settings) -> list[Key]:
    """Keys that the log had before. Raises Misconfigured."""
    path = settings.auditor.retired_keys_file
    return [line.key for line in keys_of_file(path, LOG)] if path else []


def tasks(settings: Settings, origin: str) -> list[Task]:
    """Of the log with this name: those that are set up. Raises Misconfigured."""
    given = settings.auditor
    key = Key(origin, LOG, read_private_key(Path(given.key_file)).public_key())
    folder = LogFolder(Path(given.root) / str(given.shard))
    stores: list[LogStore] = [folder]
    found = []
    if given.copy_bucket:
        bucket = _bucket(settings, origin)
        stores.append(bucket)
        copies = _Copies(LogCopy(folder, bucket, key, retired(settings)))
        found.append(Task("copy_log", given.copy_every_s, copies))
    if given.time_stamp_url:
        found.append(Task("time_stamp", STAMP_EVERY_S, _stamps(settings, stores, key)))
    return found


class _Copies:
    def __init__(self, copy: LogCopy) -> None:
        self._copy = copy

    def __call__(self) -> None:
        telemetry.METRICS.set("sluice_auditor_copied_size", self._copy.once().size)


def _bucket(settings: Settings, origin: str) -> LogStore:
    from sluice.adapters.s3.store import Place, S3Store  # noqa: PLC0415 - an extra, 40 MB

    given = settings.auditor
    return S3Store(
        Place(
            given.copy_bucket,
            f"{given.copy_prefix}{origin}/",
            given.copy_endpoint,
            given.copy_region,
            given.ca_file,
            given.copy_retain_days,
        )
    )


def _stamps(settings: Settings, stores: list[LogStore], key: Key) -> Callable[[], None]:
    from sluice.adapters.timestamps.authority import Authority  # noqa: PLC0415 - an extra

    given = settings.auditor
    if not given.time_stamp_roots_file:
        raise Misconfigured(
            "a time stamp is taken from an authority whose certificates are known",
            where="auditor.time_stamp_roots_file",
            fix="the authority's root certificate, PEM",
        )
    roots = read_regular(Path(given.time_stamp_roots_file), KEYS_MAX_BYTES)
    files = tls.Files("auditor", given.ca_file)
    authority = Authority(given.time_stamp_url, roots, given.time_stamp_roots_file, files)
    stamps = CheckpointStamps(stores, authority, key)

    def work() -> None:
        at_us = stamps.once()
        if at_us is not None:
            telemetry.METRICS.set("sluice_auditor_time_stamp_timestamp_seconds", at_us / 1e6)

    return work
