"""Object storage as a bank has it: a real S3 server on this machine, behind TLS of a CA of its own,
where pods reach it. Its credentials come to them by a Secret alone.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

from tests.cluster.chart import Installed
from tests.cluster.kube import Object
from tests.cluster.node import HOST
from tests.support.certificates import Authority
from tests.support.s3_server import BUCKET, CREDENTIALS, REGION, S3Server
from tests.support.tls_front import tls_front

SECRET, CA_SECRET = "object-storage", "object-storage-ca"


@dataclass(frozen=True)
class Objects:
    """endpoint: https, as this machine and pods reach it. ca: the certificate that it leads to.
    client: boto3's, of an administrator."""

    server: S3Server
    endpoint: str
    ca: Path
    client: Any

    def allow(self, sluice: Installed, secret_key: str = "") -> None:
        """Secrets that pods have. secret_key: another than the right one."""
        keys = CREDENTIALS | ({"AWS_SECRET_ACCESS_KEY": secret_key} if secret_key else {})
        sluice.kube.apply(
            _secret(sluice.namespace, SECRET, keys),
            _secret(sluice.namespace, CA_SECRET, {"ca.crt": self.ca.read_text()}),
        )

    def put(self, folder: Path, prefix: str) -> None:
        """Its files, as any client puts them."""
        for path in folder.iterdir():
            self.client.upload_file(str(path), BUCKET, f"{prefix}/{path.name}")

    def keys(self, prefix: str) -> list[str]:
        """Of all objects below it."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [one["Key"] for page in pages for one in page.get("Contents", [])]

    def get(self, key: str) -> bytes:
        """An object's bytes."""
        raw: bytes = self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return raw


@contextmanager
def objects(folder: Path) -> Iterator[Objects]:
    """With an empty bucket; started, and ended with the `with`."""
    authority = Authority(folder / "authority", "storage")
    pem = authority.issue("s3", hosts=(HOST,))
    with S3Server(folder / "s3") as server, tls_front(server.port, pem, host=HOST) as port:
        client = boto3.client("s3", endpoint_url=server.endpoint, region_name=REGION)
        client.create_bucket(Bucket=BUCKET)
        yield Objects(server, f"https://{HOST}:{port}", authority.ca, client)


def _secret(namespace: str, name: str, data: dict[str, str]) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "data": {key: b64encode(value.encode()).decode() for key, value in data.items()},
    }
