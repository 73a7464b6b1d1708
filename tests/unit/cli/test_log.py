"""``sluice log``: what it says of a log that is whole, and how it is asked wrongly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sluice.cli import main
from tests.support import logs

COUNT = 600
KEY = str(logs.KEY)
WITNESS = str(logs.SEEN_BY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log that a witness cosigned."""
    made = tmp_path_factory.mktemp("log")
    logs.write_log(made, logs.entries(COUNT), cosigned_s=logs.START_US // 1_000_000 + 60)
    return made


def saved(path: Path, raw: bytes) -> str:
    path.write_bytes(raw)
    return str(path)


def test_a_whole_log_holds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["log", "verify", str(folder), "--key", KEY, "--witness", WITNESS]
    assert main([*argv, "--require-witness", "1", "--accounting", "--offline", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    (one,) = said["logs"]
    assert (one["verdict"], one["size"], one["checked"]) == ("ok", COUNT, COUNT)
    assert one["cosigned"] == {logs.WITNESS_NAME: logs.START_US // 1_000_000 + 60}
    assert one["types"] == {"label": COUNT}
    assert said["missing"] == []
    assert said["partitions"] == [
        {
            "topic": "labels.v1", "partition": 0, "first": 0, "until": COUNT,
            "records": {"label": COUNT}, "gaps": {}, "missing": 0, "hidden": 0, "unproved": 0,
        }
    ]  # fmt: skip
    assert main(argv) == 0
    assert f"checked    {COUNT} of {COUNT} entries" in capsys.readouterr().out


def test_only_what_came_after_a_checkpoint_is_read(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logs.tree_files(logs.entries(300))[1]
    since = saved(tmp_path / "since", logs.signed(300, root))
    assert main(["log", "verify", str(folder), "--key", KEY, "--since", since, "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["logs"]
    assert (one["since"], one["checked"], one["size"]) == (300, COUNT - 300, COUNT)


def test_a_proof_of_a_record_stands_alone(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "one.tlog-proof"
    assert main(["log", "prove", str(folder), "authorization-417", "--key", KEY,
                 "--out", str(out)]) == 0  # fmt: skip
    assert "entry 417: label (proven)" in capsys.readouterr().err
    argv = ["log", "verify-proof", str(out), "--key", KEY, "--witness", WITNESS]
    assert main([*argv, "--require-witness", "1", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["index"], said["size"]) == (417, COUNT)
    assert said["record"]["authorization_id"] == "authorization-417"
    assert main(argv) == 0
    assert "entry 417 of" in capsys.readouterr().out
    assert main(["log", "prove", str(folder), "--index", "417", "--key", KEY]) == 0
    assert capsys.readouterr().out == out.read_text()


def test_what_the_log_does_not_hold_has_no_proof(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for which in (["authorization-9999"], ["--index", str(COUNT)]):
        assert main(["log", "prove", str(folder), *which, "--key", KEY]) == 3
        assert "Traceback" not in capsys.readouterr().err


def test_what_came_between_two_checkpoints_is_counted(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = saved(tmp_path / "old", logs.signed(300, logs.tree_files(logs.entries(300))[1]))
    new = str(folder / "checkpoint")
    assert main(["log", "diff", new, old, "--log", str(folder), "--key", KEY, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "log": logs.ORIGIN, "since": 300, "size": COUNT, "types": {"label": COUNT - 300}
    }  # fmt: skip
    assert main(["log", "diff", old, new, "--key", KEY]) == 3, "no tiles, no verdict"
    assert main(["log", "diff", new, new, "--key", KEY]) == 0


def test_the_newest_records_and_the_counts(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["log", "tail", str(folder), "-n", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["598", "599"]
    assert main(["log", "stats", str(folder), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["entries"] == COUNT == said["types"]["label"] == said["emitters"]["labeller-1"]
    assert said["bytes"] == sum(map(len, logs.entries(COUNT)))
    assert main(["log", "stats", str(folder)]) == 0
    assert "labeller-1" in capsys.readouterr().out


def test_wrong_usage_is_64(folder: Path, tmp_path: Path) -> None:
    checkpoint = str(folder / "checkpoint")
    for argv in (
        ["verify", str(folder)],
        ["verify", str(folder), "--key", "nonsense"],
        ["verify", str(folder), "--key", KEY + "A"],
        ["verify", str(folder), "--key", WITNESS],
        ["verify", str(folder), "--key", KEY, "--witness", KEY],
        ["verify", str(folder), "--key", KEY, "--require-witness", "1"],
        ["verify", str(folder), str(folder), "--key", KEY],
        ["verify", str(folder), "--key", KEY, "--since", str(tmp_path / "none")],
        ["prove", str(folder), "--key", KEY],
        ["prove", str(folder), "an-id", "--index", "1", "--key", KEY],
        ["diff", checkpoint, str(tmp_path / "none"), "--key", KEY],
    ):
        assert main(["log", *argv]) == 64, argv


def test_what_is_not_there_cannot_be_verified(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["log", "verify", str(tmp_path / "none"), "--key", KEY]) == 3
    assert "nothing says what the log should be" in capsys.readouterr().out
    for verb in (["tail"], ["stats"]):
        assert main(["log", *verb, str(tmp_path)]) == 3
    assert main(["log", "verify-proof", str(tmp_path / "none"), "--key", KEY]) == 3
    other = saved(tmp_path / "other", logs.signed(3, bytes(32), origin="other.example/eu/0"))
    assert main(["log", "verify", str(folder), "--key", KEY, "--known", other]) == 3
