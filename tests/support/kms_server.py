"""A real server of AWS KMS's protocol for tests: local-kms, built once from its Go module and kept.

``python3 -m tests.support.kms_server`` builds it: a quarter of a minute, 15 MB.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.debian import MissingError
from tests.support.go_server import GoProgram, GoServer

REGION = "eu-west-2"
ACCOUNT = "111122223333"
PROGRAM = GoProgram(
    Path(__file__).parent / "kms",
    Path("~/.cache/sluice-kms").expanduser(),
    "github.com/nsmithuk/local-kms",
)


class KmsServer(GoServer):
    """See :class:`GoServer`."""

    program = PROGRAM

    def environment(self) -> dict[str, str]:
        """Where it keeps its keys, and its port."""
        return {
            "PORT": str(self.port),
            "KMS_REGION": REGION,
            "KMS_ACCOUNT_ID": ACCOUNT,
            "KMS_DATA_PATH": str(self.folder / "keys"),
            "KMS_SEED_PATH": str(self.folder / "no-seed.yaml"),
        }

    def for_clients(self) -> dict[str, str]:
        """Variables by which AWS's clients find it."""
        return {
            "AWS_ENDPOINT_URL_KMS": self.endpoint,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "only-for-tests",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


if __name__ == "__main__":
    try:
        print(PROGRAM.built())
    except MissingError as missing:
        sys.exit(str(missing))
