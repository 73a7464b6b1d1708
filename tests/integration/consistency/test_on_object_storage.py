"""What verbs say of an archive is the same wherever it lies, and after its files were put
together."""

from __future__ import annotations

from pathlib import Path

import pytest

from sluice import cli
from sluice.adapters.storage import at, folder
from tests.integration.consistency import little
from tests.integration.consistency.little import traffic
from tests.integration.consistency.mixed import Mixed
from tests.support.s3_server import BUCKET, REGION, S3Server

pytestmark = pytest.mark.integration
N = 600
URL = f"s3://{BUCKET}/verbs"


def test_verbs_say_the_same_of_a_folder_and_of_a_bucket(
    s3: S3Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(little, "A_FILE", 20)
    mixed = Mixed(root=tmp_path)
    mixed.run_now(traffic(N))
    there = tmp_path / "archive"
    bucket = at(URL, s3.endpoint, REGION)
    mixed.archive(there)
    mixed.archive(bucket)
    made_by = ["--policies", str(mixed.policies), "--releases", str(mixed.releases)]
    made_by += ["--trust", str(mixed.trust)]

    def said(archive: str) -> list[str]:
        report = tmp_path / "report.json"
        pages = []
        for verb in (
            ["consistency", "--archive", archive, "--report", str(report)],
            ["replay", "--random", "100", "--archive", archive, *made_by],
            ["impact", "--archive", archive, "--policy", str(mixed.policies / "strict"),
             "--days", "365"],
        ):  # fmt: skip
            assert cli.main(verb) == 0, verb
            pages.append(capsys.readouterr().out)
        return [*pages, report.read_text()]

    expected = said(str(there))
    assert f"of {N} vectors" in expected[0]
    assert "100 of 100 are the same bits" in expected[1]
    assert said(URL) == expected
    before = len(list(folder(bucket).listed("decisions")))
    for _ in range(2):
        assert cli.main(["archive", "compact", "--archive", URL, "--keep-h", "0"]) == 0
    assert len(list(folder(bucket).listed("decisions"))) < before
    capsys.readouterr()
    assert said(URL) == expected
