"""One program of many verbs: what it loads, what it says, and how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import sluice
from sluice.adapters.kafka.topics import PARTITIONS
from sluice.cli import DEVELOPERS, VERBS, docstring, main, verbs
from sluice.cli import sluice as group
from sluice.cli.text import paragraphs

ROOT = Path(__file__).resolve().parents[3]
HEAVY = ("numba", "pyarrow", "confluent_kafka", "hiredis", "onnxruntime", "feast", "rich")
PLUGIN = '''
"""Fail on demand."""
import sys
import click
from sluice.errors import Corrupt, Misconfigured

@click.command()
@click.argument("how")
def command(how):
    if how == "corrupt":
        raise Corrupt("it broke", where="here", fix="mend it")
    if how == "misconfigured":
        raise Misconfigured("set up wrong")
    if how == "extra":
        raise ModuleNotFoundError("No module named 'feast.x'", name="feast.x")
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "seven":
        return 7
    print("x" * 100_000)
'''


def commands() -> Iterator[tuple[list[str], click.Command]]:
    """Every verb and action: the words that name it, and the command."""
    with click.Context(group, info_name="sluice") as ctx:
        for name in group.list_commands(ctx):
            command = group.get_command(ctx, name)
            assert command is not None
            yield [name], command
            for action, one in getattr(command, "commands", {}).items():
                yield [name, action], one


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another package that adds the verb ``fail``."""
    about = tmp_path / "other-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[sluice.verbs]\nfail = other_verb\n")
    (tmp_path / "other_verb.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def loads(*argvs: list[str]) -> list[str]:
    """Which heavy packages a fresh process has loaded after these commands."""
    code = (
        "import sys\nfrom sluice.cli import main\n"
        f"assert [main(argv) for argv in {list(argvs)!r}] == [0] * {len(argvs)}\n"
        f"print('loaded', *[name for name in {HEAVY!r} if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return ran.stdout.splitlines()[-1].split()[1:]


def test_help_and_config_load_nothing_heavy() -> None:
    assert loads(["--help"], ["config"], ["config", "--json"]) == []


def test_no_verbs_help_needs_an_extra_or_numba() -> None:
    words = [w for w, _ in commands() if w[0] not in DEVELOPERS]
    assert ["simulate", "stream"] in words
    assert loads(*[[*w, "--help"] for w in words]) == []


def test_a_history_goes_to_the_archive_without_kafka_or_a_store(tmp_path: Path) -> None:
    made, archive = (str(tmp_path / name) for name in ("made", "archive"))
    loaded = loads(
        ["simulate", "history", "--out", made, "--start", "2026-01-01", "--days", "1", "--cards",
         "100"],
        ["backfill", f"{made}/authorizations.parquet", "--labels", f"{made}/labels.parquet",
         "--archive", archive, "--no-store", "--threads", "1"],
    )  # fmt: skip
    assert "pyarrow" in loaded
    assert not {"confluent_kafka", "hiredis"} & set(loaded)


@pytest.mark.parametrize("words", [w for w, _ in commands()], ids=" ".join)
def test_help_fits_80_columns_and_keeps_its_examples(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    if len(words) == 1:
        examples = [p for p in paragraphs(docstring(verbs()[words[0]])) if p.startswith(" ")]
        assert words[0] in ("config", *DEVELOPERS) or examples
        said = "\n".join(line.removeprefix("  ") for line in lines)
        assert all(example in said for example in examples)


def test_without_a_verb_it_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in VERBS)
    assert said.index("simulate") < said.index("For developers of Sluice") < said.index("contracts")


def test_the_version_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"sluice {sluice.__version__}\n"
    for folder in ("simulator", "models", "benchmarks", "local/kafka", "local/tools"):
        project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
        assert project["version"] == sluice.__version__, folder


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["confg"], "No such command 'confg'"),
        (["config", "--yaml"], "No such option"),
        (["explain"], "Missing argument 'AUTHORIZATION_ID'"),
        (["release"], "keygen"),
        (
            ["dead-letters", "list", "--since", "soon"],
            "soon is no time: write 2026-10-16T00:00:00Z",
        ),
        (["publish", "f.csv", "--mapping", "m", "--rate", "0"], "--rate"),
        (["simulate", "stream", "--duration", "1"], "one of --rate and --speed"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_64_and_named(
    argv: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 64
    said = capsys.readouterr()
    assert says in said.err
    assert said.out == ""


@pytest.mark.parametrize(
    ("how", "status", "says"),
    [
        ("corrupt", 1, "sluice fail: it broke; at here; fix: mend it\n"),
        ("misconfigured", 78, "sluice fail: set up wrong\n"),
        (
            "extra",
            78,
            "sluice fail: feast.x is not installed; fix: install sluice[feast]; "
            "in a checkout: make setup\n",
        ),
        ("interrupt", 130, "\n"),
        ("seven", 7, ""),
    ],
)
def test_a_verb_of_another_package_ends_as_ours_do(
    plugin: Path, how: str, status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fail", how]) == status
    assert capsys.readouterr().err == says
    main(["--help"])
    assert "fail          Fail on demand." in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["train"], ["train", "--dataset", "d"], ["train", "--help"]])
def test_a_verb_of_another_environment_says_where_it_is_to_be_had(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 78
    assert capsys.readouterr().err == (
        "sluice train: this verb is of sluice-models, which is not installed here; fix: install "
        "it; in a checkout: make models/.venv/.done, then models/.venv/bin/sluice train\n"
    )


def test_an_unknown_setting_is_78(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLUICE_DECIDER_NOSUCH", "1")
    assert main(["config"]) == 78
    assert "sluice config: " in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["fail", "print"], ["config"]], ids=" ".join)
def test_a_reader_that_leaves_is_no_failure(plugin: Path, argv: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    code = f"import sys; from sluice.cli import main; sys.exit(main({argv!r}))"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        stdout=writing,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(plugin)},
        check=False,
    )
    os.close(writing)
    assert (ran.returncode, ran.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("sluice st", {"states"}),
        ("sluice ", verbs().keys() - DEVELOPERS),
        ("sluice states ", {"rebuild"}),
        ("sluice states rebuild --a", {"--archive", "--accept-gaps"}),
    ],
)
def test_the_shell_completes_verbs_actions_and_options(words: str, found: set[str]) -> None:
    asked = {
        "_SLUICE_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    ran = subprocess.run(
        [Path(sys.executable).with_name("sluice")],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        check=True,
    )
    assert {line.partition(",")[2] for line in ran.stdout.splitlines()} == found


def test_the_help_of_topics_knows_how_many_partitions_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["topics", "apply", "--help"])
    assert f"where new: {PARTITIONS}" in capsys.readouterr().out


def test_every_option_is_in_the_reference() -> None:
    page = (ROOT / "docs/reference/verbs.md").read_text()
    for words, command in commands():
        if words[0] in VERBS:
            heading = " ".join(["sluice", *words])
            assert f"`{heading} [OPTIONS]" in page or hasattr(command, "commands"), heading
            for parameter in command.params:
                assert all(name in page for name in parameter.opts if name.startswith("--"))
