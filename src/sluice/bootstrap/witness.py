"""The parts of a witness."""

from __future__ import annotations

from pathlib import Path

from sluice import telemetry
from sluice.adapters.regular_files import read_regular
from sluice.adapters.witness.remembered import RememberedFiles
from sluice.application.cosign import Witness
from sluice.application.log_keys import Line, parse_keys
from sluice.application.sign_release import read_private_key
from sluice.audit.notes import LOG
from sluice.domain.clock import SystemClock
from sluice.errors import Misconfigured
from sluice.settings import Settings

KEYS_MAX_BYTES = 1 << 20


def witness(settings: Settings) -> Witness:
    """With its key, its logs and what it remembers. Raises Misconfigured, Corrupt, Unavailable."""
    given = settings.witness
    for key in ("name", "key_file", "logs_file", "state_dir"):
        if not getattr(given, key):
            raise Misconfigured(
                "the witness needs it", where=f"witness.{key}", fix="services/witness/README.md"
            )
    private = read_private_key(Path(given.key_file))
    logs = [line.key for line in keys_of_file(given.logs_file, LOG)]
    return Witness(
        given.name,
        private,
        logs,
        RememberedFiles(Path(given.state_dir)),
        SystemClock(),
        telemetry.METRICS.count,
    )


def keys_of_file(path: str, kind: int) -> list[Line]:
    """The keys of one kind in a file, as :func:`parse_keys`. Raises Misconfigured."""
    try:
        text = read_regular(Path(path), KEYS_MAX_BYTES).decode()
    except UnicodeDecodeError as exc:
        raise Misconfigured("not a file of keys: it is not UTF-8", where=path) from exc
    return parse_keys(text, kind, path)
