"""A real S3 server for tests: VersityGW over a folder, built once from its Go module and kept.

``python3 -m tests.support.s3_server`` builds it: two minutes on two idle cores, and 340 MB of
modules; what is kept takes 40 MB.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

from tests.support.debian import MissingError
from tests.support.go_server import GoProgram, GoServer

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "only-for-tests"}
REGION = "us-east-1"
BUCKET = "archives"
OPERATION = re.compile(r" s3_(\w+) ")
"""In a line of its access log."""
PROGRAM = GoProgram(Path(__file__).parent / "s3", Path("~/.cache/sluice-s3").expanduser())


class S3Server(GoServer):
    """See :class:`GoServer`."""

    program = PROGRAM

    def requests(self) -> Counter[str]:
        """How many it has answered, by S3's names: ``ListObjectsV2``, ``PutObject``."""
        log = self.folder / "requests"
        return Counter(OPERATION.findall(log.read_text())) if log.exists() else Counter()

    def arguments(self) -> list[str]:
        """Where it keeps what it takes, and its port."""
        return [str(self.folder), str(self.port)]

    def environment(self) -> dict[str, str]:
        """Whom it lets in."""
        return CREDENTIALS


if __name__ == "__main__":
    try:
        print(PROGRAM.built())
    except MissingError as missing:
        sys.exit(str(missing))
