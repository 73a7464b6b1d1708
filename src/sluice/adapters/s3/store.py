"""A log's files in a bucket (the port LogStore), by boto3: S3, or what speaks it.

What a log never changes is written once (``If-None-Match: *``): an object that is there with other
bytes is no retry but another log. Each upload carries a checksum, as Object Lock asks for.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from sluice.application.append_log import CHECKPOINT, RUNBOOK, File
from sluice.audit.tiles import ENTRY_MAX_BYTES, WIDTH
from sluice.errors import Corrupt, Misconfigured, Unavailable

FILE_MAX_BYTES = WIDTH * (ENTRY_MAX_BYTES + 2)
UPLOADS_MAX = 8
"""At once. One takes some 30 ms, so a core's 20,000 entries a second, 160 objects, have room."""
AHEAD_MAX = 64
"""Files that are taken up before the first of them is written."""
CONNECT_MAX_S, ANSWER_MAX_S, TRIES_MAX = 5, 20, 3
CODE = "log_copy"
"""Of what is raised while the bucket does not take or give."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where. prefix: of the log's objects, "" or ending in a slash. endpoint: "" for AWS itself.

    retain_days: whole tiles, bundles and checkpoints are locked for so long (Object Lock,
    compliance mode: not even the account's owner deletes them); 0 leaves it to the bucket.
    """

    bucket: str
    prefix: str = ""
    endpoint: str = ""
    region: str = ""
    ca_file: str = ""
    retain_days: int = 0


class S3Store:
    """One log below one prefix. Credentials are where AWS's clients look for them."""

    def __init__(self, place: Place, *, now: Callable[[], datetime] | None = None) -> None:
        """Asks nobody yet. Raises Misconfigured."""
        self._place = place
        self._now = now or (lambda: datetime.now(UTC))
        try:
            self._s3 = boto3.session.Session().client(
                "s3",
                endpoint_url=place.endpoint or None,
                region_name=place.region or None,
                verify=place.ca_file or None,
                config=Config(
                    connect_timeout=CONNECT_MAX_S,
                    read_timeout=ANSWER_MAX_S,
                    retries={"total_max_attempts": TRIES_MAX, "mode": "standard"},
                    max_pool_connections=UPLOADS_MAX,
                    proxies={},
                    s3={"addressing_style": "path"} if place.endpoint else {},
                ),
            )
        except (BotoCoreError, ValueError) as exc:
            raise Misconfigured(f"no client for the bucket: {exc}", where=place.bucket) from exc

    def read(self, path: str) -> bytes:
        """See the port."""
        key = self._place.prefix + path
        try:
            found = self._s3.get_object(Bucket=self._place.bucket, Key=key)
            if found["ContentLength"] > FILE_MAX_BYTES:
                found["Body"].close()
                raise Corrupt("this is no file of a log", where=self._where(path))
            raw: bytes = found["Body"].read()
        except ClientError as exc:
            if _code(exc) in ("NoSuchKey", "404"):
                raise FileNotFoundError(self._where(path)) from exc
            raise self._unavailable(path, exc) from exc
        except (BotoCoreError, OSError) as exc:
            raise self._unavailable(path, exc) from exc
        return raw

    def write(self, files: Iterable[File]) -> None:
        """See the port. Raises Corrupt besides, for another file in the place of one that a log
        never changes."""
        left = iter(files)
        with ThreadPoolExecutor(UPLOADS_MAX, "s3") as pool:
            while chunk := list(itertools.islice(left, AHEAD_MAX)):
                for _ in pool.map(self._put, chunk):
                    pass

    def _put(self, file: File) -> None:
        path, raw = file
        final = path == CHECKPOINT or ".p/" not in path
        more: dict[str, Any] = {} if path == CHECKPOINT else {"IfNoneMatch": "*"}
        if final and self._place.retain_days:
            more["ObjectLockMode"] = "COMPLIANCE"
            until = self._now() + timedelta(days=self._place.retain_days)
            more["ObjectLockRetainUntilDate"] = until
        try:
            self._s3.put_object(
                Bucket=self._place.bucket,
                Key=self._place.prefix + path,
                Body=raw,
                ChecksumAlgorithm="SHA256",
                **more,
            )
        except ClientError as exc:
            if _code(exc) not in ("PreconditionFailed", "412"):
                raise self._unavailable(path, exc) from exc
            if self.read(path) != raw:
                raise Corrupt(
                    "the bucket holds another file in the place of one that a log never changes",
                    where=self._where(path),
                    fix=RUNBOOK,
                    code="copy_differs",
                ) from None
        except (BotoCoreError, OSError) as exc:
            raise self._unavailable(path, exc) from exc

    def _where(self, path: str) -> str:
        return f"s3://{self._place.bucket}/{self._place.prefix}{path}"

    def _unavailable(self, path: str, exc: Exception) -> Unavailable:
        return Unavailable(
            f"the bucket does not answer as it should: {exc}",
            where=self._where(path),
            fix=RUNBOOK,
            code=CODE,
        )


def _code(exc: ClientError) -> str:
    return str(exc.response.get("Error", {}).get("Code", ""))
