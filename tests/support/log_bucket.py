"""The bucket of a compliance log's copy, as who verifies the copy finds it."""

from __future__ import annotations

from pathlib import Path

import boto3
from botocore.exceptions import ClientError

from tests.support.s3_server import REGION, S3Server


class LogBucket:
    """With Object Lock, at an S3 server that runs."""

    NAME = "compliance-logs"

    def __init__(self, server: S3Server) -> None:
        self.server = server
        self.s3 = boto3.client("s3", endpoint_url=server.endpoint, region_name=REGION)
        self.s3.create_bucket(Bucket=self.NAME, ObjectLockEnabledForBucket=True)

    def download(self, to: Path) -> Path:
        """As any client of S3 does. Returns the folder of the one log there."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.NAME)
        keys = [one["Key"] for page in pages for one in page.get("Contents", [])]
        for key in keys:
            path = to / key
            path.parent.mkdir(parents=True, exist_ok=True)
            self.s3.download_file(self.NAME, key, str(path))
        [checkpoint] = to.rglob("checkpoint")
        return checkpoint.parent

    def locked(self) -> bool:
        """Whether the newest checkpoint's object can be deleted by nobody."""
        found = self.s3.list_object_versions(Bucket=self.NAME)["Versions"]
        [newest] = [one for one in found if one["Key"].endswith("/checkpoint") and one["IsLatest"]]
        try:
            self.s3.delete_object(
                Bucket=self.NAME, Key=newest["Key"], VersionId=newest["VersionId"]
            )
        except ClientError as error:
            return bool(error.response["Error"]["Code"] == "AccessDenied")
        return False
